"""The whole book on one page, by Sphinx's own builder ``singlehtml``, and that page as a PDF: ``make pdf``."""

import sys
from pathlib import Path

from bs4 import BeautifulSoup
from sphinx.builders.singlehtml import SingleFileHTMLBuilder

from chromium import browser


class SinglePage(SingleFileHTMLBuilder):
    """Sphinx's builder, with ids that are unique and files where the page looks for them."""

    def fix_refuris(self, tree):
        """Leave ``#document-PAGE#id``, from which Sphinx would cut the page: :func:`mend` needs it."""

    def finish(self):
        super().finish()
        page, parts = Path(self.get_outfilename(self.config.root_doc)), self.config.external_site_map.root.subtrees
        text = mend(page.read_text(encoding="utf-8"), self.config.root_doc, {p.files()[0]: p.caption for p in parts})
        Path(self.outdir, "index.html").write_text(text, encoding="utf-8")
        page.unlink()


def mend(text, page, parts):
    """The HTML with a page's name in its ids and links, a list of pages, and the parts' titles before their first."""
    soup = BeautifulSoup(text, "html.parser")
    article, names = soup.select_one("article.bd-article"), set()
    article.insert(0, soup.new_tag("span", id=f"document-{page}"))
    # Neither the explorer's map, which only a screen can show, nor the code that pages keep folded.
    for tag in soup.select(".explorer, .headerlink, details.hide, article script, head script"):
        if "MathJax" not in tag.get_text() and "mathjax" not in tag.get("src", ""):
            tag.decompose()
    contents = soup.new_tag("nav", attrs={"aria-label": "Contents"})
    for tag in article.find_all(True):
        if tag.get("id", "").startswith("document-"):
            page = tag["id"].removeprefix("document-")
            contents.append(entry := soup.new_tag("a", href=f"#{tag['id']}"))
            entry.string = tag.find_next(["h1", "h2", "h3"]).get_text()
            if page in parts:
                tag.insert_before(title := soup.new_tag("h1"))
                title.string = parts[page]
        elif "id" in tag.attrs:
            tag["id"] = f"document-{page}--{tag['id']}"
        if tag.get("id") in names:
            del tag["id"]  # some directives give all their boxes of a page one id: the first has it
        names.add(tag.get("id"))
        if tag.get("href", "").startswith("#"):
            target = tag["href"] if tag["href"].startswith("#document-") else f"#document-{page}#{tag['href'][1:]}"
            tag["href"] = "#" + target[1:].replace("#", "--")
        elif tag.name == "button" or not tag.get("href", "https:").startswith("https:"):
            tag.unwrap()
        elif tag.name == "details":
            tag["open"] = ""
    soup.html["data-theme"] = "light"
    article.h1.insert_after(contents)
    soup.head.append(soup.new_tag("link", rel="stylesheet", href="_static/single.css"))
    soup.body.replace_with(article.wrap(soup.new_tag("body", attrs={"class": "bd-content single"})))
    return str(soup)


def setup(app):
    app.add_builder(SinglePage, override=True)
    # sphinx-exercise registers handlers for this builder, which would hide those that others register for all of HTML.
    handlers = app.registry.translation_handlers
    app.connect("builder-inited", lambda _: handlers.update(singlehtml=handlers["html"] | handlers["singlehtml"]))


if __name__ == "__main__":
    with browser() as launched:
        tab = launched.new_context(offline=True, color_scheme="light").new_page()
        tab.set_default_timeout(600_000)
        tab.goto(Path(sys.argv[1]).resolve().as_uri())
        tab.evaluate("window.MathJax.startup.promise")
        tab.pdf(path=sys.argv[2], print_background=True, outline=True, tagged=True, prefer_css_page_size=True)
