"""The protocol of a judge: it answers questions, in any order."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from evolign.messages import Prompt

Verdict = Literal["A", "B", "tie", "invalid", "failed"]
"""invalid: the reply holds no verdict; failed: there is no reply."""
Messages = list[dict[str, str]]
FAILURES_IN_A_ROW = 8
"""Failed calls after which a judge is not asked any more."""


@dataclass(frozen=True)
class Question:
    """One prompt with two answers, A shown first."""

    prompt: Prompt
    a: str
    b: str


@dataclass(frozen=True)
class Reply:
    """The text of an LLM, or the reason if there is none."""

    text: str | None
    problem: str = ""
    """The reason if there is no text."""
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cached: bool = False


@dataclass(frozen=True)
class Answer:
    """A verdict and the reply that it was read from."""

    verdict: Verdict
    reply: Reply


@dataclass(frozen=True)
class Estimate:
    """What asking will cost, before it starts."""

    calls: int
    """Calls that no cache answers."""
    cached: int
    tokens_in: int
    """Estimated at four characters a token."""
    tokens_out_at_most: int | None
    """None where the calls set no limit."""

    def __str__(self) -> str:
        known = f" ({self.cached:,} more are in the cache)" if self.cached else ""
        most = "no limit on" if self.tokens_out_at_most is None else f"at most {self.tokens_out_at_most:,}"
        return f"{self.calls:,} calls{known}, about {self.tokens_in:,} tokens in and {most} tokens out"


@runtime_checkable
class Judge(Protocol):
    """Compares answers."""

    name: str

    def estimate(self, questions: Sequence[Question]) -> Estimate | None:
        """The cost of these questions; None if they cost nothing."""
        ...

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """The answer to every question with its number, in the order in which they come.

        Raises JudgeError if further calls would fail too; earlier answers are kept.
        """
        ...


class Backend(Protocol):
    """An LLM that replies to conversations."""

    name: str
    identity: Mapping[str, Any]
    """All that a reply depends on beside the conversation: a part of the cache's key."""
    max_tokens: int | None
    """Tokens of a reply at most; None is no known limit."""

    def replies(self, conversations: Sequence[Messages]) -> Iterator[tuple[int, Reply]]:
        """See `Judge.answers`."""
        ...
