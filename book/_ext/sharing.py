"""A Sphinx extension: what a shared link shows, and what a page says of itself: version, date, how to cite, the PDF.

One setting makes the addresses that search engines and previews of links want: the repository's, in ``_config.yml``.
"""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

PDF = "knowledge-in-superposition.pdf"
PAGE = "book/index"  # where the way to cite stands
ANCHOR = "cite"


def site_address(repository: str) -> str:
    """Where GitHub shows the pages of a repository with this address; nothing for another host, or none."""
    parts = urlsplit(repository)
    names = parts.path.strip("/").removesuffix(".git").split("/")
    if parts.netloc != "github.com" or len(names) != 2:
        return ""
    owner, name = names
    pages = f"{owner.lower()}.github.io"
    return f"https://{pages}/" if name.lower() == pages else f"https://{pages}/{name}/"


def citation(folder: Path) -> dict[str, str]:
    """Title, version and date, as ``CITATION.cff`` has them."""
    held = yaml.safe_load((folder / "CITATION.cff").read_text(encoding="utf-8"))
    date = datetime.date.fromisoformat(str(held["date-released"]))
    return {"title": held["title"], "version": str(held["version"]), "date": f"{date.day} {date:%B %Y}"}


def current_pdf(folder: Path, sources: list[Path]) -> Path | None:
    """The book as ``make pdf`` printed it beside the folder of the pages, if no source is newer than it."""
    path = folder.parent / PDF
    newest = max((source.stat().st_mtime for source in sources), default=0)
    return path if path.is_file() and path.stat().st_mtime >= newest else None


def _addresses(app: Any, config: Any) -> None:
    """Before any page: what follows from the settings."""
    repository = config.html_theme_options.get("repository_url") or ""
    config.html_baseurl = config.html_baseurl or site_address(repository)
    config.ogp_site_url = config.html_baseurl
    config.ogp_image = "_static/card.png" if config.html_baseurl else ""  # a preview wants a whole address
    config.ogp_custom_meta_tags = ['<meta name="twitter:card" content="summary_large_image">'] * bool(config.ogp_image)


def _tell_of_itself(app: Any, page: str, _template: str, context: dict[str, Any], _tree: Any) -> None:
    if app.builder.format != "html":
        return
    said = app.citation
    cite = f"{app.builder.get_relative_uri(page, PAGE)}#{ANCHOR}"
    parts = [f"Version {said['version']} of {said['date']}", f'<a href="{cite}">How to cite</a>']
    if app.config.book_pdf:
        parts.append(f'<a href="{context["pathto"](PDF, 1)}">The whole book as a PDF</a>')
    own = context.get("theme_extra_footer", "")
    context["theme_extra_footer"] = f'<p class="about">{" · ".join(parts)}</p><p>{own}</p>'


def _find(app: Any) -> None:
    app.citation = citation(Path(app.confdir))
    sources = [Path(app.srcdir, name) for name in app.project.discover(app.config.exclude_patterns)]
    app.config.book_pdf = ""


def _copy(app: Any, exception: Exception | None) -> None:
    if exception is None and app.config.book_pdf:
        shutil.copyfile(app.config.book_pdf, Path(app.outdir, PDF))


def setup(app: Any) -> dict[str, Any]:
    """What Sphinx calls."""
    app.add_config_value("book_pdf", "", "html")  # a change writes all pages anew
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
