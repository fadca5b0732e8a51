"""A Sphinx extension: the directive ``turn``, a picture to turn on the page, and its files where it is used.

``:::{turn} keys`` holds the words that say the same where nothing can be turned: on paper, in a notebook front end,
without JavaScript. ``book/_static/turn/turn.js`` puts the picture there; attributes of its start can follow the name.
"""

from __future__ import annotations

from html import escape
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

KINDS = ("keys", "law", "memory")


class Turn(SphinxDirective):
    """A picture to turn, by name, and the words for it."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        kind = self.arguments[0]
        if kind not in KINDS:
            raise self.error(f"there is no picture {kind!r} to turn; there are {', '.join(KINDS)}")
        self.env.metadata[self.env.docname]["turn"] = kind
        words = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, words)
        start = nodes.raw("", f'<div class="turn" data-turn="{escape(kind)}">', format="html")
        return [start, *words.children, nodes.raw("", "</div>", format="html")]


def _add_files(app: Any, page: str, _template: str, _context: dict[str, Any], _tree: Any) -> None:
    if "turn" in app.env.metadata.get(page, {}):
        app.add_css_file("turn/turn.css")
        app.add_js_file("turn/turn.js", loading_method="defer")


def setup(app: Any) -> dict[str, Any]:
    """What Sphinx calls."""
    app.add_directive("turn", Turn)
    app.connect("html-page-context", _add_files)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
