"""A Sphinx extension: what search finds, what its results are called and in which order, and names of folded code.

What the browser does with it is in ``search.js``.
"""

import functools
import re
from collections import Counter
from html.entities import html5

from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode
from sphinx.search.en import SearchEnglish

#: A word that a page has more rarely does not move the page up.
LEAST = 3

#: What is numbered, where Sphinx's name for it is not a reader's.
KINDS = {"displaymath": "Equation"}

_LANGUAGE = SearchEnglish({})
_stem = functools.cache(_LANGUAGE.stem)


def plain(node):
    """The text of a node, its formulas without TeX."""
    return re.sub(r"\s+", " ", "".join(map(_text, node.findall(nodes.Text)))).strip()


def _text(text):
    return untex(text) if isinstance(text.parent, nodes.math) else text.astext()


def untex(formula):
    """A formula of TeX in plain characters: letters and signs that HTML knows by the same name, no other command."""
    letters = re.sub(r"\\([A-Za-z]+) ?", lambda command: html5.get(f"{command[1]};", ""), formula)
    return re.sub(r"\\.|[{}^_]", "", letters)


def numbers_of(env, page):
    """What is numbered on a page, by id: ``Figure 4.2``, ``Equation 4.1``."""
    return {
        name: f"{KINDS.get(kind, kind.title())} {'.'.join(map(str, number))}"
        for kind, found in env.toc_fignumbers.get(page, {}).items()
        for name, number in found.items()
    }


def titles(doctree, numbers, terms):
    """What results may be called, and where it is: sections, whatever has a number, verdicts, terms.

    What has a number is found by it, and by its name if it has one, "Theorem 4.1" and "Lossless exactly when
    orthogonal": Sphinx finds a title by half of it or more. Boxes that only say ``Hint`` are left out.

    Parameters
    ----------
    numbers, terms : dict
        Names by id.
    """
    found = []
    for title in doctree.findall(nodes.title):
        box, text = title.parent, plain(title)
        name = next(iter(box["ids"]), None)
        if isinstance(box, nodes.section):
            found.append((text, name if found else None))
        elif name in numbers or (name and "verdict" in box["classes"]):
            own = re.sub(r"^Exercise(?=\S)| · [^()]*", "", text).strip()
            found.append((re.sub(r"^\((.*)\)$", r"\1", own), name))
    return [title for title in found + [(text, name) for name, text in (numbers | terms).items()] if title[0]]


def give_ids(doctree):
    """Have the first verdict of each claim be linked to, ``claim-4``."""
    taken = {name for node in doctree.findall(nodes.Element) for name in node["ids"]}
    for box in doctree.findall(nodes.admonition):
        name = nodes.make_id(plain(box[0]).split(" · ")[0])
        if "verdict" in box["classes"] and not box["ids"] and name and name not in taken:
            box["ids"].append(name)
            taken.add(name)


def words_of(doctree):
    """How often a page says each word in its text, not in its code or formulas; words by their stem."""
    counts = Counter()
    for text in doctree.findall(nodes.Text):
        if not isinstance(text.parent, (nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.comment)):
            counts.update(map(_stem, _LANGUAGE.split(text.astext())))
    return {word: count for word, count in counts.items() if count >= LEAST and _LANGUAGE.word_filter(word)}


def name_folds(doctree, numbers):
    """Have each fold of code say whose it is: the figure's or table's that it makes, or else its section's."""
    seen = Counter()
    for fold in doctree.findall(HideCodeCellNode):
        made = (numbers[name] for node in fold.parent.findall(nodes.Element) for name in node["ids"] if name in numbers)
        what = next(made, None) or plain(_heading(fold))
        seen[what] += 1
        what += f" ({seen[what]})" if seen[what] > 1 else ""
        fold["prompt_show"], fold["prompt_hide"] = f"Show code: {what}", f"Hide code: {what}"


def _heading(node):
    """The title of the innermost section around a node that has one."""
    while not (isinstance(node, nodes.section) and isinstance(node[0], nodes.title)):
        node = node.parent
    return node[0]


def _count(app, doctree):
    app.env.find_words = getattr(app.env, "find_words", {}) | {app.env.docname: words_of(doctree)}


def _read(app, doctree, page):
    if app.builder.name == "html":
        numbers = numbers_of(app.env, page)
        named = app.env.get_domain("std").objects.items()
        terms = {place: name for (kind, name), (where, place) in named if kind == "term" and where == page}
        give_ids(doctree)
        app.find_titles[page] = titles(doctree, numbers, terms)
        name_folds(doctree, numbers)


def _index(app):
    """Give Sphinx's index our titles, and the counts of words; a page of the library has no second entry for a name."""
    indexer = getattr(app.builder, "indexer", None)
    if indexer is not None and app.builder.name == "html":
        indexer._all_titles.update(app.find_titles)
        indexer._index_entries.clear()
        frozen, pages = indexer.freeze, sorted(indexer._titles)
        counts = {}
        for place, page in enumerate(pages):
            for word, count in app.env.find_words.get(page, {}).items():
                counts.setdefault(word, {})[place] = count
        indexer.freeze = lambda: frozen() | {"counts": counts}
    return []


def setup(app):
    """What Sphinx calls."""
    app.find_titles = {}
    app.connect("doctree-read", _count)
    app.connect("doctree-resolved", _read)
    app.connect("html-collect-pages", _index)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
