"""A Sphinx extension: pages that weigh little, and links from the chapters to the library and back.

``tests/test_site.py`` holds every page to its weight.
"""

from __future__ import annotations

import ast
import gc
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import pybtex.plugin
from docutils import nodes

from forms import written
from superposition.figures.svg import dark

#: What a page loads of MathJax: TeX in, HTML and CSS out. Its menu and its speech are left out.
MATHJAX = {"loader": {"load": ["core", "input/tex", "output/chtml"]}}

#: Where a chapter of a public repository can be run.
PLACES = {"colab_url": "https://colab.research.google.com", "binderhub_url": "https://mybinder.org"}

#: How many of the pages that use a function its entry names.
SHOWN_USERS = 4

#: Modules whose functions a chapter uses, but is not about.
HELPERS = ("superposition.book.exercises.", "superposition.book.cells.")

#: Packages whose public list is imported from their modules.
_LISTS = tuple(f"superposition.{room}" for room in ("book.exercises", "editing", "figures", "lm.models", "theory"))

# In FontAwesome's script an icon is `name:[width,height,[aliases],"code",path],`, its name quoted if it has a hyphen.
_ICON = re.compile(r'"?([\w$-]+)"?:\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?')
# In its style sheet an icon is `.fa-name:before,.fa-alias:before{content:"\code"}`.
_ICON_RULE = re.compile(r'((?:\.fa-[a-z0-9-]+:{1,2}before,?)+)\{content:"[^"]*"\}')


def keep_icons(script: str, used: set[str]) -> str:
    """FontAwesome's script with the icons that are ``used``, by name or alias without ``fa-``, and no others."""

    def keep(icon: re.Match[str]) -> str:
        return icon[0] if {icon[1], *re.findall(r'"([a-z0-9-]+)"', icon[2])} & used else ""

    return _ICON.sub(keep, script)


def keep_icon_rules(style: str, used: set[str]) -> str:
    """A style sheet without the rules of icons that are not ``used``."""

    def keep(rule: re.Match[str]) -> str:
        return rule[0] if set(re.findall(r"\.fa-([a-z0-9-]+)", rule[1])) & used else ""

    return _ICON_RULE.sub(keep, style)


def subset_font(font: Path, characters: set[str]) -> None:
    """Keep only these characters in a font, and in its compressed twin, in place."""
    from fontTools import subset

    subsetter = subset.Subsetter(subset.Options(notdef_outline=True))
    subsetter.populate(unicodes=[ord(character) for character in characters])
    with subset.load_font(str(font), subset.Options()) as loaded:
        subsetter.subset(loaded)
        loaded.save(str(font))
    twin = font.with_suffix(".woff2")
    if twin.is_file():
        shutil.copyfile(font, twin)  # browsers go by a file's content, and what is left is small


def trim_icons(html: Path) -> None:
    """Trim a built site's icons, in place: the script that draws them, its style rules and its fonts."""
    static = html / "_static"
    icons = static / "scripts" / "fontawesome.js"
    sources = [*html.rglob("*.html"), *(path for path in static.rglob("*.js") if "mathjax" not in path.parts)]
    used: set[str] = set()
    for path in sources:
        if path != icons:
            used |= set(re.findall(r"\bfa-([a-z0-9-]+)", path.read_text(encoding="utf-8", errors="replace")))
    icons.write_text(keep_icons(icons.read_text(encoding="utf-8"), used), encoding="utf-8")
    characters: set[str] = set()
    for path in static.rglob("*.css"):
        style = keep_icon_rules(path.read_text(encoding="utf-8"), used)
        path.write_text(style, encoding="utf-8")
        characters |= {chr(int(code, 16)) for code in re.findall(r"\\([ef][0-9a-f]{3})\b", style)}
        characters |= set(re.findall("[\ue000-\uf8ff]", style))
    for font in (static / "vendor" / "fontawesome" / "webfonts").glob("*.ttf"):
        subset_font(font, characters)


_SEARCH = re.compile(r'\s*<script src="[^"]*(searchtools|language_data|searchindex)\.js[^"]*"></script>')
_FOLD = re.compile(r'(>([^<>]+)</a><details[^>]*><summary)(?=><span class="toctree-toggle")')
_BAR = re.compile(r"(<tr[^>]*><td><p><strong>(\d+)</strong>(?:(?!</tr>).)*?<summary)>bar</summary>", re.DOTALL)


def name_bars(page: str) -> str:
    """Names for the folds in a table of claims, which all say ``bar``: by claim, and by trial if it has several."""
    trials, seen = Counter(claim for _, claim in _BAR.findall(page)), Counter()

    def name(bar: re.Match[str]) -> str:
        seen[bar[2]] += 1
        which = f", trial {seen[bar[2]]} of {trials[bar[2]]}" if trials[bar[2]] > 1 else ""
        return f'{bar[1]} aria-label="bar of claim {bar[2]}{which}">bar</summary>'

    return _BAR.sub(name, page)


