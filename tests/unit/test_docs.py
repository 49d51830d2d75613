"""The documents say what the code does."""

import re
import runpy
import shlex
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

import evolign
from evolign.config import CONFIGS
from evolign.config.recipe import load, parse

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = {
    "quickstart", "run", "resume", "evaluate", "export", "judge", "compare", "check", "list", "schema",
    "track",
}  # fmt: skip


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def test_the_configuration_page_is_generated_from_the_types() -> None:
    generated = runpy.run_path(str(ROOT / "docs" / "generate.py"))["configuration"]()
    assert (ROOT / "docs" / "configuration.md").read_text() == generated, "run `make docs`"


@pytest.mark.parametrize("method", CONFIGS)
def test_the_configuration_page_explains_every_field_of_every_method(method: str) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()

    def visit(path: str, annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            assert not path or f"### `{path}`" in page, path
            for name, field in annotation.model_fields.items():
                told = field.description and " ".join(field.description.split())
                assert not told or f"| {told} |" in page, f"{path}.{name}"
                visit(f"{path}.{name}".lstrip("."), field.annotation)
        for member in typing.get_args(annotation):
            visit(path, member)

    visit("", CONFIGS[method])


def test_the_configuration_page_tells_nothing_twice() -> None:
    lines = (ROOT / "docs" / "configuration.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| `") and "default" not in line]
    headings = [line for line in lines if line.startswith("#")]
    section = ""
    seen = set()
    for line in lines:
        section = line if line in headings else section
        if line in rows:
            assert (section, line) not in seen, line
            seen.add((section, line))
    assert len(lines) < 600, "a reader has to find their way on it"


WITH_YAML = [page for page in PAGES if blocks(page, "yaml")]


def test_every_method_page_shows_a_recipe() -> None:
    assert {page for page in PAGES if page.parent.name == "methods"} <= set(WITH_YAML)


@pytest.mark.parametrize("page", WITH_YAML, ids=lambda page: page.name)
def test_every_yaml_example_is_a_valid_configuration(page: Path) -> None:
    for text in blocks(page, "yaml"):
        parse(yaml.safe_load(text), source=page.name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_names_a_command_and_settings_that_exist(page: Path) -> None:
    for line in "\n".join(blocks(page, "bash")).splitlines():
        words = shlex.split(line, comments=True)
        if "evolign" not in words:
            continue
        command, *rest = words[words.index("evolign") + 1 :]
        assert command in COMMANDS or command.startswith("-"), line
        settings = [word for word in rest if "=" in word and not word.startswith("-")]
        if "--task" in rest:
            settings.insert(0, f"task.name={rest[rest.index('--task') + 1]}")
        recipes = [ROOT / word for word in rest if word.startswith("recipes/")]
        for recipe in recipes:
            load(recipe, settings)
        if not recipes:
            parse({}, settings)


def test_every_recipe_is_mentioned_where_a_user_looks() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    for recipe in (ROOT / "recipes").rglob("*.yaml"):
        assert recipe.name in text, recipe.name


def test_a_comment_or_docstring_names_only_files_that_exist() -> None:
    package = Path(evolign.__file__).parent
    exist = {path.name for path in package.rglob("*.py")}
    for path in package.rglob("*.py"):
        named = re.findall(r"\b[a-z_]+\.py\b(?!:)", path.read_text())  # file.py:function is an example
        assert {*named} <= exist, path
