"""Scores that came with the completions: the workers have run the reward on what they have written."""

from collections.abc import Sequence

import numpy as np

from evolign.engines.ray.pieces import WritePiece
from evolign.engines.ray.worker import Written
from evolign.rewards.scoring import Scorer, Scores
from evolign.types import Cost, Example


class PoolScorer:
    """Looks up the scores of the completions that the pool has written last; `local` scores the others.

    A completion that several workers have scored counts once, as with `Scorer`: a reward is a pure function.
    """

    def __init__(self, local: Scorer) -> None:
        self._local = local
        self.name = local.name
        self._found: dict[tuple[str, str], tuple[float, str | None]] = {}
        self._seconds = 0.0

    def keep(self, pieces: Sequence[WritePiece], answers: Sequence[Written], samples: int) -> None:
        """Remember the scores of one `generate`, and forget those before it."""
        self._found.clear()
        self._seconds = sum(answer.seconds_scoring for answer in answers)
        for piece, answer in zip(pieces, answers, strict=True):
            names = [name for row in piece.names_NP for name in row for _ in range(samples)]
            for name, text, score, how in zip(
                names, answer.texts, answer.scores, answer.failures, strict=True
            ):
                self._found.setdefault((name, text), (score, how))

    def score(self, examples: Sequence[Example], texts: Sequence[str]) -> Scores:
        """See `Scorer.score`. `seconds` is the sum over workers."""
        keys = [(example.id, text) for example, text in zip(examples, texts, strict=True)]
        if not all(key in self._found for key in keys):
            return self._local.score(examples, texts)
        failed = [self._found[key][1] for key in dict.fromkeys(keys)]
        return Scores(
            values=np.array([self._found[key][0] for key in keys], dtype=np.float64),
            cost=Cost(timeouts=failed.count("timeout"), crashes=failed.count("crash")),
            seconds=self._seconds,
            failures=[self._found[key][1] for key in keys],
        )