def mend(page: str, *, search: bool = False, formulas: bool = False) -> str:
    """A page's HTML with roles that assistive software understands, and without scripts that it does not need.

    docutils calls the bibliography a list, though what it holds are no list items, and the folds of the table of
    contents have no name. Folds of code are named by what stands on them (``finding.py``), and the folds in a table of
    claims by their claims. The theme has every page load the search index, to search while the reader types; it lets
    that be if ``Search`` is undefined or null. MathJax is for pages with formulas, or with previews that have some.
    """
    page = re.sub(r"<title>(.+?) &#8212; \1</title>", r"<title>\1</title>", page)
    page = page.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    page = page.replace(' role="doc-biblioentry"', "")
    page = page.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    page = name_bars(page)
    page = _FOLD.sub(r'\1 aria-label="Pages below \2"', page)
    if not search:
        page, cuts = _SEARCH.subn("", page)
        page = page.replace("</head>", "<script>var Search;</script></head>", 1) if cuts else page
    if not formulas:
        page = re.sub(r"\s*<script>window\.MathJax = .*?</script>", "", page)
        page = re.sub(r'\s*<script[^>]*src="[^"]*mathjax/startup\.js[^"]*"[^>]*></script>', "", page)
    return page


def has_formulas(path: Path, page: str) -> bool:
    """Whether the HTML of the page at a path, or a preview of one of its links, has a formula to typeset."""
    previews = [path.parent / source for source in re.findall(r'src="([^"?]*_static/tippy/[^"?]*\.js)', page)]
    texts = [page, *(preview.read_text(encoding="utf-8") for preview in previews if preview.is_file())]
    return any('class="math' in text or 'class=\\"math' in text for text in texts)


