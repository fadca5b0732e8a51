"""The built book, as a reader with no network meets it: built without a warning, then opened from disk.

One cold build serves all tests of this file. The browser tests need Chromium; without it they are skipped,
except where ``CI`` is set, where its absence is a failure.
"""

import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote_plus, unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup
from conftest import OfflineTab

ROOT = Path(__file__).parents[1]
WIDTHS = (1280, 768, 360)
PAGE_BYTES = 2_000_000


def pages_of_toc() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf8"))
    found = [toc["root"]]

    def walk(entry):
        for key in ("parts", "chapters", "sections"):
            for child in entry.get(key, []):
                if "file" in child:
                    found.append(child["file"])
                walk(child)

    walk(toc)
    return found


PAGES = pages_of_toc()
#: Pages whose colours are looked at, in both schemes: together they have whatever has colours of its own.
COLOURS = ("book/index", "book/claims", "book/04-superposition", "book/explorer", "book/api-statistics")


def build(out: Path, builder: str) -> Path:
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(ROOT)]
    command += ["-W", "-n", "--keep-going", "--path-output", str(out), "--builder", builder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    said = done.stdout + done.stderr
    assert done.returncode == 0, (
        "\n".join(line for line in said.splitlines() if "WARNING" in line or "ERROR" in line) or said[-4000:]
    )
    assert (out / "_build" / builder / "index.html").exists(), said[-4000:]
    return out / "_build" / builder


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The folder of the HTML of a cold build, with warnings as errors."""
    return build(tmp_path_factory.mktemp("site"), "html")


@pytest.fixture(scope="session")
def one_page(site) -> Path:
    """The book on one page, from what the cold build has read."""
    return build(site.parents[1], "singlehtml") / "index.html"


def test_every_page_of_the_book_is_in_the_table_of_contents():
    sources = {
        p.relative_to(ROOT).with_suffix("").as_posix() for p in ROOT.glob("book/*") if p.suffix in (".md", ".ipynb")
    }
    assert sources == set(PAGES)


def test_the_front_page_leads_to_the_book(site):
    html = (site / "index.html").read_text(encoding="utf8")
    assert "book/index.html" in html


@pytest.fixture(scope="session")
def soups(site) -> dict[Path, BeautifulSoup]:
    return {
        path: BeautifulSoup(path.read_text(encoding="utf8"), "html.parser")
        for path in sorted(site.rglob("*.html"))
        if "_static" not in path.parts
    }


def test_every_link_and_anchor_inside_the_book_resolves(site, soups):
    anchors = {
        path: {tag.get("id") for tag in soup.find_all(id=True)}
        | {tag["name"] for tag in soup.find_all("a", attrs={"name": True})}
        for path, soup in soups.items()
    }
    dead = []
    for path, soup in soups.items():
        for link in soup.find_all("a", href=True):
            url = urlsplit(link["href"])
            if url.scheme or url.netloc:
                if url.scheme not in ("https", "http", "mailto"):
                    dead.append((path.name, link["href"]))
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if target.is_dir() or not target.exists():
                dead.append((path.name, link["href"]))
            elif url.fragment and target.suffix == ".html" and unquote(url.fragment) not in anchors[target]:
                dead.append((path.name, link["href"]))
    assert dead == []


def test_whatever_a_page_is_made_of_is_served_with_it(soups):
    foreign = []
    for path, soup in soups.items():
        needed = [(tag, tag.get("src")) for tag in soup.find_all(["script", "img", "iframe", "source", "video"])]
        needed += [
            (tag, tag["href"])
            for tag in soup.find_all("link", href=True)
            if set(tag.get("rel", []))
            & {"stylesheet", "preload", "icon", "modulepreload", "preconnect", "dns-prefetch"}
        ]
        for tag, address in needed:
            if not address or address.startswith("data:"):
                continue
            url = urlsplit(address)
            if url.netloc or not (path.parent / unquote(url.path)).exists():
                foreign.append((path.name, tag.name, address))
    assert foreign == []


def test_every_figure_has_a_number_a_caption_and_alt_text(site, soups):
    for path, soup in soups.items():
        for image in soup.select("article img"):
            assert image.get("alt", "").strip(), f"{path.name}: {image.get('src')} has no alt text"
        for figure in soup.select("article figure"):
            assert figure.select_one("figcaption .caption-text"), f"{path.name}: {figure.get('id')} has no caption"


@pytest.mark.parametrize("path", sorted(ROOT.glob("book/*.ipynb")), ids=lambda path: path.stem)
def test_figures_and_tables_bear_the_numbers_of_the_notebook(site, soups, path):
    cells = json.loads(path.read_text(encoding="utf8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    written = re.findall(r"^\*\*((?:Figure|Table) [\d.]+)\.\*\*", text, re.M)
    captions = soups[site / "book" / f"{path.stem}.html"].select("article .caption-number")
    numbers = [tag.get_text().strip() for tag in captions]
    assert [number for number in numbers if number.startswith(("Figure", "Table"))] == written


def test_equations_are_numbered_by_chapter(soups):
    """(2.3) in a chapter; (3) on a page that is none."""
    numbers = {
        path: [tag.get_text().strip(" #\N{PILCROW SIGN}").strip("()") for tag in soup.select("article span.eqno")]
        for path, soup in soups.items()
    }
    for path, found in numbers.items():
        assert len(set(found)) == len(found), f"{path.name}: {found}"
        assert all(number.count(".") == path.name[0].isdigit() for number in found), f"{path.name}: {found}"
    chapters = [number for path, found in numbers.items() if path.name[0].isdigit() for number in found]
    assert chapters, "no equation is numbered"
    assert len(set(chapters)) == len(chapters)


def test_a_chapter_can_be_downloaded_as_a_notebook(site):
    for page in PAGES:
        if (ROOT / f"{page}.ipynb").exists():
            html = (site / f"{page}.html").read_text(encoding="utf8")
            assert f"_sources/{page}.ipynb" in html
            assert (site / "_sources" / f"{page}.ipynb").read_bytes() == (ROOT / f"{page}.ipynb").read_bytes()


@pytest.mark.slow
def test_the_book_stands_on_one_page(site, soups, one_page):
    soup = BeautifulSoup(one_page.read_text(encoding="utf8"), "html.parser")
    names = [tag["id"] for tag in soup.find_all(id=True)]
    assert len(set(names)) == len(names)
    assert {f"document-{page}" for page in PAGES} <= set(names)
    assert all((one_page.parent / image["src"]).is_file() for image in soup.find_all("img"))
    links = {link["href"] for link in soup.select("a[href]")}
    assert all(link[1:] in names if link.startswith("#") else link.startswith("https://") for link in links)
    for kind in (".eqno", ".caption-number"):
        pages = [tag.get_text() for page in PAGES for tag in soups[site / f"{page}.html"].select(f"article {kind}")]
        assert sorted(t.strip(" #") for t in pages) == sorted(tag.get_text().strip(" #") for tag in soup.select(kind))


# In the browser


class Reader(OfflineTab):
    """A tab that weighs what a page loads, too."""

    def __init__(self, browser):
        super().__init__(browser, height=900, reduced_motion="reduce")
        self.weights: dict[str, int] = {}
        self.page.on("requestfinished", self._weigh)

    def _weigh(self, request):
        path = Path(unquote(urlsplit(request.url).path))
        if request.url.startswith("file:") and path.is_file():
            self.weights[path.name] = path.stat().st_size

    def open(self, path: Path, query: str = "", scheme: str = "light") -> None:
        self.errors.clear()
        self.outside.clear()
        self.weights.clear()
        self.page.goto("about:blank")  # or the page before would take on the new scheme first
        self.page.emulate_media(color_scheme=scheme, media="screen")
        self.page.set_viewport_size({"width": WIDTHS[0], "height": 900})
        self.page.goto(path.as_uri() + query, wait_until="load")
        self.page.evaluate("window.MathJax?.startup?.promise")

    def darken(self) -> None:
        self.page.emulate_media(color_scheme="dark")
        self.page.wait_for_function(f"{THEME} === 'dark'")

    def widths(self, *checks: str) -> dict[int, list[str]]:
        """What checks that list faults say at each width, where they say anything."""
        faults = {}
        for width in WIDTHS:
            self.page.set_viewport_size({"width": width, "height": 900})
            self.page.evaluate(SETTLED)  # what follows the width has followed
            faults[width] = [fault for check in checks for fault in self.page.evaluate(check)]
        return {width: found for width, found in faults.items() if found}

    def grave(self, colours: bool) -> list[tuple[str, str, str]]:
        """What axe-core finds by its rules for WCAG 2 A and AA and its best practices, if serious or critical.

        Without ``colours`` the rules that compare colours are left out, which take most of the time.
        """
        axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
        rules = {} if colours else {rule: {"enabled": False} for rule in ("color-contrast", "link-in-text-block")}
        options = {"preload": False, "resultTypes": ["violations"], "rules": rules}
        found = axe.run(self.page, options=options).response["violations"]
        return [
            (fault["id"], node["html"][:120], node["any"][0]["message"] if node["any"] else "")
            for fault in found
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"][:3]
        ]


THEME = "document.documentElement.dataset.theme"

MATHEMATICS = """() => {
  const tex = "\\\\\\\\[(\\\\[]|\\\\$\\\\$|\\\\\\\\begin\\\\{";
  const roles = "\\\\{(glue|eq|ref|numref|cite|doc|term|prf:ref)[:\\\\w]*\\\\}";
  const RAW = new RegExp(`${tex}|${roles}|unresolved`, "g");
  const article = document.querySelector("article");
  const bare = [...article.querySelectorAll(".math")].filter(e => !e.querySelector("mjx-container"));
  const copy = article.cloneNode(true);
  copy.querySelectorAll("pre, code, script, style, mjx-container").forEach(e => e.remove());
  return {
    bare: bare.map(e => e.textContent.slice(0, 80)),
    errors: [...article.querySelectorAll("mjx-merror, [data-mjx-error]")].map(e => e.textContent.slice(0, 80)),
    raw: copy.textContent.match(RAW) || [],
  };
}"""

IMAGES = """() => Promise.all([...document.querySelectorAll("article img")].map(async image => {
  if (getComputedStyle(image).display === "none") return null;
  image.loading = "eager";
  await image.decode().catch(() => {});
  const style = getComputedStyle(image);
  return {src: image.src.slice(-60), width: image.naturalWidth, shown: image.getBoundingClientRect().width,
          alt: image.alt.trim(), filter: style.filter, background: style.backgroundColor};
})).then(images => images.filter(image => image))"""

#: Captions that are not to be seen.
HIDDEN = """() => [...document.querySelectorAll("article figcaption")]
  .filter(caption => !caption.getBoundingClientRect().height).map(caption => caption.textContent.trim().slice(0, 40))"""

#: Waits until the column has its width: the theme's side bars slide.
SETTLED = """async () => {
  const frame = () => new Promise(requestAnimationFrame);
  const sliding = () => document.getAnimations().filter(one => isFinite(one.effect.getComputedTiming().endTime));
  await document.fonts.ready;
  await frame();
  await frame();
  await Promise.allSettled(sliding().map(one => one.finished));
  await frame();
}"""

TOO_WIDE = """() => {
  const wide = [];
  if (document.documentElement.scrollWidth > innerWidth) wide.push("the page: " + document.documentElement.scrollWidth);
  const contained = e => {
    for (let p = e.parentElement; p && p !== document.body; p = p.parentElement)
      if (getComputedStyle(p).overflowX !== "visible") return p.closest("article") !== null;
    return false;
  };
  for (const e of document.querySelectorAll("article *")) {
    const box = e.getBoundingClientRect();
    if (box.width && box.right > innerWidth + 1 && !contained(e) && getComputedStyle(e).visibility !== "hidden"
        && !e.closest("mjx-assistive-mml, .visually-hidden, .sr-only"))
      wide.push(e.tagName + "." + e.className + " ends at " + Math.round(box.right));
  }
  return wide.slice(0, 5);
}"""


#: Formulas that no reader sees to their end, since they neither fit their column nor stand in a box that shows that it
#: scrolls, or in a table that does; and those that are set too small to read.
CUT = """() => {
  const cut = [];
  for (const box of document.querySelectorAll("article mjx-container")) {
    const formula = box.querySelector("mjx-math").getBoundingClientRect();
    if (!formula.width || box.closest("table")) continue;
    const column = box.closest("p, li, dd, figcaption, h1, h2, h3, div").getBoundingClientRect();
    const style = getComputedStyle(box);
    const scrolls = style.overflowX === "auto" && style.backgroundImage.includes("gradient") && box.tabIndex === 0;
    const said = box.textContent.slice(0, 60);
    const beyond = formula.right > column.right + 1.5 || formula.left < column.left - 1.5;
    if (beyond && !scrolls) cut.push("cut: " + said);
    const around = getComputedStyle(box.parentElement);
    if (parseFloat(style.fontSize) < 0.69 * parseFloat(around.fontSize)) cut.push("small: " + said);
  }
  return cut;
}"""

UNREACHED = """() => new Promise(done => requestAnimationFrame(() => done(
  [...document.querySelectorAll("article mjx-container")].filter(e => e.scrollWidth > e.clientWidth + 1
    && getComputedStyle(e).overflowX === "auto" && e.tabIndex < 0)
    .map(e => "the keyboard does not reach " + e.textContent.slice(0, 80)))))"""


@pytest.fixture(scope="session")
def reader(browser):
    tab = Reader(browser)
    yield tab
    tab.context.close()


@pytest.fixture(scope="session")
def visit(site, reader):
    """What is seen on a page, by its name: each page is opened once for all tests."""

    @functools.cache
    def look(name: str) -> dict:
        page = reader.page
        reader.open(site / f"{name}.html")
        seen = {"theme": page.evaluate(THEME), "mathematics": page.evaluate(MATHEMATICS)}
        seen |= {"images": page.evaluate(IMAGES), "hidden": page.evaluate(HIDDEN)}
        seen |= {"faults": reader.grave(name in COLOURS)}
        seen |= {"by width": reader.widths(TOO_WIDE, UNREACHED, CUT)}
        page.set_viewport_size({"width": WIDTHS[0], "height": 900})
        if name in COLOURS:
            reader.darken()
            seen |= {"dark images": page.evaluate(IMAGES), "dark faults": reader.grave(True)}
            seen["hidden"] += page.evaluate(HIDDEN)
        return seen | {
            "outside": list(reader.outside), "errors": list(reader.errors), "weights": dict(reader.weights)
        }  # fmt: skip

    return look


@pytest.mark.parametrize("name", PAGES)
def test_assistive_software_finds_no_serious_fault(visit, name):
    assert visit(name)["faults"] == []


@pytest.mark.parametrize("name", COLOURS)
def test_a_page_in_the_dark(visit, name):
    seen = visit(name)
    assert seen["dark faults"] == []
    for image in seen["dark images"]:
        assert image["src"].endswith("-dark.svg"), f"{image['src']} is a white card on a dark page"
        assert image["width"] > 0 and image["alt"]
        assert image["filter"] == "none" and image["background"] == "rgba(0, 0, 0, 0)"
    assert len(seen["dark images"]) == len(seen["images"])


@pytest.mark.parametrize("name", PAGES)
def test_page(visit, name):
    seen = visit(name)
    assert seen["mathematics"] == {"bare": [], "errors": [], "raw": []}
    for image in seen["images"]:
        assert image["width"] > 0, f"{image['src']} did not load"
        assert image["alt"], f"{image['src']} has no alt text"
        assert image["filter"] == "none" and not image["src"].endswith("-dark.svg")
    assert seen["hidden"] == []
    assert seen["by width"] == {}
    assert seen["theme"] == "light"
    assert seen["outside"] == []
    assert seen["errors"] == []
    heaviest = sorted(seen["weights"].items(), key=lambda item: -item[1])[:8]
    assert sum(seen["weights"].values()) < PAGE_BYTES, heaviest


def test_a_page_opened_in_the_dark_is_dark(site, reader):
    reader.open(site / "book" / "index.html", scheme="dark")
    assert reader.page.evaluate(THEME) == "dark"
    assert reader.errors == []


@pytest.mark.slow
def test_the_book_on_one_page_can_be_read(one_page, reader):
    reader.page.set_default_timeout(300_000)
    reader.open(one_page)
    assert reader.page.evaluate(MATHEMATICS) == {"bare": [], "errors": [], "raw": []}
    assert all(image["width"] > 0 and image["alt"] for image in reader.page.evaluate(IMAGES))
    assert reader.widths(TOO_WIDE) == {}
    assert reader.errors == []
    assert reader.outside == []


def test_the_checks_of_a_page_bite(browser):
    tab = Reader(browser)
    tab.page.set_viewport_size({"width": 360, "height": 900})
    tab.page.set_content(
        """<article><p class="math">\\(x\\)</p><p>see {eq}`eq-x` and <code>\\(fine\\)</code></p>
        <mjx-merror>no</mjx-merror><p><img src="data:image/png;base64,xx" style="width: 900px; height: 2px"></p>
        <div style="overflow-x: auto"><p style="width: 900px">scrolls</p></div></article>"""
    )
    assert tab.page.evaluate(MATHEMATICS) == {"bare": ["\\(x\\)"], "errors": ["no"], "raw": ["\\(", "{eq}"]}
    [image] = tab.page.evaluate(IMAGES)
    assert image["width"] == 0
    assert image["alt"] == ""
    wide = tab.page.evaluate(TOO_WIDE)
    assert wide[0].startswith("the page: 9")
    assert wide[1].startswith("IMG")
    assert len(wide) == 2
    box = '<p><mjx-container {}><mjx-math style="display: inline-block; width: {}px">{}</mjx-math></mjx-container></p>'
    shadow = 'tabindex="0" style="display: block; overflow-x: auto; background-image: linear-gradient(red, blue)"'
    formulas = [("", 500, "wide"), ("", 100, "narrow"), (shadow, 500, "scrolls")]
    formulas += [(shadow.replace('tabindex="0"', ""), 500, "unreached"), ('style="font-size: 50%"', 9, "tiny")]
    tab.page.set_content(f"<article>{''.join(box.format(*formula) for formula in formulas)}</article>")
    assert tab.page.evaluate(CUT) == ["cut: wide", "cut: unreached", "small: tiny"]
    tab.page.set_content("<script src='https://example.org/x.js'></script><script>throw Error('broken')</script>")
    assert tab.outside == ["https://example.org/x.js"]
    assert any("broken" in error for error in tab.errors)
    tab.context.close()


def test_chapters_link_to_the_functions_they_use_and_these_link_back(site, soups):
    chapter, listed = (soups[site / "book" / page] for page in ("10-keys-and-moments.html", "api-measuring.html"))
    there = [a["href"] for a in chapter.select_one("#in-the-library").find_all("a")]
    assert "api-measuring.html#superposition.lm.moments.of_windows" in there
    entry = listed.find(id="superposition.lm.moments.of_windows").find_parent("dl")
    back = [a["href"] for a in entry.find_all("a", href=True)]
    assert "10-keys-and-moments.html" in back


FOUND = """() => [...document.querySelectorAll("#search-results li")].map(one => ({
  title: one.querySelector("a").textContent,
  place: one.querySelector("a").getAttribute("href").replace("book/", ""),
  excerpt: one.querySelector("p.context")?.textContent ?? null,
  marks: [...one.querySelectorAll(".highlighted")].map(mark => mark.textContent.toLowerCase()),
}))"""


def found(page, query: str) -> list[dict]:
    """What a search lists, once it is over."""
    page.goto(page.url.split("search.html")[0] + f"search.html?q={quote_plus(query)}")
    page.wait_for_function("document.querySelector('.search-summary')?.innerText")
    page.wait_for_load_state("networkidle")
    return page.evaluate(FOUND)


@pytest.fixture(scope="session")
def served(site, browser):
    """A tab that gets the site over http, though there is neither a server nor a network."""
    tab = OfflineTab(browser, height=900, reduced_motion="reduce")

    def serve(route):
        route.fulfill(path=site / unquote(urlsplit(route.request.url).path).lstrip("/"))

    tab.context.route("http://book.test/**", serve)
    tab.page.goto("http://book.test/search.html")
    yield tab
    tab.context.close()


@pytest.fixture(scope="session")
def listed(served):
    """What a search lists there, by its words: each is looked for once for all tests."""
    return functools.cache(functools.partial(found, served.page))


def test_search_works_from_disk_without_excerpts(site, reader):
    reader.open(site / "search.html")
    listed = found(reader.page, "superposition")
    assert len(listed) > 10
    assert {one["excerpt"] for one in listed} == {None}
    assert reader.errors == []
    assert reader.outside == []


WORDS = ("kurtosis", "lossless", "superposition", "ROME", "whitening", "forecast", "AlphaEdit", "capacity")


@pytest.mark.parametrize("query", WORDS)
def test_search_over_http_shows_where_the_word_stands(served, listed, query):
    with_excerpt = [one for one in listed(query) if one["excerpt"] is not None]
    assert len(with_excerpt) >= 5
    for one in with_excerpt:
        assert not re.search(r"[\\$\N{PILCROW SIGN}#]|code cell|Show code", one["excerpt"]), one
        assert 0 < len(one["excerpt"]) < 260
    marked = [one for one in with_excerpt if any(query.lower().startswith(mark) for mark in one["marks"])]
    assert len(marked) > 0.8 * len(with_excerpt)
    assert served.errors == []


@pytest.mark.parametrize("query", WORDS)
def test_chapters_are_found_before_the_library_and_nothing_twice_under_one_title(listed, query):
    library = [one["place"].startswith("api") for one in listed(query)]
    assert library == sorted(library) and not all(library)
    titles = [one["title"] for one in listed(query) if not one["place"].startswith("api")]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize(
    ("query", "first", "among"),
    [
        (
            "kurtosis",
            6,
            {"11-superposition-in-llms.html", "12-nulls-and-confounds.html", "glossary.html#term-L-kurtosis"},
        ),
        ("lossless", 1, {"04-superposition.html"}),
        ("ROME", 2, {"glossary.html#term-ROME", "06-editors.html"}),
        ("whitening", 2, {"04-superposition.html"}),
        ("forecasts", 1, {"20-forecasting-damage.html"}),
        ("conservation of overlap", 1, {"05-capacity.html#thm-capacity-conservation"}),
        ("Figure 4.2", 1, {"04-superposition.html#fig-superposition-plane"}),
        ("fig. 4.2", 1, {"04-superposition.html#fig-superposition-plane"}),
        ("(4.2)", 1, {"04-superposition.html#equation-eq-superposition-products"}),
        ("Eq. (4.2)", 1, {"04-superposition.html#equation-eq-superposition-products"}),
        ("exercise 4.1", 1, {"04-superposition.html#ex-04-whitening"}),
        ("claim 4", 1, {"04-superposition.html#claim-4"}),
        ("rome_update", 1, {"api-derivation.html#superposition.theory.memory.rome_update"}),
    ],
)
def test_what_is_looked_for_is_found_first(listed, query, first, among):
    assert among <= {one["place"] for one in listed(query)[:first]}


@pytest.mark.parametrize(
    ("query", "marked"), [("kurtosis", {"kurtosis"}), ("shuffles kurtosis", {"shuffl", "kurtosis"})]
)
def test_words_looked_for_are_marked_on_the_page_found(site, reader, query, marked):
    page = reader.page
    reader.open(site / "search.html")
    found(page, query)
    page.locator('#search-results a[href$="12-nulls-and-confounds.html"]').first.click()
    page.wait_for_selector("article span.highlighted", state="attached")
    page.evaluate("window.MathJax.startup.promise")
    marks = page.locator("article span.highlighted").all_text_contents()
    assert len(marks) > 20 and {mark.lower() for mark in marks} == marked
    page.wait_for_function("scrollY > 0")
    assert 0 < page.locator("article span.highlighted").first.bounding_box()["y"] < page.viewport_size["height"]
    assert page.evaluate(MATHEMATICS) == {"bare": [], "errors": [], "raw": []}
    assert reader.grave(query == "kurtosis") == []  # the colour of the marks is one
    page.get_by_text("Hide Search Matches").click()
    page.wait_for_function("!document.querySelector('span.highlighted')")
    reader.open(site / "search.html")
    found(page, query)
    reader.open(site / "book" / "12-nulls-and-confounds.html")  # not by a result
    assert page.locator("span.highlighted").count() == 0
    assert reader.errors == []


def test_a_search_that_finds_nothing_says_what_to_do(site, reader):
    reader.open(site / "search.html", "?q=xylophone")
    reader.page.get_by_text("Nothing is found by these words.").wait_for()


def test_every_page_is_linked_from_another(site, soups):
    linked = {
        (path.parent / unquote(urlsplit(link["href"]).path)).resolve()
        for path, soup in soups.items()
        for link in soup.select("main a[href], nav a[href]")
        if not urlsplit(link["href"]).scheme and path.name not in ("genindex.html", "py-modindex.html")
    }
    made = {path.resolve() for path in soups} - {site / "index.html", site / "search.html"}
    assert made - linked == set()


@pytest.mark.parametrize("name", ["genindex", "py-modindex", "search"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_that_sphinx_makes_can_be_read(site, reader, name, scheme):
    reader.open(site / f"{name}.html", "?q=kurtosis" if name == "search" else "", scheme=scheme)
    if name == "search":
        reader.page.wait_for_selector("#search-results .highlighted")
    assert reader.grave(name != "genindex") == []  # a long list of links, whose colour is everywhere
    for width in WIDTHS:
        reader.page.set_viewport_size({"width": width, "height": 900})
        assert reader.page.evaluate("document.documentElement.scrollWidth") <= width
    assert reader.errors == []


def test_the_bibliography_shows_no_tex(site, soups):
    article = soups[site / "book" / "bibliography.html"].select_one("article")
    assert len(article.select("div.citation")) > 50
    assert re.findall(r".{0,40}[$\\{}~].{0,20}", article.get_text()) == []


@pytest.mark.parametrize("how", ["hover", "focus"])
def test_escape_closes_a_preview_and_the_focus_stays(site, reader, how):
    reader.open(site / "book" / "04-superposition.html")
    page = reader.page
    link = page.locator('article a.reference.internal[href*="#equation-"]').first
    link.focus()
    if how == "hover":
        page.keyboard.press("Escape")
        page.wait_for_selector(".tippy-box", state="hidden")
        link.hover()
    page.wait_for_selector(".tippy-box")
    page.keyboard.press("Escape")
    page.wait_for_selector(".tippy-box", state="hidden")
    assert link.evaluate("link => link === document.activeElement")
    assert reader.errors == []


@pytest.mark.parametrize("name", ["01-memory", "04-superposition", "16-lifelong-failure", "capstone", "claims"])
def test_folds_say_what_they_fold_and_whether_they_are_open(site, reader, name):
    """By the names and states that assistive software is told."""
    reader.open(site / "book" / f"{name}.html")
    client = reader.context.new_cdp_session(reader.page)

    def folds() -> dict[str, bool]:
        page = client.send("DOM.getDocument", {"depth": 0})["root"]["nodeId"]
        named = [
            (node["name"]["value"], each["value"]["value"])
            for role in ("button", "DisclosureTriangle")
            for node in client.send("Accessibility.queryAXTree", {"nodeId": page, "role": role})["nodes"]
            for each in node.get("properties", [])
            if each["name"] == "expanded"
        ]
        assert len(dict(named)) == len(named), sorted(named)
        return dict(named)

    closed = folds()
    soup = BeautifulSoup((site / "book" / f"{name}.html").read_text(encoding="utf8"), "html.parser")
    exercises = [tag.get_text().strip() for tag in soup.select("article .exercise .caption-number")]
    wanted = {
        f"Click to show {what}" for number in exercises for what in (f"Hint for {number}", f"Solution to {number}")
    }
    code = soup.select("details.hide > summary > .collapsed")
    wanted |= {tag.get_text() for tag in code if not tag.find_parent(class_="dropdown")}
    assert wanted and wanted <= set(closed)
    assert not any(closed[fold] for fold in wanted)
    for what in ("button.toggle-button", "article details.hide > summary:visible"):
        if reader.page.locator(what).count():
            reader.page.locator(what).first.focus()
            reader.page.keyboard.press("Enter")
    opened = {fold for fold, is_open in folds().items() if is_open}
    assert {fold.split()[0] for fold in opened} <= {"Click", "Hide"} and opened
    assert all(re.match("Click to hide |Hide code: ", fold) for fold in opened)


def test_a_cross_reference_previews_its_target(site, soups, reader):
    """Hovering over a reference to an equation shows it, typeset."""
    links = {path: soup.select_one('article a.reference.internal[href*="#equation-"]') for path, soup in soups.items()}
    path, link = next(((path, link) for path, link in links.items() if link), (None, None))
    assert link, "no page refers to an equation"
    reader.open(path)
    reader.page.locator(f'article a.reference.internal[href="{link["href"]}"]').first.hover()
    shown = reader.page.wait_for_selector(".tippy-box mjx-container", timeout=60_000)
    assert shown.bounding_box()["height"] > 5  # glyphs are drawn by style sheets: there is no text to read
    assert reader.errors == []
    assert reader.outside == []


def test_a_page_without_formulas_previews_its_links_too(site, reader):
    reader.open(site / "book" / "explorer.html")
    assert not reader.page.query_selector("article mjx-container")
    reader.page.locator('article a.reference.internal[href*="glossary"]').first.hover()
    assert reader.page.wait_for_selector(".tippy-box", timeout=60_000).inner_text().strip()
    assert reader.errors == []


def test_who_asks_for_less_motion_gets_less(site, reader):
    reader.open(site / f"{PAGES[0]}.html")
    longest = reader.page.evaluate(
        "Math.max(...[...document.querySelectorAll('a, button')]"
        ".map(e => parseFloat(getComputedStyle(e).transitionDuration)))"
    )
    assert longest < 0.001


def test_a_dark_page_is_printed_light(site, reader):
    reader.open(site / f"{PAGES[0]}.html", scheme="dark")
    assert reader.page.evaluate(THEME) == "dark"
    reader.page.emulate_media(media="print")
    reader.page.wait_for_function(f"{THEME} === 'light'")
    reader.page.emulate_media(media="screen")
    reader.page.wait_for_function(f"{THEME} === 'dark'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_boxes_can_be_read_in_both_schemes(soups, reader, scheme):
    """Titles of the boxes against their ground: at least 4.5 to 1 (WCAG AA)."""
    page = next((path for path, soup in soups.items() if soup.select_one("div.admonition.before")), None)
    assert page, "no page has a box 'Before you start'"
    reader.open(page, scheme=scheme)
    ratios = reader.page.evaluate(CONTRAST)
    assert len(ratios) == 4
    assert min(ratios.values()) >= 4.5, ratios


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = colour => {
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  };
  const luminance = colour => { const [r, g, b] = rgb(colour); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const box = document.querySelector("div.admonition.before"), found = {};
  for (const kind of ["before", "verdict reproduced", "verdict qualified", "verdict refuted"]) {
    box.className = "admonition " + kind;
    const style = getComputedStyle(box.querySelector(".admonition-title"));
    const [a, b] = [luminance(style.color), luminance(style.backgroundColor)];
    found[kind] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }
  return found;
}"""


@pytest.mark.parametrize("name", ["04-superposition", "05-capacity", "19-lifetime"])
def test_a_picture_to_turn_starts_where_the_words_beside_it_are(site, reader, name):
    reader.open(site / "book" / f"{name}.html")
    (turned,) = reader.page.query_selector_all("article .turn")
    words = turned.query_selector(".turn-words").text_content()
    assert turned.query_selector("svg") and turned.query_selector("input[type=range]")
    pieces = turned.query_selector_all(".turn-said, output, .turn-formula, text")
    shown = re.findall(r"\d+(?:\.\d+)?", "; ".join(piece.text_content() for piece in pieces))
    numbers = re.findall(r"[\d.]*\d", re.sub(r"\\\(.*?\\\)", "", words))
    assert len(numbers) >= 4
    same = {float(number) for number in shown}
    assert [number for number in numbers if float(number) not in same] == []
    assert reader.errors == [] and reader.outside == []


def test_a_page_without_a_picture_to_turn_does_not_load_its_script(soups, site):
    scripts = {path.stem: str(soup.find_all("script", src=True)) for path, soup in soups.items()}
    assert {stem for stem, found in scripts.items() if "turn.js" in found} == {
        "04-superposition", "05-capacity", "19-lifetime"
    }  # fmt: skip
