"""Write docs/configuration.md from the types in evolign.config: `make docs`. A test keeps it up to date."""

import types
import typing
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from evolign.config import Config

HEAD = """\
# Configuration

Generated from `src/evolign/config.py` by `make docs`; do not edit.

A recipe is a YAML file of these fields. What it leaves out has its default. On the command line
`section.field=value` comes on top: defaults < file < command line. An unknown key is an error that names the
nearest known one. `config.json` in a run directory is the same tree, resolved, and runs as it is.
"""


def sections() -> list[tuple[str, type[BaseModel]]]:
    """Every section with the path that it has in a recipe, in the order of the tree."""
    found: list[tuple[str, type[BaseModel]]] = []

    def visit(path: str, annotation: object) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.append((path, annotation))
            for name, field in annotation.model_fields.items():
                visit(f"{path}.{name}".lstrip("."), field.annotation)
        for member in typing.get_args(annotation):
            visit(path, member)

    visit("", Config)
    return found


def type_name(annotation: object) -> str:
    """A type as a user would say it."""
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        limits = [
            f"{sign} {getattr(limit, name)}"
            for item in members[1:]
            for limit in getattr(item, "metadata", [item])
            for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
            if hasattr(limit, name)
        ]
        return " ".join([type_name(members[0]), *limits])
    if origin is typing.Literal:
        return " or ".join(f"`{member}`" for member in members)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(member) for member in members)
    if origin is list:
        return f"list of {type_name(members[0])}"
    if annotation is type(None):
        return "null"
    return {str: "text", int: "integer", float: "number", bool: "true or false"}[annotation]  # type: ignore[index]


def table(section: type[BaseModel]) -> list[str]:
    """The fields of a section that are values; sections in it have headings of their own."""
    hints = typing.get_type_hints(section, include_extras=True)
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        if field.description is None:
            continue
        default = "required" if field.default is PydanticUndefined else show(field.default)
        kind = "section or null" if isinstance(field.default, BaseModel) else type_name(hints[name])
        rows.append(f"| `{name}` | {kind} | {default} | {' '.join(field.description.split())} |")
    return rows


def show(value: object) -> str:
    if isinstance(value, BaseModel):
        return "see below"
    if value is None:
        return "null"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def configuration() -> str:
    """The whole page."""
    lines = [HEAD]
    for path, section in sections():
        names = (
            typing.get_args(section.model_fields["name"].annotation) if "name" in section.model_fields else ()
        )
        heading = f"`{path}`" if path else "Top level"
        if names and path in ("task", "strategy", "space", "engine"):
            heading += f" with `name: {names[0]}`"
        lines += [f"## {heading}", "", " ".join((section.__doc__ or "").split()), "", *table(section), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    Path(__file__).with_name("configuration.md").write_text(configuration())
