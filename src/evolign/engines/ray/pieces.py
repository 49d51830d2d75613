"""Work cut into pieces: small enough to keep all workers busy, large enough to fill a batch.

A cut depends on what is asked only, not on how many workers there are, so that the answer does not either.
Pieces can be repeated: who answers, and how often, changes nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from evolign.rewards.calling import TrainerState
from evolign.types import Population, Sampling


@dataclass(frozen=True)
class Writing:
    """What the pieces of one `generate` have in common."""

    population: Population
    sampling: Sampling
    state: TrainerState
    """Where the run stands, for rewards."""


@dataclass(frozen=True)
class Reading:
    """What the pieces of one `logprobs` have in common."""

    population: Population
    temperature: float


@dataclass(frozen=True)
class WritePiece:
    """Some candidates, each with some of its prompts."""

    candidates: range
    prompts: range
    names_NP: list[list[str]]
    """The ids of these prompts, one row for each of these candidates."""


@dataclass(frozen=True)
class ReadPiece:
    """Some readings, by number, and what is read by whom."""

    rows: list[int]
    candidates: list[int]
    prompts: list[str]
    token_ids: list[tuple[int, ...]]


Piece = WritePiece | ReadPiece


def cut_writing(prompts_NP: Sequence[Sequence[str]], samples: int, rows: int) -> Iterator[WritePiece]:
    """Blocks of about `rows` completions: of whole rows of prompts, as long as one row has fewer."""
    num_candidates, num_prompts = len(prompts_NP), len(prompts_NP[0])
    width = max(1, min(num_prompts, rows // samples))
    height = max(1, rows // (width * samples))
    for n in range(0, num_candidates, height):
        candidates = range(n, min(n + height, num_candidates))
        for p in range(0, num_prompts, width):
            prompts = range(p, min(p + width, num_prompts))
            yield WritePiece(candidates, prompts, [[prompts_NP[i][j] for j in prompts] for i in candidates])


def cut_reading(
    groups: Sequence[Sequence[int]],
    cut: Callable[[Sequence[int]], Iterator[list[int]]],
    candidates: Sequence[int],
    prompts: Sequence[str],
    token_ids: Sequence[tuple[int, ...]],
) -> Iterator[ReadPiece]:
    """The micro-batches of an engine in one process: rounding may depend on what is read together."""
    for group in groups:
        for batch in cut(group):
            yield ReadPiece(
                batch,
                [candidates[m] for m in batch],
                [prompts[m] for m in batch],
                [token_ids[m] for m in batch],
            )


def part_of(population: Population, candidates: range) -> Population:
    """The candidates of these numbers alone."""
    explicit = len(population.theta_NK)
    theta_NK = population.theta_NK[candidates.start : min(candidates.stop, explicit)]
    return Population(theta_NK, population.subspace, candidates.stop > explicit, population.version)
