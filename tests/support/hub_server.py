"""A stand-in for the hub's HTTP API, as far as an upload needs it."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from loopback import Handler, serving


class Hub:
    """What the server was asked: repositories, files of the last commit, and tokens."""

    def __init__(self) -> None:
        self.url = ""
        self.repositories: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.messages: list[str] = []
        self.tokens: set[str | None] = set()

    def answer(self, path: str, body: bytes) -> Any:
        """The JSON that a request is answered with."""
        if path == "/api/repos/create":
            self.repositories.append(json.loads(body))
            name = f"owner/{self.repositories[-1]['name']}"
            return {"url": f"{self.url}/{name}", "name": name}
        if path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return {"files": files}
        if path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    self.messages.append(line["value"]["summary"])
                else:
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return {"commitUrl": f"{self.url}/owner/name/commit/abc", "commitOid": "abc", "success": True}
        return {"warnings": [], "errors": []}  # of a model card


@contextmanager
def running() -> Iterator[Hub]:
    """A hub at `Hub.url`, which answers until the block ends."""
    hub = Hub()

    class Hubs(Handler):
        def do_POST(self) -> None:
            hub.tokens.add(self.headers.get("authorization"))
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            answer = json.dumps(hub.answer(self.path, body)).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST

    with serving(Hubs) as hub.url:
        yield hub
