"""A Sphinx extension: pages that weigh little, and links from the chapters to the library and back.

Listed in ``_config.yml``; ``tests/test_site.py`` holds every page to its weight.
"""

from __future__ import annotations

import ast
import gc
import json
import re
import shutil
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from superposition.io.paths import package_dir

#: What a page loads of MathJax: TeX in, HTML and CSS out. Its menu and its speech are left out.
MATHJAX = {
    "loader": {"load": ["core", "input/tex", "output/chtml"]},
}

#: How many of the pages that use a function its entry names.
SHOWN_USERS = 4

#: Modules whose functions a chapter uses, but is not about.
_HELPS = ("superposition.book.exercises.", "superposition.book.cells.")

#: Packages whose public list is imported from their modules.
_LISTS = tuple(f"superposition.{room}" for room in ("book.exercises", "editing", "figures", "lm.models", "theory"))

_ICON = re.compile(
    r'(?:"(?P<quoted>[a-z0-9-]+)"|(?P<bare>[a-z0-9A-Z_$]+)):'
    r'\[\d+,\d+,\[(?P<aliases>[^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?'
)


def keep_icons(script: str, used: set[str]) -> str:
    """FontAwesome's script with the icons named in ``used`` and no others.

    Parameters
    ----------
    script : str
        ``fontawesome.js`` as the theme ships it: a table of some 2,000 icons, and the code that draws them.
    used : set of str
        Names without the prefix ``fa-``. An icon stays if its name or one of its aliases is among them.
    """

    def keep(entry: re.Match[str]) -> str:
        names = {entry["quoted"] or entry["bare"], *re.findall(r'"([a-z0-9-]+)"', entry["aliases"])}
        return entry[0] if names & used else ""

    return _ICON.sub(keep, script)


def keep_icon_rules(style: str, used: set[str]) -> str:
    """A style sheet without FontAwesome's rules ``.fa-name:before{content:…}`` of icons that are not ``used``."""

    def keep(rule: re.Match[str]) -> str:
        return rule[0] if set(re.findall(r"\.fa-([a-z0-9-]+)", rule["names"])) & used else ""

    return re.sub(r'(?P<names>(?:\.fa-[a-z0-9-]+:{1,2}before,?)+)\{content:"[^"]*"\}', keep, style)


def subset_font(font: Path, characters: set[str]) -> None:
    """Keep only these characters in a font, in place.

    The theme's compressed twins (``.woff2``) are replaced by the subset as well, uncompressed: browsers go by a file's
    content, and what is left is small.
    """
    from fontTools import subset

    found = subset.load_font(str(font), subset.Options())
    subsetter = subset.Subsetter(subset.Options(notdef_outline=True))
    subsetter.populate(unicodes=[ord(character) for character in characters])
    subsetter.subset(found)
    found.save(str(font))
    twin = font.with_suffix(".woff2")
    if twin.is_file():
        shutil.copyfile(font, twin)


def trim_icons(html: Path) -> None:
    """Trim a built site's icons, in place: the script that draws them, its style rules and its fonts."""
    static = html / "_static"
    script = static / "scripts" / "fontawesome.js"
    scripts = [p for p in static.rglob("*.js") if "mathjax" not in p.parts and p != script]
    text = "\n".join(p.read_text(encoding="utf-8", errors="replace") for p in [*html.rglob("*.html"), *scripts])
    used = set(re.findall(r"\bfa-([a-z0-9-]+)", text))
    if script.is_file():
        script.write_text(keep_icons(script.read_text(encoding="utf-8"), used), encoding="utf-8")
    characters: set[str] = set()
    for path in static.rglob("*.css"):
        style = path.read_text(encoding="utf-8", errors="replace")
        if (kept := keep_icon_rules(style, used)) != style:
            path.write_text(kept, encoding="utf-8")
        characters |= set(re.findall("[\ue000-\uf8ff]", kept))
        characters |= {chr(int(code, 16)) for code in re.findall(r"\\([ef][0-9a-f]{3})\b", kept)}
    for font in (static / "vendor" / "fontawesome" / "webfonts").glob("*.ttf"):
        subset_font(font, characters)


def mend_roles(page: str) -> str:
    """A page's HTML without the roles that assistive software cannot make sense of.

    docutils calls the bibliography a list, though what it holds are no list items.
    """
    return page.replace('<div role="list" class="citation-list">', '<div class="citation-list">').replace(
        ' role="doc-biblioentry"', ""
    )


_FOLD = '<summary><span class="toctree-toggle"'


def name_folds(page: str) -> str:
    """A page's HTML with a name for the folds of its table of contents, which show a mere arrow."""
    return page.replace(_FOLD, _FOLD.replace("<summary>", '<summary aria-label="Pages below this one">'))


_SEARCH = re.compile(r'\s*<script src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"></script>')


