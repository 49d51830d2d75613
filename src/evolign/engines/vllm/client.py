"""One `vllm serve` as this process sees it: the calls over HTTP, each of which ends in time.

Where the environment variable VLLM_API_KEY is set, its key goes along, as `vllm serve` expects it.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from evolign import untrusted
from evolign.errors import EngineError, first_line

CONNECT_SECONDS = 10.0
"""For a question that a server answers without its model."""
LOADING_SECONDS = 120.0
"""For an adapter: a busy server loads it between two steps of its model."""
PLAIN = {
    "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0,
    "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip
"""Sampling from the model alone: a server fills in what a request leaves out from generation_config.json."""


class RefusedError(EngineError):
    """A server has answered, and not with what it was asked for."""

    def __init__(self, message: str, status: int, reason: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Served:
    """What a server says of its base model."""

    name: str
    """What requests call it."""
    root: str
    """The hub name or folder that it was loaded from."""
    longest: int | None
    """Tokens of a prompt and its completion together."""


@dataclass(frozen=True)
class Completion:
    """What a server has written."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Empty where they were not asked for."""


class Server:
    """Asks the server at `url`; `writing` runs `requests` of its completions at once."""

    def __init__(self, url: str, seconds: float, requests: int) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.writing = ThreadPoolExecutor(requests, thread_name_prefix="vllm")
        self._seconds = seconds
        self._base: Served | None = None

    @property
    def base(self) -> Served:
        """Its base model, asked for once."""
        if self._base is None:
            cards = self._ask("/v1/models", None, CONNECT_SECONDS)["data"]
            card = next(card for card in cards if card.get("parent") is None)
            self._base = Served(card["id"], card.get("root") or card["id"], card.get("max_model_len"))
        return self._base

    def load(self, name: str, folder: str) -> None:
        """Make the adapter in a folder of the server's known to it."""
        self._ask("/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder}, LOADING_SECONDS)

    def unload(self, name: str) -> None:
        """Forget an adapter."""
        self._ask("/v1/unload_lora_adapter", {"lora_name": name}, LOADING_SECONDS)

    def complete(
        self,
        model: str,
        prompt: Sequence[int],
        *,
        stop: Sequence[int],
        most: int,
        temperature: float,
        seed: int = 0,
        samples: int = 1,
        logprobs: bool = False,
    ) -> list[Completion]:
        """Completions of a prompt by the base model or an adapter, each with its end-of-sequence token."""
        asked: dict[str, Any] = {
            "model": model,
            "prompt": list(prompt),
            "max_tokens": most,
            "temperature": temperature,
            "seed": seed,
            "n": samples,
            "stop_token_ids": list(stop),
            "return_token_ids": True,
            **PLAIN,
        }
        if logprobs:
            asked["logprobs"] = 0
        choices = self._ask("/v1/completions", asked, self._seconds)["choices"]
        if choices[0].get("token_ids") is None:
            raise EngineError(
                f"engine.url = {self.url!r}: its answers have no token ids; vLLM 0.32 gives them"
            )
        return [
            Completion(
                tuple(choice["token_ids"]), tuple(choice["logprobs"]["token_logprobs"]) if logprobs else ()
            )
            for choice in sorted(choices, key=lambda choice: int(choice["index"]))
        ]

    def close(self) -> None:
        """Let go of requests that were not sent."""
        self.writing.shutdown(wait=False, cancel_futures=True)

    def _ask(self, path: str, asked: dict[str, Any] | None, seconds: float) -> Any:
        """The answer. Raises EngineError where there is none, RefusedError where it is a refusal."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("VLLM_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        data = None if asked is None else json.dumps(asked).encode()
        try:
            with urlopen(Request(self.url + path, data, headers), timeout=seconds) as answer:
                body = answer.read()
        except HTTPError as error:
            raise self._refused(path, error) from error
        except TimeoutError as error:
            raise self._silent(f"no answer to {path} within {seconds:g} seconds") from error
        except (OSError, HTTPException) as error:
            raise self._silent(first_line(error, type(error).__name__)) from error
        try:
            return untrusted.json_value(body) if path in ("/v1/models", "/v1/completions") else None
        except ValueError as error:
            raise self._silent(f"its answer to {path} is no JSON") from error

    def _silent(self, why: str) -> EngineError:
        return EngineError(
            f"engine.url = {self.url!r}: no vLLM answers there ({why:.200}); start it with `vllm serve`, or "
            "give the address of one that runs"
        )

    def _refused(self, path: str, error: HTTPError) -> RefusedError:
        reason = str(error.reason)
        try:
            told = untrusted.json_value(error.read(100_000))
            reason = str(told.get("error", told).get("message", reason))
        except (OSError, ValueError, AttributeError, HTTPException):
            pass  # what is no JSON of vLLM says nothing more
        reason = " ".join(reason.split())[:300]
        way_out = "; set VLLM_API_KEY to its key" if error.code in (401, 403) else ""
        return RefusedError(
            f"engine.url = {self.url!r} answers {path} with {error.code}: {reason}{way_out}",
            error.code,
            reason,
        )
