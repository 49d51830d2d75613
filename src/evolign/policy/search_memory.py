"""What a search holds in memory beside the model, estimated before any of it is taken."""

from collections.abc import Collection
from typing import NamedTuple

from evolign.config import EvolutionConfig
from evolign.config.policy import values_that_move
from evolign.config.strategies import CmaEsConfig, OpenAiEsConfig
from evolign.errors import ConfigError
from evolign.runs.provenance import machine_memory_bytes

FLOAT64 = 8
MATRICES = 3.5
"""D x D matrices that pycma holds at most: 3.3 and 3.1 were measured at D = 1,000 and 2,000."""
COPIES = 6
"""Vectors of the space `lora` beside two means: the best point, the one that directions are drawn for, a
step and its pieces."""


class Layer(NamedTuple):
    """An adapted layer: A has the shape (rank, inputs), B (outputs, rank)."""

    rank: int
    inputs: int
    outputs: int


class SearchMemory(NamedTuple):
    """Bytes of a search by the setting that asks for them, each with the way out."""

    dimensions: int
    parts: dict[str, tuple[float, str]]

    @property
    def total(self) -> float:
        return sum(size for size, _ in self.parts.values())

    def __str__(self) -> str:
        return f"{self.total / 2**20:,.1f} MiB for a search in {self.dimensions:,} dimensions"


def search_memory(config: EvolutionConfig, layers: Collection[Layer]) -> SearchMemory:
    """What the search of an adapter on `layers` takes.

    Raises ConfigError where it is more than this machine has.
    """
    strategy, space = config.strategy, config.space
    weights = sum(rank * (inputs + outputs) for rank, inputs, outputs in layers)
    parts = {"the adapter": (2.0 * 4 * weights, "lower adapter.rank, or adapt fewer adapter.target_modules")}
    if space.name == "lora":
        dimensions = weights
        searched = sum(2 * (rank + space.terms) for rank, _, _ in layers)
        moments = 2 if isinstance(strategy, OpenAiEsConfig) and strategy.optimizer == "adam" else 1
        shared = sum(
            (rank + space.terms) * (rank + inputs + rank + outputs) for rank, inputs, outputs in layers
        )
        held = FLOAT64 * ((2 * (1 + moments) + COPIES) * dimensions + shared)
        parts["space.name = lora"] = held, "lower adapter.rank or space.terms, or set space=singular_values"
    else:
        dimensions = searched = sum(2 * values_that_move(space.alpha, rank) for rank, _, _ in layers)
    parts[f"strategy.population = {strategy.population:,}"] = (
        3.0 * FLOAT64 * strategy.population * searched,
        "lower it",
    )
    if isinstance(strategy, CmaEsConfig) and strategy.covariance == "full":
        parts["strategy.covariance = full"] = (
            MATRICES * FLOAT64 * dimensions**2,
            "set strategy.covariance=diagonal, or lower adapter.rank",
        )
    found = SearchMemory(dimensions, parts)
    _check(found)
    return found


def _check(found: SearchMemory) -> None:
    have = machine_memory_bytes()
    if found.total <= have:
        return
    setting = max(found.parts, key=lambda name: found.parts[name][0])
    size, way_out = found.parts[setting]
    raise ConfigError(
        f"{setting} takes {size / 2**30:,.1f} GiB for a search in {found.dimensions:,} dimensions, and this "
        f"machine has {have / 2**30:,.1f} GiB; {way_out}"
    )
