"""Any OpenAI-compatible endpoint as judge: concurrent calls, retries, and a key that is sent nowhere else."""

import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from evolign import untrusted
from evolign.errors import ConfigError, JudgeError
from evolign.judging.base import Messages, Reply
from evolign.judging.bounded import Oversized, bounded_client

OFFICIAL = "https://api.openai.com/v1"
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 8.0
LONGEST_WAIT_ASKED = 60.0
"""Seconds that the client waits at most where a server asks for a pause."""
LOOK_SECONDS = 0.25
MOST_TOKENS = 10**9
"""Of a call: what says more is no count."""
RETRY_COUNT = "x-stainless-retry-count"
"""The header in which the openai client numbers its attempts."""
MOST_OF_A_MESSAGE = 200


class Endpoint:
    """Asks `model` at `url` by the openai client, `concurrency` calls at once.

    The client retries 408, 409, 429, 5xx, timeouts and broken connections up to `retries` times, waiting
    0.5 s, 1 s, 2 s, ... with jitter, or as long as the server says; so do we where a reply cannot be read.
    The key is read from the environment variable `key_env`. It is in no message, file or hash.
    """

    def __init__(
        self,
        model: str,
        *,
        url: str | None,
        key_env: str,
        parameters: Mapping[str, Any],
        concurrency: int,
        retries: int,
        timeout_seconds: float,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise ConfigError(
                "a judge behind an endpoint needs the openai client: pip install 'evolign[judge]'"
            ) from error
        url = (url or os.environ.get("OPENAI_BASE_URL") or OFFICIAL).rstrip("/")
        _check_url(url)
        self._key = os.environ.get(key_env, "").strip()
        if not self._key and url == OFFICIAL:
            raise ConfigError(
                f"the judge {model!r} at {url} needs a key; put it into the environment variable {key_env}, "
                "or name another endpoint by its URL"
            )
        self.name = model
        self.identity: Mapping[str, Any] = {"url": url, "model": model, "parameters": dict(parameters)}
        limit = parameters.get("max_tokens", parameters.get("max_completion_tokens"))
        self.max_tokens: int | None = limit if isinstance(limit, int) else None
        self._model, self._url, self._key_env = model, url, key_env
        self._parameters, self._concurrency, self._retries = dict(parameters), concurrency, retries
        http = bounded_client(timeout_seconds)
        weakref.finalize(self, http.close)
        self._client = openai.OpenAI(
            api_key=self._key or "none",
            base_url=url,
            max_retries=retries,
            timeout=timeout_seconds,
            default_headers={"Accept-Encoding": "identity"},  # what is small stays small
            http_client=http,
        )
        # The client's own limits are per read: a server that dribbles headers would keep a call for ever.
        self._longest = 2 * timeout_seconds * (retries + 1) + LONGEST_WAIT_ASKED * retries

    def replies(self, conversations: Sequence[Messages]) -> Iterator[tuple[int, Reply]]:
        """See `Backend.replies`.

        The threads are daemons: after Ctrl-C or an error none starts another call, and nobody waits for those
        that are under way.
        """
        waiting = deque(enumerate(conversations))
        done: SimpleQueue[tuple[int, Reply | Exception]] = SimpleQueue()
        stop = threading.Event()
        began: dict[int, float] = {}

        def work() -> None:
            while not stop.is_set():
                try:
                    i, messages = waiting.popleft()
                except IndexError:
                    return
                began[i] = time.monotonic()
                try:
                    done.put((i, self._reply(messages, stop)))
                except Exception as error:  # it is raised where the answers are awaited
                    done.put((i, error))

        for _ in range(min(self._concurrency, len(conversations))):
            threading.Thread(target=work, daemon=True).start()
        missing = set(range(len(conversations)))
        try:
            while missing:
                try:
                    i, reply = done.get(timeout=LOOK_SECONDS)
                except Empty:
                    late = time.monotonic() - self._longest
                    for i in [i for i, when in [*began.items()] if i in missing and when < late]:
                        missing.remove(i)  # its thread is left alone, and another takes its place
                        threading.Thread(target=work, daemon=True).start()
                        yield i, Reply(None, "no answer in time", self._retries)
                    continue
                if isinstance(reply, Exception):
                    raise reply
                if i in missing:
                    missing.remove(i)
                    yield i, reply
        finally:
            stop.set()

    def _reply(self, messages: Messages, stop: threading.Event) -> Reply:
        """Ask until there is a reply that can be read, or the retries are used up."""
        import openai

        retries, problem = 0, ""
        for attempt in range(self._retries + 1):
            if attempt and stop.wait(_backoff(attempt)):
                break
            try:
                raw = self._client.chat.completions.with_raw_response.create(
                    model=self._model,
                    messages=messages,  # type: ignore[arg-type]
                    extra_body=self._parameters,
                )
            except Oversized as error:
                return Reply(None, str(error), retries)
            except openai.APIStatusError as error:
                taken = int(error.request.headers.get(RETRY_COUNT, 0))
                return Reply(None, self._status_problem(error), retries + taken)
            except openai.APITimeoutError as error:
                taken = int(error.request.headers.get(RETRY_COUNT, 0))
                return Reply(None, "no answer in time", retries + taken)
            except openai.APIConnectionError as error:
                if isinstance(error.__cause__, Oversized):  # older clients wrap it
                    return Reply(None, str(error.__cause__), retries + self._retries)
                raise JudgeError(
                    f"the judge's endpoint {self._url} cannot be reached: "
                    f"{self._line(error.__cause__ or error)}; check the URL and that the server runs. What "
                    "was answered before is kept: the same command resumes from there"
                ) from None
            retries += raw.retries_taken
            try:
                return self._read(raw.text, retries)
            except (ValueError, LookupError, TypeError) as error:
                problem = f"the reply is no chat completion ({type(error).__name__})"
                retries += attempt < self._retries
        return Reply(None, problem, retries)

    def _read(self, body: str, retries: int) -> Reply:
        """The reply in a response's body. Raises ValueError, LookupError or TypeError where there is none."""
        found = untrusted.json_value(body)
        text = found["choices"][0]["message"]["content"]
        if not isinstance(text, str | None):
            raise TypeError("the content is no text")
        usage = found.get("usage")
        return Reply(
            self._without_key((text or "").encode(errors="replace").decode()),
            retries=retries,
            tokens_in=_count(usage, "prompt_tokens"),
            tokens_out=_count(usage, "completion_tokens"),
        )

    def _status_problem(self, error: Any) -> str:
        """What an error's status means; raises JudgeError where it holds for every call."""
        message = self._line(error.message)
        told = f"{error.status_code}: {message}"
        if error.status_code in (401, 403):
            held = (
                f"the key in {self._key_env}"
                if self._key
                else f"a call without a key ({self._key_env} is unset)"
            )
            raise JudgeError(
                f"the judge's endpoint {self._url} refused {held} ({told}); set {self._key_env} to a key "
                "that it accepts"
            ) from None
        if error.status_code == 404:
            raise JudgeError(
                f"the judge's endpoint {self._url} has no model {self._model!r} or no /chat/completions "
                f"({told}); check the model's name and the URL, which usually ends in /v1"
            ) from None
        return told

    def _without_key(self, text: str) -> str:
        """A text without the key, in case a server sends it back."""
        return text.replace(self._key, "***") if self._key else text

    def _line(self, error: object) -> str:
        """What an error says, in one short line."""
        return " ".join(self._without_key(str(error)).split())[:MOST_OF_A_MESSAGE]


def _count(usage: Any, name: str) -> int:
    """The number of tokens that a server reports; 0 where it reports none."""
    found = usage.get(name) if isinstance(usage, dict) else None
    return found if isinstance(found, int) and 0 <= found < MOST_TOKENS else 0


def _backoff(attempt: int) -> float:
    """Seconds before a further attempt: doubling, less up to a quarter at random (as the client has it)."""
    wait: float = min(FIRST_WAIT_SECONDS * 2.0 ** (attempt - 1), LONGEST_WAIT_SECONDS)
    return wait * (1 - 0.25 * random.random())


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"the judge's url = {url!r} must begin with http:// or https:// and name a host")
    if parts.username or parts.password or parts.query:
        raise ConfigError(
            "the judge's url must not hold a user, password or query, which would be shown in messages; put "
            "the key into the environment"
        )
