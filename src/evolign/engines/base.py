"""What the loop needs of an engine: numbers in, completions out.

Everything that crosses this boundary is plain data that can be pickled: a population and a move are O(N K)
numbers, prompts go by the id of their example, and the engine keeps the policy and its mean.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

import numpy as np

from evolign.errors import ConfigError, EngineError
from evolign.rewards.scoring import Scorer, Scoring
from evolign.types import Abilities, Example, Move, Population, Rollouts, Sampling

if TYPE_CHECKING:
    from evolign.policy.encoder import EncodedPrompts


class EngineDeadError(EngineError):
    """A process of the engine has ended: it has to be made anew. A pool of engines does that itself."""


class Engine(Protocol):
    """Runs candidates by inference. It is a context manager, which releases models and workers."""

    abilities: Abilities
    """What this engine can do."""

    def add_prompts(self, examples: Iterable[Example]) -> None:
        """Register prompts, once per run: later calls name them by `Example.id`.

        Raises ConfigError for a prompt without tokens.
        """
        ...

    def move(self, move: Move) -> None:
        """Apply a move of the mean. The `version` of later populations is higher by one."""
        ...

    def place(self, mean: Mapping[str, np.ndarray]) -> None:
        """Set the mean, for example that of a checkpoint, from `Mean.state_dict()`."""
        ...

    def generate(
        self, population: Population, prompts_NP: Sequence[Sequence[str]], sampling: Sampling
    ) -> Rollouts:
        """Completions of every candidate on its own P prompts, which are ids of examples.

        Where `abilities.exact`, the result depends on the candidate, the prompt and `sampling` only: not on
        the order of candidates or prompts, nor on how rows are batched. Raises ConfigError if a prompt does
        not fit the model's context, EngineError for an unknown prompt, a population of another version, or
        if the device has no memory for a single row.
        """
        ...

    def logprobs(
        self,
        population: Population,
        candidates: Sequence[int],
        prompts: Sequence[str],
        token_ids: Sequence[tuple[int, ...]],
        temperature: float = 1.0,
    ) -> np.ndarray:
        """Log-probability of every token of the completion `token_ids[m]` of `prompts[m]`, for M readings.

        Under the candidate `candidates[m]`, by one teacher-forced pass; logits are divided by `temperature`
        as in sampling. Shape (M, T), zero beyond the end of a completion. Raises what `generate` raises, and
        EngineError where not `abilities.reads`.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class ScoresItself(Protocol):
    """What an engine may offer: its workers run the reward on the completions that they write."""

    def scorer(self, local: Scorer) -> Scoring:
        """What scores in the place of `local`, whose reward the workers get."""
        ...


@runtime_checkable
class Reports(Protocol):
    """What an engine may offer: figures of its own, for a generation's row in metrics.jsonl."""

    def report(self) -> Mapping[str, float]:
        """The figures since the last report."""
        ...


def scoring(engine: Engine, scorer: Scorer) -> Scoring:
    """What scores the completions of `engine`: its own workers where it has any, else `scorer`."""
    return engine.scorer(scorer) if isinstance(engine, ScoresItself) else scorer


def check_call(
    population: Population, version: int, prompts: Iterable[str], known: "EncodedPrompts", new_tokens: int
) -> None:
    """Raise what `Engine.generate` raises for a mean of `version` moves and the prompts that are known."""
    names = list(dict.fromkeys(prompts))
    check_version(population, version)
    check_known(names, known)
    known.check_room(names, new_tokens)


def live_model(name: str, who: str) -> ConfigError:
    """The error of the engine `name` for a model that is an object of this process."""
    return ConfigError(
        f"engine.name = {name!r} needs a model that {who} can load; give its name or folder in place "
        "of an object, or use engine.name = transformers"
    )


def check_version(population: Population, version: int) -> None:
    """Raise EngineError if `population` was made around the mean of another version."""
    around_the_mean = population.with_mean or population.subspace is not None
    if around_the_mean and population.version != version:
        raise EngineError(
            f"the population is of version {population.version} of the mean, but this engine has followed "
            f"{version} moves; send it every move in its order, or place its mean"
        )


def check_known(names: Iterable[str], known: object) -> None:
    """Raise EngineError for a prompt that `add_prompts` has not registered."""
    for name in names:
        if name not in known:  # type: ignore[operator]
            raise EngineError(f"prompt {name!r} is not known to the engine; pass its example to add_prompts")
