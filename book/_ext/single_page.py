"""The whole book on one page, and that page as a PDF, from the built HTML::

    python -m single_page --html _build/html --out _build/knowledge-in-superposition.pdf

Sphinx's own builder for a single page cannot write this book's cards and folds, so the pages it has built are joined.
The explorer's map, which only a screen can show, is left out, and so is the code that pages keep folded: it prepares
the numbers of the prose and the figures, and stands in the notebooks. Solutions are open.
"""

from __future__ import annotations

import argparse
import os
import posixpath
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from superposition.errors import UserError
from superposition.io import files

#: The page's name, beside the folder of pages, so that it finds the same style sheets and pictures.
SINGLE = "single.html"

#: Programs looked for, in order, unless the environment's SUPERPOSITION_BROWSER names one.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

_LEFT_OUT = ".headerlink, script, link, details.hide"


@contextmanager
def browser() -> Iterator[Any]:
    """A Chromium without a window, as playwright's browser, closed at the end.

    Raises
    ------
    UserError
        There is none, or playwright is not installed.
    """
    program = os.environ.get("SUPERPOSITION_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise UserError(
            f"Chromium is missing: install one of {', '.join(BROWSERS)}, or name yours by SUPERPOSITION_BROWSER."
        )
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise UserError("Playwright is missing: `make pdf` installs it, or pip install playwright.") from error

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=list(_OPTIONS))
        try:
            yield started
        finally:
            started.close()


def contents(html: Path) -> list[tuple[str | None, list[str]]]:
    """Parts of the book in order: a part's title (None for what comes before the first), and its pages' paths.

    Raises
    ------
    UserError
        The folder holds no built book.
    """
    start = html / "book" / "index.html"
    if not start.is_file():
        raise UserError(f"{html} holds no built book: run `make book` first, or name the folder with --html.")
    found: list[tuple[str | None, list[str]]] = [(None, [])]
    for tag in _soup(start).select("nav.bd-links p.caption, nav.bd-links a.reference.internal"):
        if tag.name == "p":
            found.append((tag.get_text(strip=True), []))
        else:
            path = posixpath.normpath(posixpath.join("book", urlsplit(tag["href"]).path or "index.html"))
            found[-1][1].append(path)
    return found


def single_page(html: Path) -> Path:
    """Join the pages of a built book into one, ``single.html`` in the same folder.

    Identifiers get their page's name before them, links between pages become links within the page, links to files
    become plain text, and headings go down by one level, below those of the parts.

    Parameters
    ----------
    html : path
        The built book, ``_build/html``.

    Returns
    -------
    path
        The file written.

    Raises
    ------
    UserError
        The folder holds no built book.
    """
    parts = contents(html)
    pages = [page for _, listed in parts for page in listed]
    body, listing, head = [], [], ""
    for title, listed in parts:
        if title:
            body.append(f'<h1 class="part">{title}</h1>')
            listing.append(f"<li><b>{title}</b><ul>")
        for page in listed:
            soup = _soup(html / page)
            head = _head(soup, page) if not head and "mathjax/startup.js" in str(soup.head) else head
            article = _article(soup, page, pages)
            name = article.find("h2")
            listing.append(f'<li><a href="#{_stem(page)}">{name.decode_contents()}</a></li>')
            body.append(f'<section class="page" id="{_stem(page)}">{article.decode_contents()}</section>')
        if title:
            listing.append("</ul></li>")
    out = html / SINGLE
    text = (
        f'<!DOCTYPE html>\n<html lang="en" data-theme="light" data-mode="light">\n<head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Knowledge in Superposition</title>\n{head}\n"
        f"<style>\n{_STYLE}</style>\n</head>\n"
        f'<body class="edition"><main class="bd-content"><article class="bd-article">\n'
        f"{_TITLE}\n"
        f'<nav aria-label="Contents"><h1>Contents</h1><ul>{"".join(listing)}</ul></nav>\n'
        + "\n".join(body)
        + "\n</article></main></body></html>\n"
    )
    files.write_whole(out, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return out


def pdf(page: Path, out: Path) -> None:
    """Print a page as a PDF of A4 with bookmarks, page numbers and tags for assistive software.

    Raises
    ------
    UserError
        There is no Chromium, or a formula or a picture of the page did not come out.
    """
    with browser() as started:
        tab = started.new_context(offline=True, color_scheme="light").new_page()
        tab.set_default_timeout(600_000)
        tab.goto(page.resolve().as_uri(), wait_until="load")
        tab.evaluate("window.MathJax?.startup?.promise")
        if wrong := tab.evaluate(_WRONG):
            raise UserError(f"{page} did not come out whole: {'; '.join(wrong[:3])}. Build the book again.")
        files.write_whole(out, lambda temporary: temporary.write_bytes(tab.pdf(**_PAPER)))


_PAPER = {
    "format": "A4",
    "print_background": True,
    "display_header_footer": True,
    "header_template": "<span></span>",
    "footer_template": '<div style="width: 100%; text-align: center; font: 8pt sans-serif; color: #555">'
    '<span class="pageNumber"></span></div>',
    "margin": {"top": "18mm", "bottom": "20mm", "left": "19mm", "right": "19mm"},
    "outline": True,
    "tagged": True,
}
_TITLE = (
    '<header><img src="_static/logo.svg" alt="Five features in two dimensions: a star of five rays">'
    "<h1>Knowledge in Superposition</h1>"
    "<p>Why editing facts inside a language model, again and again, ends in ruin, "
    "and how to see it coming.</p><p>The executable book on paper. The code that its pages keep folded, which prepares "
    "numbers and figures, stands in the notebooks.</p>"
    "<p>The text, figures and data are under CC BY 4.0, the code under the MIT licence.</p></header>"
)
_STYLE = """\
body.edition { background: #fff; }
.edition main.bd-content { display: block; width: 100%; max-width: 46rem; margin: 0 auto; padding: 0 1rem; }
.edition article.bd-article { padding: 0; }
.edition header { margin: 4rem 0; }
.edition header img { width: 6rem; }
.edition nav ul { list-style: none; padding-left: 1rem; }
.edition nav > ul > li { margin: 0.4rem 0; }
.edition h1 { font-size: 2rem; }
.edition h1.part { margin-top: 3rem; border-bottom: 2px solid currentcolor; }
.edition h2 { font-size: 1.5rem; }
.edition h3 { font-size: 1.2rem; margin-top: 1.6rem; }
.edition h4 { font-size: 1.05rem; margin-top: 1.2rem; }
.edition figcaption *, .edition table caption * { font-size: 0.9rem; }

@media print {
  .edition main.bd-content { max-width: none; padding: 0; }
  .edition article.bd-article { font-size: 9.5pt; line-height: 1.4; }
  .edition header { margin-top: 7cm; }
  .edition nav, .edition h1.part, .edition section.page { break-before: page; }
  .edition h1.part + section.page { break-before: avoid; }
  .edition h1, .edition h2, .edition h3, .edition h4, .edition table caption { break-after: avoid; }
  .edition p { orphans: 3; widows: 3; }
  .edition div.math mjx-container { font-size: 104% !important; }
  .edition dl.py { margin-bottom: 0.5rem; }
  .edition .admonition, .edition div.cell, .edition figure { margin-block: 0.7em !important; }
  .edition .pst-scrollable-table-container, .edition mjx-container, .edition div.math { overflow: visible !important; }
  .edition table { font-size: 8pt; break-inside: auto; }
  .edition figcaption *, .edition table caption * { font-size: 8.5pt; }
  .edition tr { break-inside: avoid; }
  .edition thead { display: table-header-group; }
  .edition div.highlight pre { font-size: 7.6pt; line-height: 1.3; white-space: pre-wrap; overflow-wrap: anywhere; }
  .edition .cell_input { break-inside: auto; }
  .edition img { max-height: 20cm; object-fit: contain; }
}
"""
_WRONG = """() => [
  ...[...document.querySelectorAll("mjx-merror, [data-mjx-error]")].map(e => `formula ${e.textContent.slice(0, 60)}`),
  ...[...document.querySelectorAll(".math")].filter(e => !e.querySelector("mjx-container"))
    .map(e => `formula ${e.textContent.slice(0, 60)}`),
  ...[...document.images].filter(e => !e.naturalWidth).map(e => `picture ${e.getAttribute("src").slice(0, 60)}`)]"""


def _soup(path: Path) -> Any:
    from bs4 import BeautifulSoup

    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def _stem(page: str) -> str:
    return Path(page).stem


def _there(page: str, address: str) -> tuple[str, str]:
    """Path below the book's folder and fragment of what a page's address leads to."""
    parsed = urlsplit(address)
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(parsed.path))) if parsed.path else page
    return path, parsed.fragment


