"""Write what is generated: `make docs`. A test keeps it up to date.

From the types in evolign.config: docs/configuration.md and recipes/schema.json.
From evolign.trl: the tables of docs/from_grpo.md.
"""

import dataclasses
import types
import typing
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from evolign.config import CONFIGS, GradientConfig, Section
from evolign.config.recipe import DEFAULT_METHOD
from evolign.config.schema import schema, text
from evolign.config.section import told as bound_told

HEAD = """\
# Configuration

Generated from `src/evolign/config/` by `make docs`; do not edit.

A recipe is a YAML file of these fields. What it leaves out has its default. On the command line
`section.field=value` comes on top: defaults < file < command line. An unknown key, such as a key of another
method, is an error that names the nearest known one. `config.json` in a run directory is the same tree,
resolved, and runs as it is.

Scalars are read as they are written, as in YAML 1.2: `true` and `false` are the only truth values, `yes`,
`1:30` and `0x10` are texts, and `010` is 10. A key that comes twice is an error that names both lines.
Anchors and merge keys (`<<`) are read; tags (`!!...`) are not. A file has at most 256 KiB, 10,000 values
and 64 levels.

Every number has an upper bound. Beyond it lies what no machine holds or no run reaches; the error tells why.

`method` decides which sections there are. What all methods share comes first, then what only some have. A
section that adds to one above it lists only what it adds or changes.
"""
Kind = type[BaseModel]
SCHEMA = Path(__file__).parents[1] / "recipes" / "schema.json"
Uses = dict[tuple[str, Kind], list[str]]
"""Sections by their path in a recipe, with the methods that have them, in the order of the tree."""
UNIONS = ("task", "strategy", "fitness", "space", "engine", "engine.worker")
"""Sections that are chosen by their `name`."""


def uses() -> Uses:
    """Every section of every method, and the types that at least two of these at one path build upon."""
    found: Uses = {}
    for method, kind in CONFIGS.items():
        for path, section in sections("", kind):
            for base in (*reversed(bases(section)), section):
                found.setdefault((path, base), [])
                if method not in found[path, base]:
                    found[path, base].append(method)
    in_tree = {use for kind in CONFIGS.values() for use in sections("", kind)}
    return {
        (path, kind): methods
        for (path, kind), methods in found.items()
        if (path, kind) in in_tree or len(heirs(path, kind, found)) > 1
    }


def sections(path: str, annotation: object) -> Iterator[tuple[str, Kind]]:
    """Every section below an annotation, with the path that it has in a recipe."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield path, annotation
        for name, field in annotation.model_fields.items():
            yield from sections(f"{path}.{name}".lstrip("."), field.annotation)
    for member in typing.get_args(annotation):
        yield from sections(path, member)


def bases(kind: Kind) -> list[Kind]:
    """The types that a section builds upon, the nearest first."""
    return [base for base in kind.__mro__[1:] if issubclass(base, Section) and base is not Section]


def heirs(path: str, kind: Kind, found: Uses) -> list[Kind]:
    return [other for where, other in found if where == path and issubclass(other, kind) and other != kind]


def type_name(annotation: object) -> str:
    """A type as a user would say it."""
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        limits = [
            f"{sign} {bound_told(getattr(limit, name))}"
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
    if origin is dict:
        return "mapping"
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return {str: "text", int: "integer", float: "number", bool: "true or false"}[annotation]  # type: ignore[index]


def table(kind: Kind, above: Kind | None) -> list[str]:
    """The documented fields of a section, without those that are as in the type `above`."""
    hints = typing.get_type_hints(kind, include_extras=True)
    rows = []
    for name, field in kind.model_fields.items():
        known = above.model_fields.get(name) if above else None
        if (
            field.description is None
            or (known and told(known) == told(field))
            or (known and name == "method")
        ):
            continue
        default = "required" if field.default is PydanticUndefined else show(field.default)
        type_told = type_name(hints[name])
        if name == "method":
            type_told, default = " or ".join(f"`{method}`" for method in CONFIGS), f"`{DEFAULT_METHOD}`"
        rows.append(f"| `{name}` | {type_told} | {default} | {' '.join(field.description.split())} |")
    return ["| field | type | default | meaning |", "|---|---|---|---|", *rows, ""] if rows else []


def told(field: typing.Any) -> tuple[str, ...]:
    return str(field.annotation), str(field.metadata), str(field.default), str(field.description)


def show(value: object) -> str:
    if isinstance(value, BaseModel):
        return "see there"
    if value is None:
        return "null"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return "`{}`".format(text.replace("\n", r"\n"))


def other_defaults(path: str, kind: Kind, methods: list[str]) -> list[str]:
    """Defaults by which a method departs from those of the section's type."""
    lines = []
    for method in methods:
        default = CONFIGS[method].model_fields[path].default if path in CONFIGS[method].model_fields else None
        if type(default) is kind:
            changed = {name: value for name, value in default if value != getattr(kind(), name)}
            lines += [
                f"Under `method: {method}` the default of `{name}` is {show(value)}.\n"
                for name, value in changed.items()
            ]
    return lines


