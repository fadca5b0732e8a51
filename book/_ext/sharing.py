"""A Sphinx extension: what a shared link shows, and what a page says of itself: version, date, how to cite, the PDF.

One setting makes the addresses that search engines and previews of links want: the repository's, in ``_config.yml``.
"""

from __future__ import annotations

import datetime
import html
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from docutils import nodes

PDF = "knowledge-in-superposition.pdf"
CARD = "_static/card.png"  # drawn by pictures.py
PAGES = (".ipynb", ".md", ".bib")
WAY_TO_CITE = ("book/index", "#cite")


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
    """Version and date, as ``CITATION.cff`` has them."""
    held = yaml.safe_load((folder / "CITATION.cff").read_text(encoding="utf-8"))
    date = datetime.date.fromisoformat(str(held["date-released"]))
    return {"version": str(held["version"]), "date": f"{date.day} {date:%B %Y}"}


#: Characters of a description that previews and search engines show.
SHOWN = 200
_CITED = re.compile(r"\s*[\[(]\s*[^\])]*\b\d{4}\s*[\])]")
_SENTENCE = re.compile(r".+?(?<! al)[.?!](?= )")


def _sentences(node: nodes.Element) -> list[str]:
    """The whole sentences of a text, without citations, and without those that hold a formula."""
    pieces = (
        "\0" if isinstance(part, nodes.math) else part.astext()
        for part in node.findall(lambda part: isinstance(part, (nodes.Text, nodes.math)))
        if not isinstance(part.parent, nodes.math)
    )
    text = _CITED.sub("", " ".join("".join(pieces).split())).replace("..", ".") + " "
    return [sentence.strip() for sentence in _SENTENCE.findall(text) if "\0" not in sentence]


def description(doctree: nodes.document) -> str:
    """What a page begins with: its first paragraph if previews show so much, else its question, else what is shown."""
    for paragraph in doctree.findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.section) and (said := _sentences(paragraph)):
            question = next(paragraph.findall(nodes.strong), None)
            if len(" ".join(said)) > SHOWN and question is not None:
                said = _sentences(question) or said
            while len(said) > 1 and len(" ".join(said)) > SHOWN:
                said.pop()
            return " ".join(said)
    return ""


def current_pdf(folder: Path, sources: list[Path]) -> Path | None:
    """The book as ``make pdf`` printed it beside the folder of the pages, if no source is newer than it."""
    path = folder.parent / PDF
    newest = max((source.stat().st_mtime for source in sources), default=0)
    return path if path.is_file() and path.stat().st_mtime >= newest else None


def _settle(app: Any, config: Any) -> None:
    """What follows from the settings, before any page."""
    address = config.html_baseurl or site_address(config.html_theme_options.get("repository_url") or "")
    config.html_baseurl = config.ogp_site_url = address
    if address:  # else there is no whole address of a picture, and nothing to list
        config.ogp_image = CARD
        config.ogp_custom_meta_tags = ['<meta name="twitter:card" content="summary_large_image"/>']
        config.sitemap_url_scheme = "{link}"
        app.setup_extension("sphinx_sitemap")
    config.book_citation = citation(Path(app.confdir))
    sources = [path for path in Path(app.srcdir, "book").iterdir() if path.suffix in PAGES]
    config.book_pdf = str(current_pdf(Path(app.outdir), sources) or "")


def _describe(app: Any, _page: str, _template: str, context: dict[str, Any], doctree: Any) -> None:
    if doctree and (said := description(doctree)):
        context["meta"] = (context.get("meta") or {}) | {"og:description": said}
        context["metatags"] += f'<meta name="description" content="{html.escape(said)}"/>\n'


def _forget_address(app: Any, _page: str, _template: str, context: dict[str, Any], _tree: Any) -> None:
    if not app.config.html_baseurl:
        context["metatags"] = re.sub(r'<meta property="og:url"[^>]*>\s*', "", context.get("metatags", ""))


def _tell(app: Any, page: str, _template: str, context: dict[str, Any], _tree: Any) -> None:
    held = app.config.book_citation
    cite = app.builder.get_relative_uri(page, WAY_TO_CITE[0]) + WAY_TO_CITE[1]
    parts = [f"Version {held['version']} of {held['date']}", f'<a href="{cite}">How to cite it</a>']
    if app.config.book_pdf:
        size = Path(app.config.book_pdf).stat().st_size
        parts.append(f'<a href="{context["pathto"](PDF, 1)}">The whole book as a PDF</a> ({size / 1e6:.0f} MB)')
    own = context.get("theme_extra_footer", "")
    context["theme_extra_footer"] = f"<p>{' · '.join(parts)}</p><p>{own}</p>"


def _copy_pdf(app: Any, exception: Exception | None) -> None:
    if exception is None and app.builder.name == "html":
        place = Path(app.outdir, PDF)
        place.unlink(missing_ok=True)
        if app.config.book_pdf:
            shutil.copyfile(app.config.book_pdf, place)


_SHARED = re.compile(r'<meta (?:property="og:|name="(?:description|twitter:))[^>]*>|<link rel="canonical"[^>]*>')


def _write_root(app: Any, exception: Exception | None) -> None:
    """The page of the bare address, which only leads on, says what the first page says."""
    root, first = Path(app.outdir, "index.html"), Path(app.outdir, f"{WAY_TO_CITE[0]}.html")
    if exception is None and app.builder.name == "html" and first.is_file():
        tags = "\n".join(_SHARED.findall(first.read_text(encoding="utf-8")))
        title, address = (
            html.escape(app.config.html_title or app.config.project),
            first.relative_to(root.parent).as_posix(),
        )
        root.write_text(
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n<title>{title}</title>\n'
            f'<meta http-equiv="refresh" content="0; url={address}"/>\n<link rel="icon" href="_static/favicon.svg"/>\n'
            f'{tags}\n</head>\n<body><p><a href="{address}">{title}</a></p></body>\n</html>\n',
            encoding="utf-8",
        )


def setup(app: Any) -> dict[str, Any]:
    """What Sphinx calls."""
    app.setup_extension("sphinxext.opengraph")
    app.add_config_value("book_citation", {}, "html")  # a change writes all pages anew
    app.add_config_value("book_pdf", "", "html")
    app.connect("config-inited", _settle)
    app.connect("html-page-context", _tell)
    app.connect("html-page-context", _describe, priority=400)  # before the extension's own, which is at 500
    app.connect("html-page-context", _forget_address, priority=600)
    app.connect("build-finished", _copy_pdf)
    app.connect("build-finished", _write_root, priority=900)  # after what writes an empty one
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
