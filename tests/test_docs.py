"""The documents say what the code does."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
import yaml

from evolign.config import Config
from evolign.recipe import parse

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = {"quickstart", "run", "resume", "evaluate", "export", "check", "list"}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def test_the_configuration_page_is_generated_from_the_types():
    generated = runpy.run_path(str(ROOT / "docs" / "generate.py"))["configuration"]()
    assert (ROOT / "docs" / "configuration.md").read_text() == generated, "run `make docs`"


def test_every_field_of_the_configuration_is_explained():
    def visit(section):
        for name, field in section.model_fields.items():
            nested = isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields")
            if nested:
                visit(field.annotation)
            elif name not in ("task", "fitness", "strategy", "name"):
                assert field.description, f"{section.__name__}.{name}"

    visit(Config)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_yaml_example_is_a_valid_configuration(page):
    for text in blocks(page, "yaml"):
        parse(yaml.safe_load(text), source=page.name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_names_a_command_and_settings_that_exist(page):
    for line in "\n".join(blocks(page, "bash")).splitlines():
        words = shlex.split(line, comments=True)
        if "evolign" not in words:
            continue
        command, *rest = words[words.index("evolign") + 1 :]
        assert command in COMMANDS or command.startswith("-"), line
        parse({}, [word for word in rest if "=" in word and not word.startswith("-")])


def test_every_recipe_is_mentioned_where_a_user_looks():
    text = "\n".join(page.read_text() for page in PAGES)
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        assert recipe.name in text, recipe.name
