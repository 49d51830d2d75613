"""The JSON schema of recipes: every recipe follows it, and it refuses what editors should mark."""

import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import evolign
from evolign import untrusted
from evolign.config import CONFIGS, strict_yaml
from evolign.config.recipe import parse
from evolign.config.schema import text

ROOT = Path(__file__).parents[2]
FILE = ROOT / "recipes" / "schema.json"
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
VALID = jsonschema.Draft202012Validator(evolign.schema())


def test_the_schema_file_is_generated_from_the_types() -> None:
    assert FILE.read_text() == text(evolign.schema()), "run `make docs`"
    jsonschema.Draft202012Validator.check_schema(evolign.schema())


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_names_the_schema_and_follows_it(recipe: Path) -> None:
    found = re.match(r"# yaml-language-server: \$schema=(\S+)\n", recipe.read_text())
    assert found is not None, "the first line must be `# yaml-language-server: $schema=PATH`"
    assert Path(os.path.normpath(recipe.parent / found[1])) == FILE
    VALID.validate(strict_yaml.read(untrusted.text(recipe)))


@pytest.mark.parametrize("method", CONFIGS)
def test_the_configuration_of_a_run_follows_it(method: str) -> None:
    VALID.validate(json.loads(parse({"method": method}).model_dump_json()))


@pytest.mark.parametrize(
    "tree",
    [
        {"sed": 1},
        {"method": "grpo", "strategy": {"name": "snes"}},
        {"method": "essa"},
        {"strategy": {"name": "snes", "covariance": "full"}},
        {"strategy": {"name": "snez"}},
        {"task": {"train": "rows.jsonl"}},
        {"seed": 2**32},
        {"seed": "one"},
        {"training": {"max_steps": 3}},
    ],
    ids=str,
)
def test_it_refuses_what_a_recipe_must_not_say(tree: dict[str, Any]) -> None:
    assert not VALID.is_valid(tree)
    with pytest.raises(evolign.ConfigError):
        parse(tree)


@pytest.mark.parametrize(
    "tree",
    [{}, {"seed": 3}, {"task": {"num_train": 8}}, {"strategy": {"covariance": "full"}}, {"adapter": None}],
    ids=str,
)
def test_what_may_be_left_out_may_be_left_out(tree: dict[str, Any]) -> None:
    method = {"method": "sft"} if "adapter" in tree else {}
    parse(tree | method)
    VALID.validate(tree | method)


def test_every_field_is_described() -> None:
    bare = [
        f"{section}.{name}"
        for section, definition in evolign.schema()["$defs"].items()
        for name, field in definition["properties"].items()
        if name != "name" and "description" not in field and not {"$ref", "oneOf", "anyOf"} & {*field}
    ]
    assert bare == []
    assert all(definition["description"] for definition in evolign.schema()["$defs"].values())
