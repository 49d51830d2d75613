"""Evolution strategies, which handle vectors and numbers, not models or tasks.

The keys below are the values of `strategy.name` and the names of the modules.
"""

from collections.abc import Callable

from evolign.config import StrategyConfig
from evolign.strategies.base import Strategy
from evolign.strategies.cma_es import CmaEs
from evolign.strategies.openai_es import OpenAiEs
from evolign.strategies.random_search import RandomSearch
from evolign.strategies.snes import Snes

__all__ = ["STRATEGIES", "CmaEs", "OpenAiEs", "RandomSearch", "Snes", "Strategy", "build_strategy"]

STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "cma_es": CmaEs,
    "snes": Snes,
    "openai_es": OpenAiEs,
    "random_search": RandomSearch,
}


def build_strategy(
    config: StrategyConfig, dim: int, sigma: float, seed: int, subspaces: bool = False
) -> Strategy:
    """The strategy that `config` names, at the origin of a space of `dim` dimensions.

    `sigma` is the initial step size as a number: `config.sigma` may still say "auto". With `subspaces`, `dim`
    is that of a subspace, and the strategy must support subspaces.
    """
    options = config.model_dump(exclude={"name", "sigma"})
    if subspaces:
        options["subspaces"] = True
    return STRATEGIES[config.name](dim, sigma=sigma, seed=seed, **options)
