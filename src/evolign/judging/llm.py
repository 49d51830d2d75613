"""A judge that is an LLM: a template, a cache, and a backend that replies."""

from collections.abc import Iterator, Sequence

from evolign.errors import JudgeError
from evolign.judging.base import FAILURES_IN_A_ROW, Answer, Backend, Estimate, Messages, Question, Reply
from evolign.judging.cache import Cache
from evolign.judging.template import Template

CHARACTERS_PER_TOKEN = 4


class LlmJudge:
    """Asks `backend` in the words of `template`; what `cache` holds is not asked again."""

    def __init__(self, backend: Backend, template: Template, cache: Cache) -> None:
        self.name = backend.name
        self._backend, self._template, self._cache = backend, template, cache

    def estimate(self, questions: Sequence[Question]) -> Estimate:
        """See `Judge.estimate`."""
        conversations = self._conversations(questions)
        unknown = [messages for key, messages in conversations.items() if self._cache.get(key) is None]
        most = self._backend.max_tokens
        characters = sum(len(message["content"]) for messages in unknown for message in messages)
        return Estimate(
            calls=len(unknown),
            cached=len(conversations) - len(unknown),
            tokens_in=characters // CHARACTERS_PER_TOKEN,
            tokens_out_at_most=None if most is None else len(unknown) * most,
        )

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """See `Judge.answers`. Equal questions are asked once."""
        asking: dict[str, list[int]] = {}
        for i, question in enumerate(questions):
            asking.setdefault(self._key(self._template.messages(question)), []).append(i)
        unknown = []
        for key, numbers in asking.items():
            reply = self._cache.get(key)
            if reply is None:
                unknown.append(key)
            else:
                yield from self._answers(numbers, reply)
        conversations = [self._template.messages(questions[asking[key][0]]) for key in unknown]
        failures = 0
        for i, reply in self._backend.replies(conversations):
            failures = failures + 1 if reply.text is None else 0
            if failures == FAILURES_IN_A_ROW:
                raise JudgeError(
                    f"the judge {self.name} failed {failures} calls in a row, the last: {reply.problem}. "
                    "What it answered is kept: the same command resumes from there"
                )
            if reply.text is not None:
                self._cache.put(unknown[i], reply)
            yield from self._answers(asking[unknown[i]], reply)

    def _answers(self, numbers: list[int], reply: Reply) -> Iterator[tuple[int, Answer]]:
        verdict = "failed" if reply.text is None else self._template.read(reply.text)
        for i in numbers:
            yield i, Answer(verdict, reply)

    def _conversations(self, questions: Sequence[Question]) -> dict[str, Messages]:
        found = [self._template.messages(question) for question in questions]
        return {self._key(messages): messages for messages in found}

    def _key(self, messages: Messages) -> str:
        return Cache.key(self._backend.identity, messages)
