"""HTTP in which no reply is endless: a size, and a deadline for all of it, not only for each read."""

import sys
import time
from collections.abc import Iterator
from typing import Any

MOST_OF_A_REPLY = 2**20
"""Bytes of a reply: 512 tokens of verdict are 2 KB, and long reasoning before it 100 KB."""
BEGAN = "evolign_began"


class Oversized(Exception):
    """A reply of more bytes than a verdict can need, or one that is compressed though nobody asked for it."""


def bounded_client(timeout_seconds: float) -> Any:
    """openai's HTTP client, with a deadline and a size for every reply, whatever its status."""
    import openai

    [kind] = [base for base in openai.DefaultHttpxClient.__mro__ if base.__name__ == "Client"]
    http = sys.modules[kind.__module__.partition(".")[0]]  # httpx, or its successor: whichever openai uses

    class Bounded(http.SyncByteStream):  # type: ignore[name-defined]
        def __init__(self, stream: Any, request: Any) -> None:
            self._stream, self._request = stream, request

        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for chunk in self._stream:
                size += len(chunk)
                if size > MOST_OF_A_REPLY:
                    raise Oversized(f"the reply has more than {MOST_OF_A_REPLY:,} bytes")
                if time.monotonic() > self._request.extensions[BEGAN] + timeout_seconds:
                    raise http.ReadTimeout("the reply took too long", request=self._request)
                yield chunk

        def close(self) -> None:
            self._stream.close()

    def begin(request: Any) -> None:
        request.extensions = {**request.extensions, BEGAN: time.monotonic()}

    def bound(response: Any) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Oversized("the reply is compressed, which was not asked for")
        response.stream = Bounded(response.stream, response.request)

    return openai.DefaultHttpxClient(event_hooks={"request": [begin], "response": [bound]})