def overview() -> list[str]:
    """One line about every method: its sections beside those that all have."""
    shared = set.intersection(*(set(kind.model_fields) for kind in CONFIGS.values()))
    common = [name for name in GradientConfig.model_fields if name in shared - {"method", "seed"}]
    rows = []
    for method, kind in CONFIGS.items():
        own = ", ".join(f"`{name}`" for name in kind.model_fields if name not in shared)
        rows.append(f"| `{method}` | {' '.join((kind.__doc__ or '').split())} | {own} |")
    listed = ", ".join(f"`{name}`" for name in common)
    return [f"| method | what it is | its sections beside {listed} |", "|---|---|---|", *rows, ""]


def group_name(methods: tuple[str, ...]) -> str:
    if len(methods) == len(CONFIGS):
        return "Every method"
    if all(issubclass(kind, GradientConfig) == (method in methods) for method, kind in CONFIGS.items()):
        return "Every method that trains by gradients"
    names = [f"`{method}`" for method in methods]
    several = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    return f"Method{'s' * (len(names) > 1)} {several}"


def heading(path: str, kind: Kind, found: Uses) -> str:
    """`path`, and which names of a union it is about."""
    family = [kind, *heirs(path, kind, found)]
    fields = [member.model_fields["name"] for member in family if "name" in member.model_fields]
    names = [f"`{member.default}`" for member in fields]
    about = f" with `name:` {', '.join(names)}" if path in UNIONS and names else ""
    return f"### `{path}`{about}" if path else "### Top level"


def configuration() -> str:
    """The whole page."""
    found = uses()
    lines = [HEAD, *overview()]
    groups = sorted({tuple(methods) for methods in found.values()}, key=lambda methods: -len(methods))
    for group in sorted(groups, key=lambda methods: (-len(methods), list(CONFIGS).index(methods[0]))):
        entries = [use for use, methods in found.items() if tuple(methods) == group]
        body: list[str] = []
        for path, kind in entries:
            above = next((base for base in bases(kind) if (path, base) in found), None)
            rows, more = table(kind, above), other_defaults(path, kind, list(group))
            if rows or more or (path and not above):
                what = " ".join((kind.__doc__ or "").split())
                body += [heading(path, kind, found), "", what, "", *rows, *more]
        if body:
            lines += [f"## {group_name(group)}", "", *body]
    return "\n".join(lines)


TABLES = "## Every argument\n"
GRPO = Path(__file__).with_name("from_grpo.md")
OURS = [
    *("fitness", "space", "strategy", "population", "sigma"),
    *("num_validation", "adapter", "metric", "recipe"),
]
"""The fields of EvolutionConfig that GRPOConfig does not have: the last ones."""


def from_grpo() -> str:
    """docs/from_grpo.md with its tables, which end the page."""
    from evolign.trl import EvolutionConfig
    from evolign.trl.arguments import MEANS, REFUSED, WITHOUT_EFFECT

    fields = {
        field.name: field.metadata["help"] for field in dataclasses.fields(EvolutionConfig)[-len(OURS) :]
    }
    assert [*fields] == OURS
    parts = [
        ("These arguments of TRL mean something here:", MEANS.items()),
        ("These are ours:", fields.items()),
        ("These change no result, so that every value is accepted:", turned(WITHOUT_EFFECT)),
        ("These are refused unless they have TRL's default:", turned(REFUSED)),
    ]
    lines = [TABLES]
    for title, rows in parts:
        cells = [f"| {', '.join(f'`{name}`' for name in names.split())} | {what} |" for names, what in rows]
        lines += [title, "", "| argument | here |", "|---|---|", *cells, ""]
    return GRPO.read_text().partition(TABLES)[0] + "\n".join(lines)


def turned(table: dict[str, str]) -> list[tuple[str, str]]:
    """Names and their reason, from a table of names by reason."""
    return [(names, reason) for reason, names in table.items()]


if __name__ == "__main__":
    Path(__file__).with_name("configuration.md").write_text(configuration())
    GRPO.write_text(from_grpo())
    SCHEMA.write_text(text(schema()))
