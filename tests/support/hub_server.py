"""A stand-in for the hub's HTTP API, as far as an upload needs it."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


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

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hub.tokens.add(self.headers.get("authorization"))
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            answer = json.dumps(hub.answer(self.path, body)).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
