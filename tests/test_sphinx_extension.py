"""What the book's Sphinx extension takes out of the theme's files, and what it leaves."""

import json
import shutil
from importlib import resources
from pathlib import Path

import matplotlib
import pytest
from bs4 import BeautifulSoup
from docutils import nodes, utils
from fontTools.ttLib import TTFont
from myst_nb.sphinx_ import HideCodeCellNode

import book_pages as site
import finding

SCRIPT = (
    'var icons={"bars":[448,512,["navicon"],"f0c9","M0 96z"],sun:[512,512,[9728],"f185",["M1","M2"]],'
    '"address-book":[512,512,[62138,"contact-book"],"f2b9","M384z"]};draw(icons)'
)


def test_icons_in_use_stay_by_name_or_alias():
    kept = site.keep_icons(SCRIPT, {"sun", "contact-book"})
    assert '"bars"' not in kept
    assert "sun:[512" in kept
    assert '"address-book"' in kept
    assert kept.startswith("var icons={") and kept.endswith("};draw(icons)")
    assert '"bars"' in site.keep_icons(SCRIPT, {"navicon"})


def test_style_rules_of_other_icons_go():
    style = '.fa-sun:before{content:"\\f185"}.fa-bolt:before,.fa-zap:before{content:"\\f0e7"}.fa-lg{font-size:2em}'
    assert site.keep_icon_rules(style, {"zap"}) == style.removeprefix('.fa-sun:before{content:"\\f185"}')


