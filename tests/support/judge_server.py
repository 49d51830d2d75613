"""An OpenAI-compatible server on loopback that answers as its script says: real HTTP, real failures."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from loopback import Handler, serving

Script = Callable[[int, dict[str, Any]], "str | Failure"]
"""The reply to the n-th request (from 0) with this body."""


@dataclass(frozen=True)
class Failure:
    """Anything but a chat completion."""

    status: int = 200
    body: str = "{}"
    seconds: float = 0.0
    """Silence before it."""
    wait: str | None = "1"
    """The header `retry-after-ms`; None leaves the client its own backoff."""


@dataclass
class Server:
    """What was asked so far, and where."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most_at_once: int = 0

    @property
    def users(self) -> list[str]:
        """The user messages in the order of arrival."""
        return [body["messages"][-1]["content"] for body in self.bodies]


@contextmanager
def judge_server(script: Script, seconds: float = 0.0) -> Iterator[Server]:
    """A server that takes `seconds` for every reply."""
    lock = threading.Lock()
    under_way = 0

    class Judges(Handler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal under_way
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = len(server.bodies)
                server.bodies.append(body)
                server.keys.append(self.headers.get("authorization"))
                under_way += 1
                server.most_at_once = max(server.most_at_once, under_way)
            said = script(number, body) if self.path == "/v1/chat/completions" else Failure(404)
            time.sleep(seconds + (said.seconds if isinstance(said, Failure) else 0.0))
            with lock:
                under_way -= 1
            self._send(said)

        def _send(self, said: "str | Failure") -> None:
            if isinstance(said, str):
                said = Failure(
                    body=json.dumps(
                        {
                            "id": "1",
                            "object": "chat.completion",
                            "created": 0,
                            "model": "scripted",
                            "choices": [
                                {
                                    "index": 0,
                                    "finish_reason": "stop",
                                    "message": {"role": "assistant", "content": said},
                                }
                            ],
                            "usage": {"prompt_tokens": 50, "completion_tokens": 7, "total_tokens": 57},
                        }
                    )
                )
            data = said.body.encode()
            try:
                self.send_response(said.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                if said.wait is not None:
                    self.send_header("retry-after-ms", said.wait)
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                pass  # the client has hung up

    with serving(Judges) as url:
        server = Server(f"{url}/v1")
        yield server


def rows(count: int = 4, text: str = "ours") -> list[dict[str, Any]]:
    """Completions `ours 0`, `ours 1`, ... of numbered prompts, with references."""
    return [
        {"id": f"e{i}", "decoding": "greedy", "prompt": f"prompt {i}", "completion": f"{text} {i}"}
        | {"reference": f"reference {i}"}
        for i in range(count)
    ]
