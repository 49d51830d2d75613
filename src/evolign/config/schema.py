"""The JSON schema of recipes, from the types and their docstrings: editors complete and check YAML by it."""

import json
from typing import Annotated, Any, Union

from pydantic import Discriminator, TypeAdapter

from evolign.config import CONFIGS
from evolign.config.recipe import DEFAULT_METHOD

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Node = dict[str, Any]


def schema() -> dict[str, Any]:
    """The JSON schema of recipes: one type per `method`, sections by `name`, a description of every field.

    It says what a field may hold by itself. Rules between fields are checked when a recipe is read.
    """
    kinds: Any = Union[tuple(CONFIGS.values())]  # noqa: UP007
    made = TypeAdapter[Any](Annotated[kinds, Discriminator("method")]).json_schema()
    made["default"] = {"method": DEFAULT_METHOD}
    for node in _nodes(made):
        if "discriminator" in node:  # which only OpenAPI reads
            _require_tags(node.pop("discriminator"), node["default"], made["$defs"])
        if isinstance(node.get("default"), dict):  # of a section: its fields have their own
            del node["default"]
        node.pop("title", None)  # the name again
    return {"$schema": DIALECT, "title": "A recipe of Evolign", **made}


def text(tree: Node) -> str:
    """A schema as a file holds it."""
    return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"


def _nodes(made: Node) -> list[Node]:
    """The schema itself, its sections and their fields."""
    sections = list(made["$defs"].values())
    return [made, *sections, *(field for section in sections for field in section["properties"].values())]


def _require_tags(union: Node, default: Node, definitions: Node) -> None:
    """Require the tag of every member of a union but the default: a section without it is that one."""
    tag = union["propertyName"]
    for name, reference in union["mapping"].items():
        if name != default[tag]:
            definition = definitions[reference.rpartition("/")[2]]
            definition["required"] = sorted({*definition.get("required", []), tag})