def test_a_subset_keeps_the_characters_asked_for(tmp_path):
    font = tmp_path / "font.ttf"
    shutil.copyfile(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", font)
    font.with_suffix(".woff2").write_bytes(b"compressed")
    site.subset_font(font, {"A", "ß"})
    with TTFont(font) as subset:
        assert {chr(code) for code in subset.getBestCmap()} == {"A", "ß"}
    assert font.with_suffix(".woff2").read_bytes() == font.read_bytes()
    assert font.stat().st_size < 20_000


def test_the_theme_still_ships_icons_in_the_form_that_is_trimmed():
    import pydata_sphinx_theme

    folder = resources.files(pydata_sphinx_theme) / "theme" / "pydata_sphinx_theme" / "static" / "scripts"
    script = (folder / "fontawesome.js").read_text(encoding="utf-8")
    kept = site.keep_icons(script, {"bars", "magnifying-glass"})
    assert len(kept) < 0.1 * len(script)
    assert "magnifying-glass" in kept


def test_roles_that_name_no_list_are_mended():
    page = '<div role="list" class="citation-list"><div class="citation" id="x" role="doc-biblioentry">a</div></div>'
    assert site.mend(page) == '<div class="citation-list"><div class="citation" id="x">a</div></div>'
    assert site.mend('<ul role="list">') == '<ul role="list">'


def test_what_a_notebook_uses_of_the_library_is_found():
    cells = [
        "import numpy as np\nfrom superposition.linear import overlap as o\n"
        "from superposition.lm import moments\nfrom superposition.book.cells import glue",
        "C = moments.estimate(lm, text=o.measure).second_moment(3)\nnp.linalg.inv(C)\nthis.overlap.summary()",
    ]
    assert site.library_uses(cells) == {
        "superposition.lm.moments",
        "superposition.lm.moments.estimate",
        "superposition.linear.overlap",
        "superposition.linear.overlap.measure",
        "superposition.book.cells.glue",
    }


def test_a_page_is_freed_of_the_search_scripts_once():
    page = '<head><script src="a.js"></script>\n <script src="../_static/searchtools.js"></script>\n' + (
        '<script src="../searchindex.js?v=1"></script></head>'
    )
    lighter = site.mend(page)
    assert lighter == '<head><script src="a.js"></script><script>var Search;</script></head>'
    assert site.mend(lighter) == lighter
    assert site.mend(page, search=True) == page


def test_folds_of_the_table_of_contents_get_a_name_once():
    page = '<a href="14.html">14. Who</a><details><summary><span class="toctree-toggle"></span></summary></details>'
    named = site.mend(page)
    assert '<summary aria-label="Pages below 14. Who"><span class="toctree-toggle"' in named
    assert site.mend(named) == named


def test_folds_of_code_are_named_by_what_stands_on_them_and_those_of_claims_by_their_claim():
    code = '<summary aria-label="Toggle hidden content">\n<p>Show code: Figure 4.1</p></summary>'
    assert site.mend(code) == "<summary>\n<p>Show code: Figure 4.1</p></summary>"
    row = '<tr class="row-even"><td><p><strong>{}</strong> a claim</p></td>\n<td><p>{}</p></td></tr>\n'
    bar = "<details><summary>bar</summary>It stands.</details>"
    named = site.mend(row.format(1, "none") + "".join(row.format(claim, bar) for claim in (12, 3, 3)))
    labels = [tag["aria-label"] for tag in BeautifulSoup(named, "html.parser").find_all("summary")]
    assert labels == ["bar of claim 12", "bar of claim 3, trial 1 of 2", "bar of claim 3, trial 2 of 2"]


def test_only_pages_with_formulas_load_mathjax(tmp_path):
    tips = tmp_path / "_static" / "tippy" / "a.js"
    tips.parent.mkdir(parents=True)
    tips.write_text("{}")
    page = tmp_path / "a.html"
    plain = '<script src="_static/tippy/a.js"></script><p>plain</p>'
    assert not site.has_formulas(page, plain)
    assert site.has_formulas(page, '<span class="math notranslate">')
    tips.write_text('{"x": "<span class=\\"math notranslate\\">"}')
    assert site.has_formulas(page, plain)
    scripts = '<script>window.MathJax = {"a": 1}</script>\n<script defer="defer" src="mathjax/startup.js?v=1"></script>'
    assert site.mend(scripts + plain) == plain
    assert site.mend(scripts + plain, formulas=True) == scripts + plain


SVG = "<svg width='518.4pt' viewBox='0 0 518.4 230.4'><path style='fill:#ffffff'/></svg>"


def test_a_figure_gets_a_second_rendering_and_both_have_their_size(tmp_path):
    for folder in ("_images", "book"):
        (tmp_path / folder).mkdir()
    (tmp_path / "_images" / "a.svg").write_text(SVG)
    page = '<img src="../_static/logo.svg" alt=""/><figure><img alt="A &gt; line." src="../_images/a.svg" /></figure>'
    made = site.two_renderings(page, tmp_path / "book")
    logo, light, dark = BeautifulSoup(made, "html.parser").find_all("img")
    assert str(logo) == '<img alt="" src="../_static/logo.svg"/>'
    assert (light["src"], dark["src"]) == ("../_images/a.svg", "../_images/a-dark.svg")
    assert light["alt"] == dark["alt"] == "A > line."
    assert {light[side] + dark[side] for side in ("width", "height")} == {"691691", "307307"}
    assert light["class"] == ["when-light"] and dark["class"] == ["when-dark", "dark-light"]
    assert dark["loading"] == "lazy" and not light.get("loading")
    assert (tmp_path / "_images" / "a-dark.svg").read_text() == SVG.replace("#ffffff", "#121212")
    assert site.two_renderings(made, tmp_path / "book") == made
    (tmp_path / "_images" / "a-dark.svg").write_text("stale")
    site.two_renderings(page, tmp_path / "book")
    assert (tmp_path / "_images" / "a-dark.svg").read_text() == SVG.replace("#ffffff", "#121212")
    elsewhere = '<img alt="\\\\delta" src="https://example.org/_images/a.svg">'
    assert site.two_renderings(elsewhere, tmp_path / "book") == elsewhere
    script = json.dumps(page)  # as the script of a preview has it
    again = site.two_renderings(script, tmp_path / "book")
    assert json.loads(again) == made and site.two_renderings(again, tmp_path / "book") == again
    (tmp_path / "_images" / "b.svg").write_text("<svg/>")
    with pytest.raises(ValueError, match=r"b\.svg has no viewBox"):
        site.two_renderings('<img src="_images/b.svg">', tmp_path)


def test_quoted_numbers_look_as_they_do_in_the_notebook_and_other_text_stays():
    page = utils.new_document("page")
    quoted = nodes.inline("", "-3e-08", classes=["pasted-text"])
    page += nodes.paragraph("", "from -1 to ", quoted, nodes.inline("", "-2"))
    site._write_numbers(None, page, "page")
    assert page.astext() == "from -1 to −3·10⁻⁸-2"


def test_formulas_in_a_title_are_plain_characters():
    assert finding.untex(r"p\,\delta") == "pδ"
    assert finding.untex(r"\Delta W = \mathrm{diag}(\lambda^2) \varepsilon_{ij}") == "ΔW = diag(λ2) ϵij"
    title = nodes.title("", "why ", nodes.math("", r"p\,\delta"), nodes.Text("  is\nnot"))
    assert finding.plain(title) == "why pδ is not"


def section(*children, title, **options):
    return nodes.section("", nodes.title("", title), *children, **options)


def test_results_are_called_by_section_number_verdict_and_term():
    exercise = nodes.admonition("", nodes.title("", " (Whiten · 10 minutes, easy)"), ids=["ex-a"])
    verdict = nodes.admonition("", nodes.title("", "Claim 4 · reproduced"), classes=["verdict"])
    hint = nodes.admonition("", nodes.title("", "Hint"))
    again = nodes.admonition("", nodes.title("", "Claim 4 · refuted"), classes=["verdict"])
    ours = nodes.admonition("", nodes.title("", "Claim 18 (ours) · refuted"), classes=["verdict"])
    theorem = nodes.admonition("", nodes.title("", ""), ids=["thm-a"])
    page = utils.new_document("page")
    below = section(exercise, hint, verdict, again, ours, theorem, title="Below", ids=["below"])
    page += section(below, title="Top", ids=["top"])
    numbers = {"ex-a": "Exercise 4.1", "fig-a": "Figure 4.2", "thm-a": "Theorem 4.1"}
    finding.give_ids(page)
    assert finding.titles(page, numbers, {"term-ROME": "ROME"}) == [
        ("Top", None), ("Below", "below"), ("Whiten", "ex-a"), ("Claim 4", "claim-4"),
        ("Claim 18 (ours)", "claim-18-ours"), ("Exercise 4.1", "ex-a"), ("Figure 4.2", "fig-a"),
        ("Theorem 4.1", "thm-a"), ("ROME", "term-ROME"),
    ]  # fmt: skip


def test_words_are_counted_in_text_by_their_stem():
    page = utils.new_document("page")
    page += nodes.paragraph("", "Forecasts of a forecast: to forecast what was forecasted, or of the of the.")
    page += nodes.literal_block("", "code code code")
    page += nodes.paragraph("", "", *(nodes.math("", "k k") for _ in range(3)))
    assert finding.words_of(page) == {"forecast": 4}


def test_a_fold_is_named_by_the_figure_that_its_cell_makes_or_by_its_section():
    def cell(*made):
        fold = HideCodeCellNode(prompt_show="", prompt_hide="")
        return fold, nodes.container("", fold, *made)

    cells = [cell(nodes.figure(ids=["fig-a"])), cell(), cell()]
    page = utils.new_document("page")
    untitled = nodes.section("", nodes.paragraph(), cells[2][1])  # as a solution has it
    page += section(cells[0][1], cells[1][1], untitled, title="Below", ids=["below"])
    finding.name_folds(page, {"fig-a": "Figure 4.2"})
    names = [fold["prompt_show"] for fold, _ in cells]
    assert names == ["Show code: Figure 4.2", "Show code: Below", "Show code: Below (2)"]
    assert cells[2][0]["prompt_hide"] == "Hide code: Below (2)"
