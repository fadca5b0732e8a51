"""The book on one page: ids and links of many pages side by side, and a PDF that a reader can print.

``tests/test_site.py`` looks at the whole book on one page.
"""

import subprocess
import sys

import pytest
from bs4 import BeautifulSoup

import chromium
import single_page
from superposition.errors import UserError

PAGE = """<html><head><script>window.MathJax = {startup: {promise: Promise.resolve()}}</script>
<script src="_static/mathjax/startup.js"></script><script src="_static/other.js"></script></head>
<body><nav>the theme's</nav><article class="bd-article"><section id="a-book"><h1>A book</h1>
<p id="said">See <a href="#document-book/01-one">one</a>.</p><span id="document-book/01-one"></span>
<section id="one"><h2>1. One<a class="headerlink" href="#one">#</a></h2>
<p id="said">See <a href="#document-book/02-two#end">the end</a>, <a href="#said">above</a>,
<a href="https://example.org">far</a> and <a href="01-one.ipynb">the file</a>.</p>
<img src="_images/a.svg" alt="a dot"><details class="hide"><summary>code</summary>hidden()</details>
<div class="solution" id="twice"><p>Solution</p></div><div id="twice">solved</div><details>folded</details>
<div class="explorer"><input id="x">a map</div><button id="go">Go there</button></section>
<span id="document-book/02-two"></span><section id="two"><h2>2. Two</h2><h3 id="end">End</h3></section>
</section></article></body></html>"""


@pytest.fixture(scope="module")
def soup() -> BeautifulSoup:
    return BeautifulSoup(single_page.mend(PAGE, "book/index", {"book/02-two": "I · Part"}), "html.parser")


def test_links_lead_to_the_page_they_mean_and_ids_are_unique(soup):
    ids = [tag["id"] for tag in soup.find_all(id=True)]
    assert len(set(ids)) == len(ids)
    links = [link["href"] for link in soup.select("p a")]
    assert links == [
        "#document-book/01-one", "#document-book/02-two--end", "#document-book/01-one--said", "https://example.org",
    ]  # fmt: skip
    assert {link[1:] for link in links[:3]} <= set(ids)
    assert soup.find(id=links[2][1:]).get_text().startswith("See the end")
    assert "the file" in soup.get_text()


def test_contents_name_the_pages_and_a_part_stands_before_its_first(soup):
    assert [(a["href"], a.get_text()) for a in soup.select("nav a")] == [
        ("#document-book/index", "A book"),
        ("#document-book/01-one", "1. One"),
        ("#document-book/02-two", "2. Two"),
    ]
    assert [tag.get_text() for tag in soup.select("h1, h2")] == ["A book", "1. One", "I · Part", "2. Two"]


def test_what_is_folded_or_for_a_screen_is_left_out_but_solutions_are_there(soup):
    text = soup.get_text()
    assert "hidden()" not in text and "a map" not in text and "the theme's" not in text
    assert "solved" in text and "Go there" in text and not soup.find("button")
    assert [details["open"] for details in soup.find_all("details")] == [""]
    assert [tag.get("src") for tag in soup.find_all("script")] == [None, "_static/mathjax/startup.js"]


def test_the_command_prints_a_pdf(tmp_path, browser):
    page, out = tmp_path / "index.html", tmp_path / "book.pdf"
    page.write_text(single_page.mend(PAGE, "book/index", {}), encoding="utf-8")
    command = [sys.executable, single_page.__file__, str(page), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(b"%PDF") and b"/Outlines" in out.read_bytes()


def test_where_there_is_no_browser_the_sentence_says_which(monkeypatch):
    monkeypatch.delenv("SUPERPOSITION_BROWSER", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="Chromium is missing: install one of chromium"), chromium.browser():
        pass
