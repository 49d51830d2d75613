"""A judge that is a function: for studies, and where a rule says who wins."""

import runpy
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from evolign.errors import ConfigError, JudgeError, shown
from evolign.errors import said as said_by
from evolign.judging.base import FAILURES_IN_A_ROW, Answer, Question, Reply, Verdict
from evolign.judging.bounded import MOST_OF_A_REPLY


class ScriptedJudge:
    """`function(prompt, a, b)` returns "A", "B" or "tie"; anything else is an invalid verdict.

    A call that takes longer than `timeout_seconds` is left alone in its thread, and its verdict is failed.
    """

    def __init__(
        self, function: Callable[..., Any], name: str | None = None, *, timeout_seconds: float = 60.0
    ) -> None:
        self.name = name or str(getattr(function, "__name__", function))
        self._function = function
        self._timeout = timeout_seconds

    def estimate(self, questions: Sequence[Question]) -> None:
        """See `Judge.estimate`: a function costs nothing."""

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """See `Judge.answers`. Raises JudgeError where the function raises, or is late again and again."""
        verdicts: dict[str, Verdict] = {"A": "A", "B": "B", "tie": "tie"}
        failures = 0
        for i, question in enumerate(questions):
            try:
                said = self._call(question)
            except Empty:
                failures += 1
                if failures == FAILURES_IN_A_ROW:
                    raise JudgeError(
                        f"the judge {self.name} gave no answer within {self._timeout:g} seconds, {failures} "
                        "times in a row; give it more time by --timeout, or see why it waits"
                    ) from None
                yield i, Answer("failed", Reply(None, "no answer in time"))
                continue
            except Exception as error:  # whatever the user's function raises
                raise JudgeError(
                    f"the judge {self.name} raised {type(error).__name__}: {said_by(error)}, asked about "
                    f"the prompt {str(question.prompt)!r:.80}"
                ) from error
            failures = 0
            text = said if isinstance(said, str) else shown(said)
            yield i, Answer(verdicts.get(text, "invalid"), Reply(text[:MOST_OF_A_REPLY]))

    def _call(self, question: Question) -> Any:
        """What the function returns. Raises what it raises, and Empty where it is late."""
        done: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

        def work() -> None:
            try:
                done.put((self._function(question.prompt, question.a, question.b), None))
            except BaseException as error:  # it is raised where the answer is awaited
                done.put((None, error))

        threading.Thread(target=work, daemon=True).start()
        said, error = done.get(timeout=self._timeout)
        if error is not None:
            raise error
        return said


def load_script(spec: str, *, timeout_seconds: float = 60.0) -> ScriptedJudge:
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
    return ScriptedJudge(namespace[name], spec, timeout_seconds=timeout_seconds)
