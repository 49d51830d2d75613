"""From a YAML recipe to a typed configuration and back: overrides go in, broken rules come out as sentences.

    config = load("recipes/quickstart.yaml", ["seed=3", "strategy.population=48"])

Precedence: defaults < file < overrides. An unknown key is an error that names the nearest known one, and a
repeated one an error that names both lines. How scalars are read is told in `strict_yaml.py`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from evolign import untrusted
from evolign.config import CONFIGS, Config, strict_yaml
from evolign.config.tree import copied
from evolign.errors import ConfigError, did_you_mean, shown, unknown_name

DEFAULT_METHOD = "evolution"
FORMER = {
    "essa": "method = 'essa': ESSA is a recipe of `method: evolution`, with its default space, strategy and "
    "fitness (singular_values, cma_es, reward); write `method: evolution`",
    "reward": "reward: the section that says how rewards are run is called `scoring`; write `scoring:`",
}
"""Names in earlier recipes that have changed, with the error that says what to write."""
LONGEST_PATH = 200
"""Characters of a dotted path in a message."""


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration in the YAML or JSON file `path`, with `a.b.c=value` overrides on top.

    Raises ConfigError where the file cannot be read or a value breaks a rule.
    """
    try:
        tree = strict_yaml.read(untrusted.text(Path(path).expanduser()))
    except (OSError, untrusted.Unreadable) as error:
        raise ConfigError(f"cannot read the recipe {str(path)!r}: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{str(path)!r} must hold a mapping such as `seed: 0`, not {shown(tree)}")
    return parse(tree, overrides, source=str(path))


def parse(tree: dict[str, Any], overrides: Sequence[str] = (), source: str = "config") -> Config:
    """The configuration in a mapping. Raises ConfigError with one line per broken rule."""
    tree = dict(copied(tree, source))
    for override in overrides:
        apply_override(tree, override)
    tree = dict(copied(tree, source))  # overrides make it deeper
    method = tree.get("method", DEFAULT_METHOD)
    if method == "essa":
        raise ConfigError(FORMER["essa"])
    if "reward" in tree:
        raise ConfigError(f"{source}: {FORMER['reward']}")
    if not isinstance(method, str) or method not in CONFIGS:
        raise unknown_name("method", method, CONFIGS)
    kind = CONFIGS[method]
    for section in ("task", "space", "fitness", "strategy", "engine"):
        default = getattr(kind.model_fields.get(section), "default", None)
        if default is not None and isinstance(tree.get(section), dict):
            tree[section].setdefault("name", default.name)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        lines = [f"  {sentence(item, tree, kind)}" for item in error.errors()]
        raise ConfigError("\n".join([f"{source} is not a valid configuration:", *lines])) from None


def dump(config: Config) -> str:
    """`config` as JSON text that `load` reads back to an equal Config."""
    return config.model_dump_json(indent=2) + "\n"


def as_tree(config: Config) -> dict[str, Any]:
    """The configuration as config.json holds it."""
    return config.model_dump(mode="json")


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set the value of `a.b.c=value` in `tree`; the value is read as YAML."""
    name, separator, value = override.partition("=")
    if not separator or not name:
        raise ConfigError(f"cannot read the override {shown(override)}; write it as a.b.c=value")
    *parents, last = name.split(".")
    for parent in parents:
        child = tree.get(parent)
        if child is None:
            child = tree[parent] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"cannot set {shown(name)}: {shown(parent)} is {shown(child)}, not a section")
        tree = child
    try:
        tree[last] = strict_yaml.read(value)
    except untrusted.Unreadable as error:
        raise ConfigError(f"cannot read the value of {shown(override)}: {error}") from error


def sentence(item: Any, tree: dict[str, Any], root: type[BaseModel]) -> str:
    """One pydantic error of the model `root` as: field = value, rule, way out."""
    if item["type"] == "value_error":  # one of our own validators, which says it all
        return str(item["ctx"]["error"])
    location = [str(part) for part in item["loc"]]
    path = _path_in_tree(location, tree)
    path = path if len(path) <= LONGEST_PATH else path[:LONGEST_PATH] + "..."
    if item["type"] == "extra_forbidden":
        known = _known_keys(location[:-1], root)
        hint = did_you_mean(location[-1], known)
        return f"{path}: unknown key; known here: {', '.join(known)}.{hint}"
    if item["type"] == "union_tag_invalid":
        context = item["ctx"]
        tag, known = context["tag"], context["expected_tags"].replace("'", "").split(", ")
        return f"{path}.name = {shown(tag)}: must be one of {', '.join(known)}.{did_you_mean(tag, known)}"
    if item["type"] == "union_tag_not_found":
        return f"{path}.name is missing; say which one, for example `name: ...`"
    rule = item["msg"][0].lower() + item["msg"][1:]
    value = "" if item["type"] == "missing" else f" = {shown(item['input'])}"
    return f"{path}{value}: {rule}"


def _path_in_tree(location: list[str], tree: Any) -> str:
    """The dotted path of an error, without the names of union members that pydantic adds."""
    path: list[str] = []
    for part in location[:-1]:
        if isinstance(tree, dict) and part in tree:
            tree = tree[part]
            path.append(part)
        elif isinstance(tree, list) and part.isdigit():
            tree = tree[int(part)]
            path.append(part)
    last = location[-1]
    if isinstance(tree, (dict, list)) or not path:
        path.append(last)
    return ".".join(path)


def _known_keys(location: list[str], root: type[BaseModel]) -> list[str]:
    """The keys of the section that an error lies in."""
    section: Any = root
    for part in location:
        section = _not_optional(section)
        if isinstance(section, type) and issubclass(section, BaseModel):
            section = section.model_fields[part].annotation
        elif part.isdigit():  # a place in a list
            section = _item(section)
        else:  # a union: `part` is the tag of its member
            section = next(
                member
                for member in section.__args__
                if isinstance(member, type)
                and issubclass(member, BaseModel)
                and part in (member.__name__, getattr(member.model_fields.get("name"), "default", 0))
            )
    return list(_not_optional(section).model_fields)


def _not_optional(annotation: Any) -> Any:
    """The one member of `Section | None`; every other annotation as it is."""
    members = [member for member in get_args(annotation) if member is not type(None)]
    optional = len(members) < len(get_args(annotation))
    return members[0] if optional and len(members) == 1 else annotation


def _item(annotation: Any) -> Any:
    """What a list in an annotation holds."""
    if get_origin(annotation) is list:
        return get_args(annotation)[0]
    return next((found for member in get_args(annotation) if (found := _item(member)) is not None), None)
