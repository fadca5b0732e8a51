"""The wheel carries the book's data and records, and finds them where it is unpacked."""

import ast
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import nbformat
import pytest
from conftest import environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that the checkout keeps no build folder."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-text"):
        shutil.copy(ROOT / name, source)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.part", ".*")
    shutil.copytree(ROOT / "lib", source / "lib", ignore=ignore)
    for name in ("data", "records"):
        shutil.copytree(ROOT / "book" / name, source / "book" / name, ignore=ignore)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(place), str(source)], check=True, timeout=120)
    (built,) = place.glob("*.whl")
    return built


def shipped(name):
    folder = ROOT / "book" / name
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {file: path for file, path in found.items() if path.name[0] != "."}


def test_the_wheel_holds_every_module_and_no_tests(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    library = ROOT / "lib" / "superposition"
    modules = {f"superposition/{path.relative_to(library).as_posix()}" for path in library.rglob("*.py")}
    assert modules <= names
    assert not [name for name in names if "test" in name or name.endswith(".ipynb")]


@pytest.mark.parametrize("name", ["data", "records"])
def test_the_wheel_holds_the_books_files_as_they_are(wheel, name):
    archive, files = zipfile.ZipFile(wheel), shipped(name)
    assert files
    for file, path in files.items():
        assert archive.read(f"superposition/_book/{name}/{file}") == path.read_bytes()


def test_an_unpacked_wheel_finds_its_data(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    script = (
        "import json\n"
        "from superposition import records\n"
        "from superposition.data import facts\nfrom superposition.io import files, paths\n"
        "seen = {'home': files.__file__, 'facts': len(facts.load('book')), 'records': records.names()}\n"
        "seen |= {name: sorted(p.relative_to(home).as_posix() for p in home.rglob('*') if p.is_file()) "
        "for name in ('data', 'records') for home in [getattr(paths, name + '_dir')()]} | {'names': records.names()}\n"
        "print(json.dumps(seen))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env=environment(PYTHONPATH=str(tmp_path / "site"), SUPERPOSITION_CACHE=str(tmp_path / "cache")),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert Path(seen["home"]).is_relative_to(tmp_path)
    from superposition import records
    from superposition.data import facts

    assert seen["facts"] == len(facts.load("book")) and seen["names"] == records.names()
    assert {"data": set(seen["data"]), "records": set(seen["records"])} == {
        name: set(shipped(name)) for name in ("data", "records")
    }


@pytest.mark.parametrize("chapter", ["07-toy-memory", "claims"])
def test_a_downloaded_chapter_runs_in_an_empty_folder(wheel, tmp_path, chapter):
    """With the wheel and nothing of the repository; the page's packages, Sphinx and myst-nb, must not be asked for."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    folder = tmp_path / "downloads"
    folder.mkdir()
    notebook = nbformat.read(ROOT / "book" / f"{chapter}.ipynb", as_version=4)
    seen = "import sys, superposition\nprint(superposition.__file__, {'sphinx', 'myst_nb'} & sys.modules.keys())"
    notebook.cells.append(nbformat.v4.new_code_cell(seen))
    nbformat.write(notebook, folder / "chapter.ipynb")
    program = (
        "import nbformat; from nbclient import NotebookClient\n"
        "done = NotebookClient(nbformat.read('chapter.ipynb', as_version=4), kernel_name='python3').execute()\n"
        "print(done.cells[-1].outputs[0].text)"
    )
    site = environment(PYTHONPATH=str(tmp_path / "site"), SUPERPOSITION_CACHE=str(tmp_path / "cache"))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=300, env=site
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "site" / "superposition" / "__init__.py"), "set()"]
    assert [path.name for path in folder.iterdir()] == ["chapter.ipynb"]


@pytest.mark.parametrize(("given", "seen"), [({}, "10"), ({"OPENBLAS_THREAD_TIMEOUT": "20"}, "20")])
def test_idle_threads_of_a_blas_soon_let_go_unless_the_reader_says_otherwise(given, seen):
    program = "import os, superposition\nprint(os.environ['OPENBLAS_THREAD_TIMEOUT'])"
    outside = {name: value for name, value in environment().items() if name != "OPENBLAS_THREAD_TIMEOUT"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=outside | given)
    assert done.stdout.split() == [seen], done.stderr


def test_pytest_runs_against_the_checkout():
    import superposition

    assert Path(superposition.__file__).is_relative_to(ROOT)


def pinned(*names):
    """The pins in files of requirements, as they stand there."""
    lines = [line for name in names for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    return [Requirement(line) for line in lines if "==" in line and not line.startswith("#")]


def test_whatever_is_declared_is_pinned():
    book = {canonicalize_name(pin.name) for pin in pinned("requirements.txt")}
    lab = {canonicalize_name(pin.name) for pin in pinned("requirements-lab.txt")}
    assert declared("book", "test") <= book and declared("lab") <= book | lab and not book & lab


def test_the_lock_is_one_for_uv_and_pip():
    """``make lint`` asks the package index whether it fits every Python and system; this asks the files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    files = ("requirements.txt", "requirements-lab.txt", "requirements-models.txt")
    assert [Requirement(pin) for pin in project["tool"]["uv"]["constraint-dependencies"]] == pinned(*files)
    (model,) = project["tool"]["uv"]["dependency-metadata"]
    assert f"{model['name']}=={model['version']}" in map(str, pinned("requirements-models.txt"))
    assert f"{model['name']}=={model['version']}" in project["dependency-groups"]["dev"]
    lock = (ROOT / ".ci" / "lock").read_text(encoding="utf-8")
    least, *others = re.search(r"^pythons=\((.*?)\)", lock, re.M)[1].split()
    assert project["project"]["requires-python"] == f">={least}"
    named = [line.split(":: ")[-1] for line in project["project"]["classifiers"] if "Python :: 3." in line]
    assert named == [".".join(version.split(".")[:2]) for version in (least, *others)]
    install = (ROOT / ".ci" / "install").read_text(encoding="utf-8")
    after = f"3, {int(others[-1].split('.')[1]) + 1}"
    assert f'promised="Python {least} to {others[-1]}"' in install
    assert f"not ({least.replace('.', ', ')}) <= sys.version_info < ({after})" in install
    assert f"Python {least} to {others[-1]}" in (ROOT / "README.md").read_text(encoding="utf-8")


def packages(*files):
    """Names on the package index of what files import that is neither Python's nor this repository's."""
    own = {path.stem for folder in ("book/_ext", "experiments", "tests") for path in (ROOT / folder).rglob("*.py")}
    modules = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules.add(node.module.split(".")[0])
    distributions = importlib.metadata.packages_distributions()
    modules -= own | sys.stdlib_module_names | {"superposition"}
    return {canonicalize_name(distributions.get(name, [name])[0]) for name in modules}


def declared(*extras):
    """Names of the packages that a user gets with some extras, without what comes with them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    return {canonicalize_name(Requirement(line).name) for line in listed}


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("lib/superposition", ("hub",)),
        ("lib/superposition/book", ("book",)),
        ("book/_ext", ("book",)),
        ("experiments", ("texts",)),
        ("tests", ("book", "test")),
    ],
)
def test_whatever_is_imported_is_declared(folder, extras):
    files = set((ROOT / folder).rglob("*.py"))
    if folder == "lib/superposition":  # it installs and runs without what the chapters' cells show things with
        files -= set((ROOT / folder / "book").rglob("*.py"))
    assert packages(*files) - declared(*extras) == set()


def test_the_library_imports_nothing_that_only_builds_the_book():
    used = packages(*(ROOT / "lib").rglob("*.py"))
    assert used & (declared("book") - declared()) <= {"ipython", "myst-nb"}
    assert {"numpy", "torch"} < used


def test_the_tree_stays_small():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("no git checkout")
    there = [ROOT / name for name in done.stdout.split("\0") if name]
    assert sum(path.stat().st_size for path in there if path.is_file()) < 20e6


@pytest.mark.skipif(sys.platform == "win32", reason="a script of a Unix shell")
def test_the_check_of_the_lock_says_what_is_wrong_and_when_it_could_not_look(tmp_path):
    for name in ("pyproject.toml", "requirements.txt", "requirements-lab.txt", "requirements-models.txt", ".ci/lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    nowhere = {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0", "UV_NO_CACHE": "1"}
    uv = environment(UV=str(Path(sys.executable).parent / "uv"), **nowhere)

    def check():
        return subprocess.run(
            ["bash", ".ci/lock", "check"], cwd=tmp_path, env=uv, capture_output=True, text=True, timeout=120
        )

    done = check()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "The lock was not checked: the package index does not answer.\n"
    pins = tmp_path / "requirements.txt"
    pins.write_text(pins.read_text().replace("numpy==", "numpy==1"))
    done = check()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "pyproject.toml does not hold the pins of the requirements: say `make lock`.\n"


#: Stand-ins for programs: each says how it was called, and pip whether it was told where to look.
PROGRAMS = {
    "uv": 'echo "uv backend=${UV_TORCH_BACKEND-none} $*"',
    "python": 'case "$*" in *"config list"*) for i in $(seq 4000); do echo "$SETTING"; done;; *) echo "pip $*";; esac',
    "nvidia-smi": "",
}
TORCH = "pip -m pip --disable-pip-version-check install --quiet --no-deps --retries 1 --index-url"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere PyTorch's wheels have no CUDA")
@pytest.mark.parametrize(
    ("there", "told", "first"),
    [
        (["uv"], {}, "uv backend=auto pip install"),
        (["uv"], {"UV_TORCH_BACKEND": "cu130"}, "uv backend=cu130 pip install"),
        (["uv"], {"PIP_INDEX_URL": "here"}, "pip -m pip --disable-pip-version-check install --quiet -r"),
        (["uv"], {"SETTING": "global.index-url='here'"}, "pip -m pip --disable-pip-version-check install --quiet -r"),
        (["uv"], {"PIP_INDEX_URL": "here", "UV_INDEX": "there"}, "uv backend=none pip install"),
        ([], {}, TORCH),
        ([], {"SETTING": "global.find-links='here'"}, "pip -m pip --disable-pip-version-check install --quiet -r"),
        (["nvidia-smi"], {}, "pip -m pip --disable-pip-version-check install --quiet -r"),
    ],
)
def test_packages_come_by_uv_or_pip_from_where_they_were_told_to_look(tmp_path, there, told, first):
    for name in ("python", *there):
        (tmp_path / name).write_text(f"#!/bin/bash\n{PROGRAMS[name]}\n")
        (tmp_path / name).chmod(0o755)
    for name in ("bash", "env", "grep", "seq", "uname"):
        (tmp_path / name).symlink_to(shutil.which(name))
    variables = {"PATH": str(tmp_path), "HOME": str(tmp_path), "SETTING": ""} | told
    install = [ROOT / ".ci" / "install", "python", "-r", "requirements.txt"]
    done = subprocess.run(install, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60)
    said, *lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "") and lines[0].startswith(first), done.stdout
    assert said.split()[:2] == ["with", first.split()[0]]
    assert lines[-1].endswith(" -r requirements.txt")


def test_an_environment_that_cannot_be_made_leaves_nothing_half(tmp_path):
    """On Debian without ``python3-venv``, a Python is there before it fails; and an old Python is named as such."""
    broken = tmp_path / "broken"
    broken.write_text('#!/bin/bash\ncase "$1" in -c) exit 0 ;; *) mkdir -p "$3/bin"; exit 1 ;; esac\n')
    old = tmp_path / "old"
    old.write_text("#!/bin/bash\nexit 1\n")
    for program, says in ((broken, ""), (old, "Python 3.11.2 to 3.14 is needed")):
        program.chmod(0o755)
        done = subprocess.run(
            [ROOT / ".ci" / "install", program, "venv", tmp_path / "made"],
            env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 1 and done.stderr.startswith(says)
        assert not (tmp_path / "made").exists()


def test_messages_name_make_only_in_the_environment_that_make_made(tmp_path, monkeypatch):
    from superposition.io import paths

    monkeypatch.setattr(paths, "_PACKAGE", tmp_path / "lib" / "superposition")
    monkeypatch.setattr(paths.sys, "prefix", str(tmp_path / ".venv"))
    (tmp_path / ".venv").mkdir()
    assert not paths.made_by_make()
    (tmp_path / ".venv" / ".ready").write_text("")
    assert paths.made_by_make()
    monkeypatch.setattr(paths.sys, "prefix", str(tmp_path / "other"))
    assert not paths.made_by_make()
