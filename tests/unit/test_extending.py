"""Every page of docs/extending/ does what it says: its diff is applied to a copy, and the copy's tests run.

A page is read by its blocks: one `diff`, and one `console` with the tests that enrol the new name and the
commands that use it.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import evolign
from evolign.rewards.loading import load_reward

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "extending"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")
COPIED = ("src", "tests", "recipes", "docs", "pyproject.toml", "README.md", "CONTRIBUTING.md")
MOST_EXISTING_FILES = 3
IMPORT_ORDER = [
    f"tests/unit/test_layers.py::{name}"
    for name in (
        "test_no_module_imports_upwards_or_sideways",
        "test_no_files_import_each_other_in_a_circle",
    )
]
LISTING = """
import sys
from evolign.config.recipe import load, parse
for command in sys.argv[1:]:
    words = command.split()
    recipes = [word for word in words if word.endswith(".yaml")]
    settings = [word for word in words if "=" in word]
    if "--task" in words:
        settings.insert(0, "task.name=" + words[words.index("--task") + 1])
    load(*recipes, settings) if recipes else parse({}, settings)
sys.argv[1:] = ["list"]
from evolign.cli.app import main
main()
"""
"""Reads the recipes and settings of command lines, then does `evolign list`."""


@dataclass(frozen=True)
class Extension:
    """What a page shows."""

    diff: str
    tests: list[str]
    """Files with the tests that enrol the new name by themselves."""
    name: str
    commands: list[str]
    """Command lines of evolign that use it."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def read(page: Path) -> Extension:
    assert len(blocks(page, "diff")) == 1, f"{page.name} must show one diff"
    [diff], [console] = blocks(page, "diff"), blocks(page, "console")
    lines = [line.removeprefix("$ ") for line in console.splitlines()]
    [pytest_line] = [line for line in lines if line.startswith("pytest ")]
    *tests, option, name = shlex.split(pytest_line)[1:]
    assert option == "-k", f"{page.name} must select the tests by the new name: {pytest_line}"
    commands = [line for line in lines if line.startswith("evolign ")]
    assert commands, f"{page.name} must show how to run the extension"
    return Extension(diff, tests, name, commands)


def existing(diff: str) -> set[str]:
    """The files that a diff changes and does not add."""
    return set(re.findall(r"^--- a/(\S+)$", diff, re.MULTILINE))


def copy(folder: Path) -> Path:
    """What of the repository a change of it touches."""
    folder.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, folder / name)
    return folder


def run(folder: Path, *command: str, given: str | None = None) -> str:
    """Standard output of a command in `folder`, whose package it imports."""
    settings = {"PYTHONPATH": str(folder / "src"), "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    environment = os.environ | settings | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, input=given, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return done.stdout


KINDS = ["engine", "fitness", "reward", "space", "strategy", "task", "tracker", "trainer"]


def test_every_kind_of_extension_has_a_page() -> None:
    assert [page.stem for page in PAGES] == KINDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_an_extension_touches_few_existing_files_and_says_how_many(page: Path) -> None:
    touched = existing(read(page).diff)
    assert 1 <= len(touched) <= MOST_EXISTING_FILES, sorted(touched)
    number = {1: "one", 2: "two", 3: "three"}[len(touched)]
    told = " ".join(page.read_text().split())
    assert re.search(rf"touches {number} existing ones?\b", told), f"{page.name} must count: {number}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_written_one_short_sentence_a_line(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert [line for line in prose.splitlines() if len(line) > 100] == []


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_s_diff_applies_and_the_tests_enrol_what_it_adds(page: Path, tmp_path: Path) -> None:
    shown = read(page)
    assert shown.name not in {name for kind in evolign.registries().values() for name in kind}
    folder = copy(tmp_path / "copy")
    run(folder, "git", "apply", "-", given=shown.diff)
    listed = run(folder, sys.executable, "-c", LISTING, *shown.commands)
    assert re.search(rf"\b{shown.name}\b", listed), f"`evolign list` does not show {shown.name}"
    selected = f"{shown.name} or test_no_"
    found = run(folder, sys.executable, "-m", "pytest", "-rA", *shown.tests, *IMPORT_ORDER, "-k", selected)
    enrolled = [line for line in found.splitlines() if line.startswith("PASSED") and shown.name in line]
    assert [line for line in enrolled if "test_layers" not in line], f"no test enrols {shown.name}"


def test_a_reward_of_ones_own_needs_no_change_of_the_package(tmp_path: Path) -> None:
    [source] = blocks(FOLDER / "reward.md", "python")
    path = tmp_path / "rewards.py"
    path.write_text(source)
    [function] = re.findall(r"^def (\w+)", source, re.MULTILINE)
    assert f"task.reward=rewards.py:{function}" in (FOLDER / "reward.md").read_text()
    reward = load_reward(f"{path}:{function}")
    assert reward(prompts=["a", "b"], completions=["", "four"], answer=["1", "2"]) == [1.0, 0.2]
