"""A judge that is a function: for studies, and where a rule says who wins."""

import runpy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from evolign.errors import ConfigError, JudgeError, shown
from evolign.errors import said as said_by
from evolign.judging.base import Answer, Question, Reply, Verdict
from evolign.judging.bounded import MOST_OF_A_REPLY


class ScriptedJudge:
    """`function(prompt, a, b)` returns "A", "B" or "tie"; anything else is an invalid verdict."""

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        self.name = name or str(getattr(function, "__name__", function))
        self._function = function

    def estimate(self, questions: Sequence[Question]) -> None:
        """See `Judge.estimate`: a function costs nothing."""

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """See `Judge.answers`. Raises JudgeError where the function raises."""
        for i, question in enumerate(questions):
            try:
                said = self._function(question.prompt, question.a, question.b)
            except Exception as error:  # whatever the user's function raises
                raise JudgeError(
                    f"the judge {self.name} raised {type(error).__name__}: {said_by(error)}, asked about "
                    f"the prompt {str(question.prompt)!r:.80}"
                ) from error
            text = said if isinstance(said, str) else shown(said)
            verdicts: dict[str, Verdict] = {"A": "A", "B": "B", "tie": "tie"}
            yield i, Answer(verdicts.get(text, "invalid"), Reply(text[:MOST_OF_A_REPLY]))


def load_script(spec: str) -> ScriptedJudge:
    """The judge that `file.py:function` names. Raises ConfigError where there is none."""
    file, _, name = spec.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise ConfigError(f"judge = {spec!r}: the file {str(path)!r} does not exist")
    try:
        namespace = runpy.run_path(str(path))
    except Exception as error:  # whatever the user's file raises
        raise ConfigError(
            f"judge = {spec!r}: running {str(path)!r} raised {type(error).__name__}: {error}"
        ) from error
    if not callable(namespace.get(name)):
        raise ConfigError(f"judge = {spec!r}: {str(path)!r} holds no function {name!r}")
    return ScriptedJudge(namespace[name], spec)