def library_uses(cells: Iterable[str]) -> set[str]:
    """Full names of what the code of a notebook's cells takes from the library, as far as its own names go.

    Whatever hangs on a module that was imported from ``superposition`` counts, and so does a name imported from one.
    """
    tree = ast.parse("\n".join(cells))
    modules, used = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "superposition":
            names = {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            modules |= names
            used |= set(names.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            used.add(f"{modules[node.value.id]}.{node.attr}")
    return used


def _read_uses(app: Any) -> None:
    """Which page uses what of the library, and who is used where."""
    app.library_uses, app.library_users = {}, {}
    for path in sorted((Path(app.srcdir) / "book").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        page = path.relative_to(app.srcdir).with_suffix("").as_posix()
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        app.library_uses[page] = {_defined(name) for name in library_uses(code)}
        for name in app.library_uses[page]:
            app.library_users.setdefault(name, []).append(page)


def _defined(name: str) -> str:
    """The name under which the API pages have it: what a room lists is documented by the module that defines it."""
    module, _, own = name.rpartition(".")
    if module in _LISTS:
        return f"{getattr(getattr(import_module(module), own, None), '__module__', module)}.{own}"
    return name


def _tell_users(app: Any, what: str, name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    pages = [page for page in app.library_users.get(name, []) if page in app.env.found_docs]
    if pages and what != "module":
        lines += ["", "Used in " + ", ".join(f":doc:`/{page}`" for page in pages[:SHOWN_USERS]) + ".", ""]


def _tell_uses(app: Any, page: str, _template: str, context: dict[str, Any], _tree: Any) -> None:
    documented = app.env.get_domain("py").objects
    links = []
    for name in sorted(app.library_uses.get(page, ())):
        entry = documented.get(name)
        if entry and entry.objtype != "module" and not name.startswith(HELPERS):
            uri = app.builder.get_relative_uri(page, entry.docname)
            short = name.removeprefix("superposition.")
            links.append(f'<a class="reference internal" href="{uri}#{entry.node_id}"><code>{short}</code></a>')
    if links and "body" in context:
        context["body"] += (
            '<section id="in-the-library" class="in-the-library"><h2>In the library</h2>'
            f"<p>The code of this page uses {', '.join(links)}.</p></section>"
        )


_PICTURE = re.compile(
    r'<img\b(?! class=\\?"when-)'
    r'(?=[^>]*? src=(?P<quote>\\?")(?P<src>[^":?\\]*_images/[^"?\\]+\.svg))(?P<rest>[^>]*?) ?/?>'
)
_SIZE = re.compile(r"""<svg\b[^>]*? viewBox=["']0 0 ([\d.]+) ([\d.]+)["']""")
_POINT = 4 / 3  # a point in the pixels of a page


def two_renderings(text: str, folder: Path) -> str:
    """HTML, or the script of a preview with HTML in it, with a second rendering for dark pages beside every figure.

    It is written beside the first, and a browser loads it when it is to be seen. Both have their size, so that nothing
    moves when they come. A page that has them stays as it is.

    Parameters
    ----------
    folder : Path
        Where the page is.
    """

    def pair(image: re.Match[str]) -> str:
        quote = image["quote"]
        path = folder / image["src"]
        svg = path.read_text(encoding="utf-8")
        twin, turned = path.with_name(f"{path.stem}-dark.svg"), dark(svg)
        if not twin.is_file() or twin.read_text(encoding="utf-8") != turned:
            twin.write_text(turned, encoding="utf-8")
        wide, high = (round(float(side) * _POINT) for side in (_SIZE.search(svg) or _unsized(path)).groups())
        end = f" width={quote}{wide}{quote} height={quote}{high}{quote}/>"
        other = image["rest"].replace(f"{path.stem}.svg", twin.name)
        first = f"<img class={quote}when-light{quote}{image['rest']}{end}"
        # a class of the theme's, for the theme adds a filter to what has it not
        return first + f"<img class={quote}when-dark dark-light{quote} loading={quote}lazy{quote}{other}{end}"

    return _PICTURE.sub(pair, text)


def _unsized(path: Path) -> re.Match[str]:
    raise ValueError(f"{path.name} has no viewBox that begins at 0 0")


def _number_by_page(_app: Any, env: Any) -> list[str]:
    """Figures and tables of a page that is no chapter count from 1 there, as in its notebook; Sphinx would go on."""
    for kinds in env.toc_fignumbers.values():
        for numbers in kinds.values():
            if all(len(number) == 1 for number in numbers.values()):
                numbers |= {name: (place,) for place, name in enumerate(sorted(numbers, key=lambda of: numbers[of]), 1)}
    return []


def _write_numbers(_app: Any, doctree: nodes.document, _page: str) -> None:
    """Numbers that the text quotes from cells look as they do in the notebook."""
    for node in doctree.findall(nodes.inline):
        if "pasted-text" in node["classes"]:
            for text in list(node.findall(nodes.Text)):
                text.parent.replace(text, nodes.Text(written(text.astext())))


def _lighten(app: Any, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        html = Path(app.outdir)
        trim_icons(html)
        paired = app.builder.name != "singlehtml"  # which is for paper, and light
        previews = html / "_static" / "tippy"
        for path in previews.rglob("*.js") if paired else ():  # beside the page whose links they are for
            preview = path.read_text(encoding="utf-8")
            path.write_text(two_renderings(preview, html / path.parent.relative_to(previews)), encoding="utf-8")
        for path in html.rglob("*.html"):
            page = path.read_text(encoding="utf-8")
            page = two_renderings(page, path.parent) if paired else page
            lighter = mend(page, search=path.name == "search.html", formulas=has_formulas(path, page))
            path.write_text(lighter, encoding="utf-8")


def _offer_places(_app: Any, config: Any) -> None:
    """Links to the repository, and to where a chapter can be run, if ``_config.yml`` has the repository's address."""
    options = config.html_theme_options
    if options.get("repository_url"):
        options |= dict.fromkeys(("use_repository_button", "use_issues_button", "use_edit_page_button"), True)
        options["launch_buttons"] = {"notebook_interface": "jupyterlab"} | PLACES


def _set_mathjax(_app: Any, config: Any) -> None:
    config.mathjax_path = "mathjax/startup.js"
    config.mathjax3_config = {**MATHJAX, **(config.mathjax3_config or {})}


def _hurry(_app: Any) -> None:
    """Save a third of the build: nothing is thrown away in it but trees as large as a page, which are needed again.

    And each citation asks for the same plugin, which pybtex looks for among all packages installed.
    """
    gc.disable()
    backend = ("pybtex.backends", "plaintext")
    pybtex.plugin.register_plugin(*backend, pybtex.plugin.find_plugin(*backend), force=True)


def setup(app: Any) -> dict[str, Any]:
    """What Sphinx calls: after sphinx-mathjax-offline, whose files these are."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("config-inited", _set_mathjax, priority=900)
    app.connect("config-inited", _offer_places)
    app.connect("builder-inited", _hurry)
    app.connect("builder-inited", _read_uses)
    app.connect("autodoc-process-docstring", _tell_users, priority=900)  # after napoleon
    app.connect("html-page-context", _tell_uses, priority=400)  # before the previews are gathered
    app.connect("env-get-updated", _number_by_page, priority=900)  # after Sphinx's own numbers
    app.connect("doctree-resolved", _write_numbers)
    app.connect("build-finished", _lighten)
    app.connect("build-finished", lambda *_: gc.enable(), priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