def _outside(address: str) -> bool:
    return bool(re.match(r"[a-z][a-z0-9+.-]*:|//", address))


def _head(soup: Any, page: str) -> str:
    """Style sheets and what typesets formulas, from the head of a page that has some."""
    kept = [str(tag) for tag in soup.head.find_all("link", rel="stylesheet")]
    kept += [
        str(tag)
        for tag in soup.head.find_all("script")
        if "window.MathJax" in tag.get_text() or "mathjax/" in tag.get("src", "")
    ]
    return "\n".join(kept).replace('"' + "../" * page.count("/"), '"')


def _article(soup: Any, page: str, pages: Sequence[str]) -> Any:
    article = soup.select_one("article.bd-article")
    for tag in article.select(_LEFT_OUT):
        tag.decompose()
    for tag in article.select(".explorer"):
        note = soup.new_tag("p")
        note.string = "The explorer's map needs the book on a screen: it is the page of this name there."
        tag.replace_with(note)
    for tag in article.select("button"):
        tag.unwrap()
    for level in range(5, 0, -1):
        for tag in article.find_all(f"h{level}"):
            tag.name = f"h{level + 1}"
    taken = set()
    for tag in article.find_all(id=True):  # some directives give all their boxes of a page one name: the first has it
        own = tag.attrs.pop("id")
        if own not in taken:
            tag["id"] = f"{_stem(page)}--{own}"
        taken.add(own)
    for tag, name in _addresses(article):
        if _outside(tag[name]):
            continue
        path, fragment = _there(page, tag[name])
        if path in pages:
            tag["href"] = f"#{_stem(path)}--{fragment}" if fragment else f"#{_stem(path)}"
        elif tag.name == "a":
            tag.unwrap()
        else:
            tag[name] = path
    return article


def _addresses(article: Any) -> Iterator[tuple[Any, str]]:
    for name in ("href", "src"):
        for tag in article.find_all(attrs={name: True}):
            yield tag, name


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m single_page", description="The built book as one page and as a PDF."
    )
    parser.add_argument("--html", type=Path, default=Path("_build/html"), help="the built book (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("_build/knowledge-in-superposition.pdf"), help="%(default)s")
    options = parser.parse_args(arguments)
    try:
        page = single_page(options.html)
        print(f"The book on one page: {page}")
        pdf(page, options.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"The book as a PDF: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
