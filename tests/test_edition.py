"""The book on one page: its parts in order, its links within the page, and a PDF that a reader can print."""

import subprocess
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

import single_page as edition
from superposition.errors import UserError

HEAD = """<head><link rel="stylesheet" href="../_static/book.css">
<script>window.MathJax = {startup: {promise: Promise.resolve()}}</script>
<script src="../_static/mathjax/startup.js"></script><script src="../_static/other.js"></script></head>"""
NAV = """<nav class="bd-links"><a class="reference internal" href="#">A book</a>
<p class="caption">I · Part</p><a class="reference internal" href="01-one.html">1. One</a>
<a class="reference internal" href="02-two.html">2. Two</a></nav>"""
PAGES = {
    "index": "<section id='a-book'><h1>A book</h1><p>See <a href='01-one.html'>one</a>.</p></section>",
    "01-one": """<section id="one"><h1>1. One<a class="headerlink" href="#one">#</a></h1>
<p id="said">See <a href="02-two.html#end">the end</a>, <a href="#said">above</a>, <a href="https://example.org">far</a>
and <a href="../_sources/01-one.ipynb">the file</a>.</p><img src="../_images/a.svg" alt="a dot">
<div class="cell tag_hide-input"><details class="hide"><summary>code</summary>hidden()</details></div>
<div class="solution dropdown admonition" id="twice"><p>Solution</p></div><div id="twice">solved</div>
<div class="explorer"><input id="x">a map</div><button id="go">Go there</button></section>""",
    "02-two": '<section id="two"><h1>2. Two</h1><h2 id="end">End</h2></section>',
}
DOT = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="4" cx="4" cy="4"/></svg>'


@pytest.fixture
def built(tmp_path) -> Path:
    html = tmp_path / "html"
    for folder in ("book", "_images", "_static/mathjax"):
        (html / folder).mkdir(parents=True)
    (html / "_images" / "a.svg").write_text(DOT)
    (html / "_static" / "logo.svg").write_text(DOT)
    (html / "_static" / "mathjax" / "startup.js").write_text("")
    (html / "_static" / "book.css").write_text("")
    for name, article in PAGES.items():
        body = f"<body>{NAV}<article class='bd-article'>{article}</article></body>"
        (html / "book" / f"{name}.html").write_text(f"<html>{HEAD}{body}</html>", encoding="utf8")
    return html


def test_pages_stand_in_the_order_of_the_contents(built):
    assert edition.contents(built) == [
        (None, ["book/index.html"]),
        ("I · Part", ["book/01-one.html", "book/02-two.html"]),
    ]
    soup = BeautifulSoup(edition.single_page(built).read_text(encoding="utf8"), "html.parser")
    assert [section["id"] for section in soup.select("section.page")] == ["index", "01-one", "02-two"]
    assert [tag.get_text() for tag in soup.find_all("h1")] == ["Knowledge in Superposition", "Contents", "I · Part"]
    assert [tag.get_text() for tag in soup.find_all("h2")] == ["A book", "1. One", "2. Two"]
    assert [link.get_text() for link in soup.select("nav a")] == ["A book", "1. One", "2. Two"]


def test_links_and_names_stay_within_the_page(built):
    soup = BeautifulSoup(edition.single_page(built).read_text(encoding="utf8"), "html.parser")
    assert [link["href"] for link in soup.select("section a")] == [
        "#01-one", "#02-two--end", "#01-one--said", "https://example.org",
    ]  # fmt: skip
    assert "the file" in soup.get_text()
    assert soup.select_one("section img")["src"] == "_images/a.svg"
    names = [tag["id"] for tag in soup.find_all(id=True)]
    assert len(set(names)) == len(names)


def test_what_is_folded_or_for_a_screen_is_left_out_but_solutions_are_there(built):
    soup = BeautifulSoup(edition.single_page(built).read_text(encoding="utf8"), "html.parser")
    text = soup.get_text()
    assert "hidden()" not in text and "a map" not in text and "The explorer's map needs the book" in text
    assert "solved" in text and "Go there" in text and not soup.find("button")
    assert [tag.get("src") for tag in soup.find_all("script")] == [None, "_static/mathjax/startup.js"]
    assert soup.find("link")["href"] == "_static/book.css"


def run(*words) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "single_page", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_command_prints_a_pdf(built, tmp_path, browser):
    out = tmp_path / "new" / "book.pdf"
    done = run("--html", built, "--out", out)
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout
    assert out.read_bytes().startswith(b"%PDF") and b"/Outlines" in out.read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["book.pdf"]


def test_a_page_with_a_missing_picture_is_not_printed(built, tmp_path, browser):
    (built / "_images" / "a.svg").unlink()
    refused(built, tmp_path, "picture _images/a.svg")


def test_a_page_with_a_formula_that_is_not_typeset_is_not_printed(built, tmp_path, browser):
    page = built / "book" / "02-two.html"
    page.write_text(page.read_text(encoding="utf8").replace("End<", 'End <span class="math">x^2</span><'))
    refused(built, tmp_path, "formula x^2")


def refused(built: Path, folder: Path, why: str) -> None:
    done = run("--html", built, "--out", folder / "book.pdf")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and why in done.stderr
    assert list(folder.iterdir()) == [built]


def test_a_folder_without_a_book_is_named(tmp_path, capsys):
    assert edition.main(["--html", str(tmp_path), "--out", str(tmp_path / "book.pdf")]) == 1
    assert f"{tmp_path} holds no built book: run `make book` first" in capsys.readouterr().err


def test_where_there_is_no_browser_the_sentence_says_which(monkeypatch):
    monkeypatch.delenv("SUPERPOSITION_BROWSER", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="Chromium is missing: install one of chromium"), edition.browser():
        pass
