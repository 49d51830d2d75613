"""From a YAML recipe to a typed configuration and back: overrides go in, broken rules come out as sentences.

    config = load("recipes/quickstart.yaml", ["seed=3", "strategy.population=48"])

Precedence: defaults < file < overrides. An unknown key is an error that names the nearest known one.
"""

import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from evolign.config import CONFIGS, Config
from evolign.errors import ConfigError, unknown_name

DEFAULT_METHOD = "evolution"
FORMER = {
    "essa": "method = 'essa': ESSA is a recipe of `method: evolution`, with its default space, strategy and "
    "fitness (singular_values, cma_es, reward); write `method: evolution`",
    "reward": "reward: the section that says how rewards are run is called `scoring`; write `scoring:`",
}
"""What earlier recipes say that has another name now."""


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration in the YAML or JSON file `path`, with `a.b.c=value` overrides on top.

    Raises ConfigError where the file cannot be read or a value breaks a rule.
    """
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the recipe {str(path)!r}: {error}") from error
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{str(path)!r} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{str(path)!r} must hold a mapping such as `seed: 0`, not {tree!r:.80}")
    return parse(tree, overrides, source=str(path))


def parse(tree: dict[str, Any], overrides: Sequence[str] = (), source: str = "config") -> Config:
    """The configuration in a mapping. Raises ConfigError with one line per broken rule."""
    tree = json.loads(json.dumps(tree, default=str))  # a copy; YAML knows dates, Python paths
    for override in overrides:
        apply_override(tree, override)
    method = tree.get("method", DEFAULT_METHOD)
    if method == "essa":
        raise ConfigError(FORMER["essa"])
    if "reward" in tree:
        raise ConfigError(f"{source}: {FORMER['reward']}")
    if method not in CONFIGS:
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


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set the value of `a.b.c=value` in `tree`; the value is read as YAML."""
    name, separator, value = override.partition("=")
    if not separator or not name:
        raise ConfigError(f"cannot read the override {override!r}; write it as a.b.c=value")
    *parents, last = name.split(".")
    for parent in parents:
        child = tree.get(parent)
        if child is None:
            child = tree[parent] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"cannot set {name!r}: {parent!r} is {child!r}, not a section")
        tree = child
    try:
        tree[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"cannot read the value of {override!r}: {error}") from error


def sentence(item: Any, tree: dict[str, Any], root: type[BaseModel]) -> str:
    """One pydantic error of the model `root` as: field = value, rule, way out."""
    if item["type"] == "value_error":  # one of our own validators, which says it all
        return str(item["ctx"]["error"])
    location = [str(part) for part in item["loc"]]
    path = _path_in_tree(location, tree)
    if item["type"] == "extra_forbidden":
        known = _known_keys(location[:-1], root)
        nearest = get_close_matches(location[-1], known, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        return f"{path}: unknown key; known here: {', '.join(known)}.{hint}"
    if item["type"] == "union_tag_invalid":
        context = item["ctx"]
        tag, known = context["tag"], context["expected_tags"].replace("'", "").split(", ")
        nearest = get_close_matches(tag, known, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        return f"{path}.name = {tag!r}: must be one of {', '.join(known)}.{hint}"
    if item["type"] == "union_tag_not_found":
        return f"{path}.name is missing; say which one, for example `name: ...`"
    rule = item["msg"][0].lower() + item["msg"][1:]
    value = "" if item["type"] == "missing" else f" = {item['input']!r:.80}"
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
        if isinstance(section, type) and issubclass(section, BaseModel):
            section = section.model_fields[part].annotation
        else:  # a union: `part` is the tag of its member
            section = next(
                member
                for member in section.__args__
                if isinstance(member, type)
                and issubclass(member, BaseModel)
                and part in (member.__name__, getattr(member.model_fields.get("name"), "default", 0))
            )
    if not isinstance(section, type):  # an optional section
        section = next(member for member in section.__args__ if isinstance(member, type))
    return list(section.model_fields)
