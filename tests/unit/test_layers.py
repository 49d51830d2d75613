"""Knowledge flows one way: the import arrows of the package, its budgets, and what is light to start."""

import ast
import resource
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import evolign

PACKAGE = Path(evolign.__file__).parent
ROOT = PACKAGE.parents[1]
FILES = sorted(PACKAGE.rglob("*.py"))
ORDER = [
    {"types", "messages", "errors", "seeding", "metrics", "disk", "jsonl", "untrusted"},
    {"config"},
    {"tasks", "strategies", "runs", "embedded"},
    {"policy"},
    {"rewards"},
    {"engines"},
    {"evaluation"},
    {"evolution", "trainers"},
    {"comparison", "judging", "tracking"},
    {"commands"},
    {"cli", "trl"},
]
"""Who may import whom: a room knows the rows above its own. README and CONTRIBUTING print the same order."""
LIMITS = {"lines of a file": 400, "lines of a function": 60, "positional parameters": 8}
DRAWERS = {"utils", "util", "common", "misc", "helpers", "helper"}


def unit(path: Path) -> str:
    """The top-level module or sub-package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(source: str) -> set[str]:
    """What of evolign a source names: in imports, and in strings such as "evolign.a:b"."""
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
    return {name for name in found if name.startswith("evolign.")}


def rooms(source: str) -> set[str]:
    """The top-level units that a source names."""
    return {name.split(".")[1] for name in imports(source)}


def allowed(name: str) -> set[str]:
    """What the unit `name` may import."""
    row = next(i for i, row in enumerate(ORDER) if name in row)
    first = ORDER[0] if row == 0 else set()
    return set().union(*ORDER[:row]) | first | {name}


def file_of(name: str) -> Path | None:
    """The file that an imported name lies in; a package that the name only passes through counts no arrow."""
    parts = name.split(".")[1:]
    while parts:
        module = PACKAGE.joinpath(*parts)
        for path in (module.with_suffix(".py"), module / "__init__.py"):
            if path.is_file():
                return path
        parts.pop()
    return None


def at_import(source: str) -> str:
    """The source without the strings of registries, which are resolved at run time."""
    tree = ast.parse(source)

    class NoRegistries(ast.NodeTransformer):
        def visit_Dict(self, node: ast.Dict) -> ast.expr:
            return ast.Constant(None)

    return ast.unparse(NoRegistries().visit(tree))


def test_every_module_has_its_place() -> None:
    assert {unit(path) for path in FILES} == set().union(*ORDER, {"__init__"})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_upwards_or_sideways(path: Path) -> None:
    name = unit(path)
    if name == "__init__":
        return
    forbidden = rooms(path.read_text()) - allowed(name)
    assert not forbidden, f"{name} must not know {sorted(forbidden)}"


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("config", "from evolign.tasks import build_task"),
        ("tasks", "import evolign.policy.adapter"),
        ("strategies", "from evolign import tasks"),
        ("policy", "def f():\n    from evolign.engines import build_engine"),
        ("evolution", 'METHODS = {"evolution": "evolign.commands.run:run"}'),
        ("evolution", "from evolign.trainers.session import Session"),
        ("engines", "from evolign.evaluation.evaluate import evaluate"),
    ],
)
def test_an_arrow_against_the_flow_is_seen(name: str, source: str) -> None:
    assert rooms(source) - allowed(name)


def test_one_place_reads_json() -> None:
    """It says where a text is broken, and takes neither deep nesting nor endless numbers."""
    readers = {
        path.name
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("json.loads", "json.load")
    }
    assert readers == {"untrusted.py"}


def test_no_files_import_each_other_in_a_circle() -> None:
    graph: dict[Path, set[Path]] = {}
    for path in FILES:
        found = {file_of(name) for name in imports(at_import(path.read_text()))}
        graph[path] = {other for other in found if other is not None and other != path}
    del graph[PACKAGE / "__init__.py"]  # its names lead everywhere, when they are first used
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle = " -> ".join(str(path.relative_to(PACKAGE)) for path in error.args[1])
        pytest.fail(f"these files import each other: {circle}")
    assert len(order) >= len(FILES) - 1


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_the_pages_tell_the_order_that_is_tested(page: str) -> None:
    told = " ← ".join(" | ".join(sorted(row)) for row in ORDER)
    text = " ".join((ROOT / page).read_text().replace("`", "").replace(">", " ").split())
    assert told in text, f"{page} must say: {told}"


def functions(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function of a file by its qualified name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            name = f"{inside}.{node.name}".lstrip(".")
            if isinstance(node, ast.FunctionDef):
                yield name, node
            yield from functions(node, name)
        else:
            yield from functions(node, inside)


def is_command(node: ast.FunctionDef) -> bool:
    """Whether typer calls the function: a command takes whatever can be typed."""
    return any(ast.unparse(decorator).startswith("app.c") for decorator in node.decorator_list)


def measured() -> Iterator[tuple[str, str, int]]:
    """What has a budget, where it is, and how large."""
    for path in FILES:
        source, where = path.read_text(), str(path.relative_to(PACKAGE))
        yield "lines of a file", where, len(source.splitlines())
        for name, node in functions(ast.parse(source)):
            assert node.end_lineno is not None
            yield "lines of a function", f"{where}:{name}", node.end_lineno - node.lineno + 1
            if not is_command(node):
                positional = [*node.args.posonlyargs, *node.args.args]
                yield "positional parameters", f"{where}:{name}", len(positional)


def test_files_and_functions_keep_their_budgets() -> None:
    over = [(what, where, size) for what, where, size in measured() if size > LIMITS[what]]
    assert not over


def test_no_two_functions_share_a_place_in_the_budget() -> None:
    """Overloads and conditional definitions would hide one another; there are none."""
    places = [where for what, where, _ in measured() if what == "lines of a function"]
    properties = {where for where in places if places.count(where) > 1}
    assert not {where for where in properties if ".setter" in where}
    assert len(places) > 700


def test_the_loop_is_a_table_of_contents() -> None:
    tree = ast.parse((PACKAGE / "evolution" / "loop.py").read_text())
    loop = dict(functions(tree))["evolve"]
    first, last = loop.body[1], loop.body[-1]  # after the docstring
    assert last.end_lineno is not None
    assert last.end_lineno - first.lineno + 1 <= 30


def test_there_is_no_drawer() -> None:
    assert not DRAWERS & {part.removesuffix(".py") for path in FILES for part in path.parts}


def run(program: str) -> str:
    """Standard output of a Python program in a process of its own."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


MAIN = "import sys; sys.argv[1:] = [{argument!r}]; from evolign.cli.app import main"
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
