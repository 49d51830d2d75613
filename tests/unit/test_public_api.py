"""What `import evolign` offers, and that every registered name leads somewhere."""

import ast
import inspect
import pkgutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name

import pytest

import evolign
from evolign import errors
from evolign.commands.run import METHODS
from evolign.engines import ENGINES
from evolign.evolution.fitness import FITNESS
from evolign.policy.spaces import SPACES
from evolign.rewards import REWARDS
from evolign.strategies import STRATEGIES
from evolign.tasks import TASKS
from evolign.tracking import TRACKERS

ERRORS = {
    "ConfigError", "EngineError", "EvolignError", "JudgeError", "RewardError", "RunError", "UnreachableError",
}  # fmt: skip
PROTOCOLS = {"Engine", "Fitness", "Judge", "Progress", "SearchSpace", "Strategy", "Task"}
VALUES = {
    "Abilities", "Comparison", "Config", "Cost", "Evaluation", "Example", "Finding",
    "FitnessValues", "Judged", "Jump", "Population", "Result", "Rollouts", "Sampling", "Step",
}  # fmt: skip
CALLS = {
    "check", "compare", "evaluate", "evolve", "export", "judge", "load_config", "quickstart", "registries",
    "resume", "run", "schema", "track",
}  # fmt: skip
PUBLIC = ERRORS | PROTOCOLS | VALUES | CALLS | {"FakeEngine", "Mean"}
"""The promise to users: a change of this set is a change of the interface and belongs in the changelog."""
BY_NAME = {
    "methods": METHODS, "tasks": TASKS, "rewards": REWARDS, "spaces": SPACES, "engines": ENGINES,
    "trackers": TRACKERS,
}  # fmt: skip


def test_the_public_names_are_the_promised_ones() -> None:
    assert set(evolign.__all__) == PUBLIC | {"__version__"}
    assert dir(evolign) == sorted(evolign.__all__)
    assert set(evolign._NAMES) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_importable_and_documented(name: str) -> None:
    found = getattr(evolign, name)
    assert inspect.isclass(found) or inspect.isfunction(found)
    assert inspect.getdoc(found)


def test_editors_see_the_names_that_are_imported_lazily() -> None:
    """The TYPE_CHECKING block of the package names what the table of lazy names leads to."""
    tree = ast.parse(Path(evolign.__file__).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == evolign._NAMES


def test_the_package_is_typed_and_says_its_version() -> None:
    assert (Path(evolign.__file__).parent / "py.typed").is_file()
    assert evolign.__version__ == version("evolign")


def test_every_error_is_public_and_descends_from_one() -> None:
    for name in ERRORS:
        assert issubclass(getattr(evolign, name), evolign.EvolignError)
    defined = {name for name, made in vars(errors).items() if isinstance(made, type)}
    assert {name for name in defined if name.endswith("Error")} == ERRORS


def test_no_public_name_is_hidden_by_a_module_of_that_name() -> None:
    """An imported submodule becomes an attribute of the package and would take the name's place."""
    assert not PUBLIC & {module.name for module in pkgutil.iter_modules(evolign.__path__)}


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'evolign' has no attribute 'evolv'"):
        evolign.evolv  # noqa: B018
    namespace: dict[str, object] = {}
    exec("from evolign import *", namespace)
    assert set(namespace) - {"__builtins__"} == PUBLIC | {"__version__"}


@pytest.mark.parametrize(
    ("kind", "name", "target"),
    [(kind, name, target) for kind, entries in BY_NAME.items() for name, target in entries.items()],
)
def test_every_registered_target_exists(kind: str, name: str, target: str) -> None:
    found = resolve_name(target)
    assert callable(found)
    assert (found.__module__, found.__name__) == tuple(target.split(":"))


def test_a_key_is_the_name_of_its_module_or_of_what_it_leads_to_there() -> None:
    for made_by_name in (STRATEGIES, FITNESS):
        modules = {made.__module__.rpartition(".")[2] for made in made_by_name.values()}
        assert made_by_name.keys() == modules
    rooms = {
        "tasks": TASKS,
        "policy.spaces": SPACES,
        "engines": ENGINES,
        "rewards": REWARDS,
        "tracking": TRACKERS,
    }
    for package, entries in rooms.items():
        for name, target in entries.items():
            module, _, found = target.partition(":")
            assert module.startswith(f"evolign.{package}.") and name in (*module.split("."), found)
    assert all(target.endswith(f":{name}") for name, target in METHODS.items())


def test_everything_registered_is_listed_with_one_line_about_it() -> None:
    listed = evolign.registries()
    expected: dict[str, Mapping[str, object]]
    expected = {**BY_NAME, "strategies": STRATEGIES, "fitness": FITNESS}
    assert {kind: set(entries) for kind, entries in listed.items()} == {
        kind: set(entries) for kind, entries in expected.items()
    }
    for entries in listed.values():
        for name, summary in entries.items():
            assert "\n" not in summary and len(summary) <= 120, name
            assert len(summary.split()) >= 3 and summary.endswith("."), f"{name}: {summary!r}"


def test_what_is_listed_says_what_it_is() -> None:
    assert "ESSA" in evolign.registries()["methods"]["evolution"]
