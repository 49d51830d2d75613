"""The files around the package: what CI runs, what is declared, and who is cited, agree with the code."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import evolign

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
JOBS = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]


def commands(job: str) -> list[str]:
    """What a job of the workflow runs, step by step."""
    return [step["run"] for step in JOBS[job]["steps"] if "run" in step]


def number(version: str) -> tuple[int, ...]:
    """3.9 is older than 3.11."""
    return tuple(int(part) for part in version.split("."))


def pythons() -> list[str]:
    """The versions of Python that the classifiers name."""
    found = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", c) for c in PROJECT["classifiers"]]
    return [match[1] for match in found if match]


def minimums(requirements: list[str]) -> dict[str, str]:
    """The oldest version of each requirement that declares one."""
    found = [re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement) for requirement in requirements]
    return {match[1].lower(): match[2] for match in found if match}


def padded(version: str, length: int = 4) -> tuple[int, ...]:
    """6 and 6.0 are one version."""
    return (*number(version), *[0] * length)[:length]


def recipe(target: str) -> list[str]:
    """The lines of a target of the Makefile."""
    found = re.search(rf"^{target}:.*\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None, f"the Makefile has no target {target}"
    return [line.strip() for line in found[1].splitlines()]


def test_the_citation_names_this_version_and_both_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["title"], citation["type"]) == ("Evolign", "software")
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert {paper["title"]: paper["authors"][0]["family-names"] for paper in citation["references"]} == {
        "ESSA: Evolutionary Strategies for Scalable Alignment": "Korotyshova",
        "When Evolution Strategy Meets Language Models Tuning": "Huang",
    }


def test_ci_runs_the_checks_and_tests_on_the_oldest_and_a_newer_python() -> None:
    assert "bash .ci/run" in commands("test")
    tested = JOBS["test"]["strategy"]["matrix"]["python"]
    assert min(tested, key=number) == min(pythons(), key=number)
    assert number(max(tested, key=number)) >= number(max(pythons(), key=number))
    script = (ROOT / ".ci/run").read_text().splitlines()
    assert {"make check", "make test"} <= set(script)


def test_ci_installs_the_minimal_versions_and_builds_the_wheel() -> None:
    install, *_, tests = commands("minimal-versions")
    assert "--constraint constraints-minimal.txt" in install
    assert "pytest" in tests
    assert commands("wheel") == ["make wheel-test"]
    assert recipe("wheel-test") == ['PYTHON="$(PYTHON)" bash .ci/wheel']


def test_the_minimal_versions_are_those_that_the_package_declares() -> None:
    lines = (ROOT / "constraints-minimal.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    extras = PROJECT["optional-dependencies"]
    declared = minimums([*PROJECT["dependencies"], *extras["dev"]])
    assert {*minimums(PROJECT["dependencies"])} <= {*pinned}
    assert len(minimums(PROJECT["dependencies"])) == len(PROJECT["dependencies"]), "each has a minimum"
    assert {name: padded(version) for name, version in pinned.items()} == {
        name: padded(declared[name]) for name in pinned
    }


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(evolign.__file__).parent / "py.typed").read_text() == ""
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_every_python_file_is_checked_by_mypy_strict() -> None:
    mypy = PYPROJECT["tool"]["mypy"]
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."}
    sources = {folder for folder in folders - {"runs", "dist"} if any((ROOT / folder).rglob("*.py"))}
    assert mypy["strict"] is True and "exclude" not in mypy
    assert {*mypy["files"]} == sources
    for path in (path for folder in mypy["files"] for path in (ROOT / folder).rglob("*.py")):
        assert not re.search(r"#\s*mypy:|#\s*type:\s*ignore(?!\[)", path.read_text()), path


def test_git_ignores_no_folder_of_the_package() -> None:
    # hatchling leaves out of the wheel what git ignores, and a rule without a leading slash holds anywhere.
    rules = (ROOT / ".gitignore").read_text().split()
    folders = {f"{path.name}/" for path in Path(evolign.__file__).parent.rglob("*") if path.is_dir()}
    assert folders & {*rules} <= {"__pycache__/"}


def test_the_classifiers_begin_with_the_oldest_python_that_is_required_and_leave_none_out() -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=")
    minors = [number(version)[1] for version in pythons()]
    assert pythons()[0] == oldest
    assert minors == list(range(minors[0], minors[0] + len(minors)))


def test_a_commit_is_checked_by_what_make_check_runs() -> None:
    hooks = [
        hook
        for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
        for hook in repo["hooks"]
    ]
    assert [(hook["entry"], hook["pass_filenames"]) for hook in hooks] == [("make check", False)]
    assert recipe("check") == ["$(BIN)/ruff format --check .", "$(BIN)/ruff check .", "$(BIN)/mypy"]


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/**/*.yml")), ids=lambda path: path.name)
def test_every_file_for_github_is_yaml_and_no_form_asks_for_one_thing_twice(path: Path) -> None:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    ids = [field["id"] for field in content.get("body", [])]
    assert len(ids) == len(set(ids))
