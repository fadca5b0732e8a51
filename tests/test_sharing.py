"""What a shared link shows and a page says of itself: description, address, version, how to cite, the PDF."""

import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from docutils import nodes
from PIL import Image

import pictures
import sharing

ROOT = Path(__file__).parents[1]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("repository", "address"),
    [
        ("", ""),
        ("https://github.com/Made-Up/book", "https://made-up.github.io/book/"),
        ("https://github.com/made-up/book.git", "https://made-up.github.io/book/"),
        ("https://github.com/made-up/Made-up.github.io/", "https://made-up.github.io/"),
        ("https://gitlab.com/made-up/book", ""),
        ("https://github.com/made-up", ""),
    ],
)
def test_the_address_of_the_pages_follows_from_that_of_the_repository(repository, address):
    assert sharing.site_address(repository) == address


def paragraph(*parts):
    made = {str: nodes.Text, tuple: lambda part: getattr(nodes, part[0])(part[1], part[1])}
    return nodes.paragraph("", "", *(made[type(part)](part) for part in parts))


def page(*paragraphs):
    box = nodes.admonition("", paragraph("A box comes before the text."))
    return nodes.section("", box, *paragraphs)


LONG = "An edit moves the answers of other facts, too, and they are many. " * 4


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (("It is so. Is it?",), "It is so. Is it?"),
        (("As Hu et al. (2025) say, it leaks [Meng et al., 2022]. Always?",), "As Hu et al. say, it leaks. Always?"),
        (
            (
                "The overlap ",
                ("math", "p"),
                " is one number. What does it tell?",
            ),
            "What does it tell?",
        ),
        ((LONG, ("strong", "Why is it so?"), " A last word."), "Why is it so?"),
        ((LONG,), (LONG[:66] * 3).strip()),
        (
            (
                ("math", "W"),
                " is a matrix",
            ),
            "The next one.",
        ),
    ],
)
def test_a_description_is_whole_sentences_without_citations_and_formulas(parts, said):
    assert sharing.description(page(paragraph(*parts), paragraph("The next one."))) == said
    assert len(said) <= sharing.SHOWN


def test_a_page_without_text_has_no_description():
    assert sharing.description(page()) == ""


def test_the_pdf_is_shown_only_while_no_page_is_newer(tmp_path):
    folder, source = tmp_path / "html", tmp_path / "chapter.ipynb"
    source.write_text("")
    assert sharing.current_pdf(folder, [source]) is None
    pdf = tmp_path / sharing.PDF
    pdf.write_bytes(b"%PDF")
    assert sharing.current_pdf(folder, [source]) == pdf
    os.utime(source, (pdf.stat().st_mtime + 1,) * 2)
    assert sharing.current_pdf(folder, [source]) is None


def test_make_prints_the_pdf_where_the_pages_look_for_it():
    assert f"PDF := _build/{sharing.PDF}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_version_and_way_to_cite_are_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert CITATION["version"] == project["version"]
    assert CITATION["authors"][0]["name"] == project["authors"][0]["name"]
    index = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    book, paper = re.findall(r"^@\w+\{.*?^\}", index, re.M | re.S)
    (cited,) = CITATION["references"]
    for entry, held in ((book, CITATION), (paper, cited)):
        fields = dict(re.findall(r"(\w+) += \{(.*)\},", entry))
        assert fields["title"] == held["title"]
        assert fields["year"] == str(held.get("year") or held["date-released"][:4])
        names = [one.get("name") or f"{one['family-names']}, {one['given-names']}" for one in held["authors"]]
        assert fields["author"].strip("{}") == " and ".join(names)
    assert f"version = {{{CITATION['version']}}}" in book and cited["url"].endswith(
        re.search(r"eprint.*\{(.*)\}", paper)[1]
    )


def test_the_picture_of_shared_links_has_the_size_that_previews_expect():
    with Image.open(ROOT / "book" / sharing.CARD) as card:
        assert card.size == pictures.CARD
    assert (ROOT / "book" / sharing.CARD).stat().st_size < 100_000