def without_search(page: str) -> str:
    """A page's HTML without the scripts that search the book, the index among them.

    The theme has every page load them, to search while the reader types. Only ``search.html`` needs them, where the
    search box leads. The theme lets search be if ``Search`` is null.
    """
    lighter = _SEARCH.sub("", page)
    return page if lighter == page else lighter.replace("</head>", "<script>var Search = null;</script></head>", 1)


_MATHJAX = re.compile(
    r'\s*<script>window\.MathJax = .*?</script>|\s*<script[^>]*src="[^"]*mathjax/startup\.js"[^>]*></script>'
)
_TIPS = re.compile(r'src="([^"?]*_static/tippy/[^"?]*\.js)')


def without_mathjax(page: str) -> str:
    """A page's HTML without the scripts that typeset formulas."""
    return _MATHJAX.sub("", page)


def has_formulas(path: Path, page: str) -> bool:
    """Whether the HTML of the page at a path, or a preview of one of its links, has a formula to typeset."""
    previews = [path.parent / source for source in _TIPS.findall(page)]
    texts = [page, *(preview.read_text(encoding="utf-8") for preview in previews if preview.is_file())]
    return any('class="math' in text or 'class=\\"math' in text for text in texts)


def library_uses(cells: Iterable[str]) -> set[str]:
    """Full names of what the code of a notebook's cells takes from the library, as far as its own names go.

    Whatever hangs on a module that was imported from ``superposition`` counts, and so does a name imported from one.
    """
    tree = ast.parse("\n".join(cells))
    modules, found = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "superposition":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                path = package_dir().parent.joinpath(*full.split("."))
                if path.is_dir() or path.with_suffix(".py").is_file():
                    modules[alias.asname or alias.name] = full
                else:
                    found.add(full)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            found.add(f"{modules[node.value.id]}.{node.attr}")
    return found


def _read_uses(app: Any) -> None:
    """Which page uses what of the library, and who is used where."""
    app.library_uses, app.library_users = {}, {}
    for path in sorted((Path(app.srcdir) / "book").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        page = path.relative_to(app.srcdir).with_suffix("").as_posix()
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        app.library_uses[page] = library_uses(code)
        for name in app.library_uses[page]:
            app.library_users.setdefault(_defined(name), []).append(page)


def _defined(name: str) -> str:
    """The name under which the API pages have it: what a room lists is documented by the module that defines it."""
    module, _, own = name.rpartition(".")
    if module in _LISTS:
        return f"{getattr(getattr(import_module(module), own, None), '__module__', module)}.{own}"
    return name


def _tell_users(app: Any, _what: str, name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    pages = [page for page in app.library_users.get(name, []) if page in app.env.found_docs]
    if pages:
        lines += ["", "Used in " + ", ".join(f":doc:`/{page}`" for page in pages[:SHOWN_USERS]) + ".", ""]


def _tell_uses(app: Any, page: str, _template: str, context: dict[str, Any], _tree: Any) -> None:
    documented = app.env.get_domain("py").objects
    links = []
    for name in sorted(map(_defined, app.library_uses.get(page, ()))):
        if name in documented and not name.startswith(_HELPS):
            entry = documented[name]
            there = app.builder.get_relative_uri(page, entry.docname)
            short = name.removeprefix("superposition.")
            links.append(f'<a class="reference internal" href="{there}#{entry.node_id}"><code>{short}</code></a>')
    if links and "body" in context:
        context["body"] += (
            '<section id="in-the-library" class="in-the-library"><h2>In the library</h2>'
            f"<p>The code of this page uses {', '.join(links)}.</p></section>"
        )


def _mend_page(_app: Any, _page: str, _template: str, context: dict[str, Any], _tree: Any) -> None:
    if "body" in context:
        context["body"] = mend_roles(context["body"])


def _finished(app: Any, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        html = Path(app.outdir)
        trim_icons(html)
        for path in html.rglob("*.html"):
            page = path.read_text(encoding="utf-8")
            mended = name_folds(page)
            if path != html / "search.html":
                mended = without_search(mended)
            if not has_formulas(path, page):
                mended = without_mathjax(mended)
            if mended != page:
                path.write_text(mended, encoding="utf-8")


def _set_mathjax(_app: Any, config: Any) -> None:
    config.mathjax_path = "mathjax/startup.js"
    config.mathjax3_config = {**MATHJAX, **(config.mathjax3_config or {})}


def setup(app: Any) -> dict[str, Any]:
    """What Sphinx calls: after sphinx-mathjax-offline, whose files these are."""
    # Trees of pages are many small objects that stay: with Python's usual thresholds a quarter of a build is spent
    # on looking through them for garbage.
    gc.set_threshold(200_000, 50, 100)
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("config-inited", _set_mathjax, priority=900)
    app.connect("html-page-context", _mend_page)
    app.connect("builder-inited", _read_uses)
    app.connect("autodoc-process-docstring", _tell_users, priority=900)  # after napoleon
    app.connect("html-page-context", _tell_uses, priority=400)  # before the previews are gathered
    app.connect("build-finished", _finished)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
