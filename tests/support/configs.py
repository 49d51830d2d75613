"""Recipes as configurations of the type that a test is about."""

from collections.abc import Sequence
from typing import Any, TypeVar

from evolign.config import Config, EvolutionConfig
from evolign.config.recipe import parse

Kind = TypeVar("Kind", bound=Config)


def parse_as(kind: type[Kind], tree: dict[str, Any], overrides: Sequence[str] = ()) -> Kind:
    """`parse`, where the method of the recipe is known."""
    config = parse(tree, overrides)
    assert isinstance(config, kind), f"the recipe is a {type(config).__name__}"
    return config


def evolution(tree: dict[str, Any], overrides: Sequence[str] = ()) -> EvolutionConfig:
    """The configuration of a recipe of `method: evolution`."""
    return parse_as(EvolutionConfig, tree, overrides)
