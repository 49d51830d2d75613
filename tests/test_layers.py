"""Knowledge flows one way: the import arrows of the package, its budgets, and what is light to start."""

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import evolign

PACKAGE = Path(evolign.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FIRST_ROW = {"types", "errors", "seeding", "storage"}
SIDE_ROOMS = {
    "rundir": FIRST_ROW,
    "plot": {"rundir"},
    "comparison": FIRST_ROW | {"rundir"},
    "display": set(),
    "provenance": {"types", "storage"},
}
"""Modules beside the rows: what each may import. All but `plot` are open to every row above the engines."""
ROWS = [
    FIRST_ROW,
    {"config", "metrics"},
    {"recipe"},
    {"tasks", "policy", "strategies", "embedded"},
    {"engines"},
    {"evaluation", "generation", "calibration"},
    {"fitness"},
    {"result", "tally"},
    {"search", "evolution", "essa", "trainers"},
    {"methods"},
    {"assessment", "judging", "preflight", "demo", "api", "registry"},
    {"cli"},
]
APART = {"tasks", "policy", "strategies"}
EMBEDDED_TRAINING = "embedded/train.py"
"""A program of its own, which nothing imports: it draws its problems from the task."""
SENTENCE_LIMITS = {"file": 400, "function": 60, "body of evolve()": 60}
DRAWERS = {"utils", "util", "common", "misc", "helpers", "helper"}


def unit(path: Path) -> str:
    """The top-level module or sub-package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(source: str) -> set[str]:
    """Top-level units of evolign that a source names: in imports, and in strings such as "evolign.a:b"."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            module, colon, name = node.value.partition(":")
            if colon and name.isidentifier():
                found.add(module)
    return {name.split(".")[1] for name in found if name.startswith("evolign.")}


def allowed(name: str) -> set[str]:
    """What the unit `name` may import."""
    if name in SIDE_ROOMS:
        return SIDE_ROOMS[name] | {name}
    row = next(i for i, row in enumerate(ROWS) if name in row)
    below = set().union(*ROWS[:row])
    beside = ROWS[row] - (APART if name in APART else set())
    rooms = set(SIDE_ROOMS) if row > ROWS.index({"engines"}) else set()
    if name not in ROWS[-2] | ROWS[-1]:
        rooms -= {"plot"}
    return below | beside | rooms | {name}


def test_every_module_has_its_place() -> None:
    placed = set().union(*ROWS, SIDE_ROOMS, {"__init__"})
    assert {unit(path) for path in FILES} == placed


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_upwards_or_sideways(path: Path) -> None:
    name = unit(path)
    if name == "__init__" or path == PACKAGE / EMBEDDED_TRAINING:
        return
    forbidden = imports(path.read_text()) - allowed(name)
    assert not forbidden, f"{name} must not know {sorted(forbidden)}"


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("config", "from evolign.tasks import build_task"),
        ("tasks", "import evolign.policy.adapter"),
        ("strategies", "from evolign import tasks"),
        ("policy", "def f():\n    from evolign.engines import build_engine"),
        ("evolution", 'METHODS = {"essa": "evolign.methods:run"}'),
        ("rundir", "from evolign.config import Config"),
        ("plot", "from evolign.metrics import wilson"),
        ("engines", "from evolign.rundir import RunDir"),
    ],
)
def test_an_arrow_against_the_flow_is_seen(name: str, source: str) -> None:
    assert imports(source) - allowed(name)


def test_nothing_imports_the_training_program_of_the_embedded_model() -> None:
    program = EMBEDDED_TRAINING.replace("/", ".").removesuffix(".py")
    assert [path.name for path in FILES if f"evolign.{program} import" in path.read_text()] == []


def test_files_and_functions_keep_their_budgets() -> None:
    sizes = {}
    for path in FILES:
        source = path.read_text()
        sizes["file", path.name] = len(source.splitlines())
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno is not None
                sizes["function", f"{path.name}:{node.name}"] = node.end_lineno - node.lineno + 1
    too_long = {name: size for (kind, name), size in sizes.items() if size > SENTENCE_LIMITS[kind]}
    assert not too_long


def test_the_loop_is_a_table_of_contents() -> None:
    tree = ast.parse((PACKAGE / "evolution.py").read_text())
    [loop] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "evolve"]
    first, last = loop.body[1], loop.body[-1]  # after the docstring
    assert last.end_lineno is not None
    assert last.end_lineno - first.lineno + 1 <= SENTENCE_LIMITS["body of evolve()"]


def test_there_is_no_drawer() -> None:
    assert not DRAWERS & {part.removesuffix(".py") for path in FILES for part in path.parts}


def run(program: str) -> str:
    """Standard output of a Python program in a process of its own."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


MAIN = "import sys; sys.argv[1:] = [{argument!r}]; from evolign.cli import main"
HEAVY = "print(*sorted({'torch', 'transformers', 'peft', 'trl', 'datasets'} & set(sys.modules)))"


@pytest.mark.parametrize(
    "program",
    [
        "import sys, evolign; dir(evolign); evolign.Config; evolign.load_config; evolign.registries",
        MAIN.format(argument="--help") + "\ntry: main()\nexcept SystemExit: pass",
        MAIN.format(argument="list") + "\ntry: main()\nexcept SystemExit: pass",
    ],
    ids=["import evolign", "evolign --help", "evolign list"],
)
def test_nothing_heavy_is_imported_to_look_around(program: str) -> None:
    assert run(f"{program}\n{HEAVY}").splitlines()[-1] == ""


def test_help_takes_less_than_half_a_second() -> None:
    """Processor time of the whole process, interpreter start included, by getrusage: a busy machine does
    not lengthen it. The best of three, since the first may have to compile the files."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "quickstart" in run(MAIN.format(argument="--help") + "\nmain()")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5
