"""The law of the house: what each room of the library may import, and how long a function may be (CONTRIBUTING)."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIB = ROOT / "lib" / "superposition"

#: Room: the rooms, and the packages of others among HELD, that it may import. Every room may import itself and errors.
LAW = {
    "errors": "",
    "io": "",
    "theory": "sympy",
    "linear": "",
    "stats": "",
    "data": "io",
    "lm": "data linear io torch transformers",
    "editing": "lm linear stats data io records torch transformers",
    "toys": "linear lm editing stats data io torch transformers",
    "records": "linear io",
    "measure": "lm linear stats data io records torch",
    "studies": "records linear stats data",
    "figures": "studies records linear stats matplotlib",
    "book": "studies records linear stats theory data io lm editing sympy",
    "cli": "__version__ io data linear stats lm editing toys measure records studies torch transformers",
}
#: What is heavy or belongs to one trade, and so is held by the law as well.
HELD = {"torch", "transformers", "sympy", "matplotlib"}


def imports(path: Path, types: bool = True) -> list[tuple[int, str]]:
    """Line and full name of all that a file imports, inside functions as well, and for types alone if asked."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not types:
        tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")]
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return names


def breaches(lib: Path) -> list[str]:
    """Every import in a library that the law forbids, as ``file:line imports name``."""
    found = []
    for path in sorted(lib.glob("*/**/*.py")) + sorted(lib.glob("[a-z]*.py")):
        room = path.relative_to(lib).parts[0].removesuffix(".py")
        allowed = {room, "errors", *LAW[room].split()}
        for line, name in imports(path):
            top, *rest = name.split(".")
            other = rest[0] if top == "superposition" else top
            if (top == "superposition" or top in HELD) and other not in allowed:
                found.append(f"{path.relative_to(lib)}:{line} imports {name}")
    return found


def test_every_room_keeps_the_law():
    assert breaches(LIB) == []


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("studies", "from superposition.lm import keys"),
        ("linear", "import torch.linalg"),
        ("io", "def late():\n    from superposition import records"),
        ("figures", "from superposition.book.cells import glue"),
    ],
)
def test_a_forbidden_import_is_named(room, line, tmp_path):
    (tmp_path / room).mkdir()
    (tmp_path / room / "planted.py").write_text(line)
    (breach,) = breaches(tmp_path)
    assert breach.startswith(f"{room}/planted.py:") and line.split()[-1].split(".")[0] in breach


def test_no_module_imports_itself_in_a_circle():
    modules = {".".join(path.relative_to(LIB.parent).with_suffix("").parts): path for path in LIB.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    graph = {
        name: {
            other
            for _, full in imports(path, types=False)
            for other in (full, full.rpartition(".")[0])
            if other in modules and other not in (name, name.rpartition(".")[0])
        }
        for name, path in modules.items()
    }
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_what_reads_and_draws_records_loads_no_torch():
    script = (
        "import sys\n"
        "import superposition.records, superposition.figures, superposition.studies.verdicts\n"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


#: Code lines, without docstring, comments and blank lines, and parameters that a function may have at most.
MOST_LINES, MOST_PARAMETERS = 60, 10
#: What has more parameters, each of which a caller needs; why is said where it is defined.
EXCEPTIONS = {
    "lib/superposition/editing/forecast.py run: 12 parameters",
    "lib/superposition/editing/sequence.py run: 12 parameters",
}


def oversized(path: Path) -> list[str]:
    """Every function of a file that is too long or takes too much, as ``name: what it has``."""
    source, names = path.read_text(encoding="utf-8"), []
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        code = set(range(node.lineno, node.end_lineno + 1))
        if ast.get_docstring(node) is not None:
            code -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
        length = sum(bool(lines[i - 1].strip()) and not lines[i - 1].strip().startswith("#") for i in code)
        given = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        taken = len(given) - (given[:1] in (["self"], ["cls"]))
        if length > MOST_LINES:
            names.append(f"{node.name}: {length} lines")
        if taken > MOST_PARAMETERS:
            names.append(f"{node.name}: {taken} parameters")
    return names


def test_no_function_is_too_long_or_takes_too_much():
    files = [path for folder in ("lib", "experiments", "book/_ext") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 100
    assert {f"{path.relative_to(ROOT).as_posix()} {name}" for path in files for name in oversized(path)} == EXCEPTIONS


@pytest.mark.parametrize(
    ("lines", "parameters", "names"),
    [
        (60, 10, []),
        (61, 10, ["planted: 61 lines"]),
        (60, 11, ["planted: 11 parameters"]),
        (61, 11, ["planted: 61 lines", "planted: 11 parameters"]),
    ],
)
def test_a_function_that_is_too_long_is_named(lines, parameters, names, tmp_path):
    taken = ", ".join(f"p{i}" for i in range(parameters - 1))
    body = '"""One line.\n\n        And more.\n        """\n' + "        # nothing\n\n        pass\n" * (lines - 1)
    path = tmp_path / "planted.py"
    path.write_text(f"class Holder:\n    def planted(self, {taken}, *, last):\n        {body}", encoding="utf-8")
    assert oversized(path) == names
