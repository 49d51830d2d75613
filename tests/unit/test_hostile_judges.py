"""Judges that reply with anything: no verdict, within the time, and nothing oversized is kept."""

import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_server import Failure, judge_server, rows

import evolign
from evolign.errors import JudgeError
from evolign.judging.base import Reply
from evolign.judging.bounded import MOST_OF_A_REPLY
from evolign.judging.cache import Cache

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def verdicts(url: str, **options: Any) -> list[str]:
    found = evolign.judge(rows(1), by="gpt-x", url=url, retries=0, **options)
    return [row["verdict"] for row in found.verdicts]


CONTENT = '{"choices": [{"message": {"content": %s}}], "usage": %s}'


@pytest.mark.parametrize(
    "body",
    [
        *("", "null", "[]", "{}", "3", '"A"', "NaN", "[" * 9000, "9" * 5000, "\x00", "{"),
        *('{"choices": 3}', '{"choices": {}}', '{"choices": [[]]}', '{"choices": [{"message": "A"}]}'),
        *(CONTENT % (text, "{}") for text in ("3", "[]", '{"text": "[[A]]"}', '[{"type": "text"}]', "true")),
    ],
)
def test_a_reply_of_any_other_shape_is_no_verdict(body: str, cache: Path) -> None:
    with judge_server(lambda number, asked: Failure(body=body)) as server:
        assert verdicts(server.url) == ["failed", "failed"]
    assert not [*cache.rglob("*.json")]


@pytest.mark.parametrize(
    "usage",
    ["[]", "3", '{"prompt_tokens": "x"}', '{"prompt_tokens": 1e999}', '{"prompt_tokens": -5}', "null",
     '{"prompt_tokens": {}, "completion_tokens": [1]}', '{"prompt_tokens": true}', "[[[]]]"],
)  # fmt: skip
def test_counts_of_any_other_shape_are_no_counts(usage: str) -> None:
    body = CONTENT % (r'"[[A]] \ud800"', usage)
    with judge_server(lambda number, asked: Failure(body=body)) as server:
        found = evolign.judge(rows(1), by="gpt-x", url=server.url, retries=0)
    assert [row["verdict"] for row in found.verdicts] == ["A", "A"]
    assert 0 <= found.summary["tokens_in"] <= 2 and found.verdicts[0]["reply"] == "[[A]] ?"


@contextlib.contextmanager
def raw_server(respond: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads a request and then does as it likes with the connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            connection.recv(2**16)
            while not over.is_set():
                respond(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def drops(first: bytes, drop: bytes) -> Callable[[socket.socket], None]:
    """Sends `first`, then `drop` every now and then, faster than any limit on a single read."""
    greeted: set[int] = set()

    def respond(connection: socket.socket) -> None:
        if id(connection) not in greeted:
            greeted.add(id(connection))
            connection.sendall(first)
        connection.sendall(drop)
        time.sleep(0.02)

    return respond


@pytest.mark.parametrize(
    "respond",
    [
        drops(HEAD + b"content-length: 100000\r\n\r\n", b" "),
        drops(HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        drops(b"HTTP/1.1 400 Bad\r\ncontent-length: 100000\r\n\r\n", b" "),
        drops(b"HTTP/1.1 200 OK\r\nx: ", b"y"),
        drops(b"", b"H"),
    ],
    ids=["a body", "chunks", "an error's body", "a header", "a status line"],
)
def test_a_reply_that_comes_drop_by_drop_ends_with_the_deadline(
    respond: Callable[[socket.socket], None],
) -> None:
    started = time.monotonic()
    with raw_server(respond) as url:
        assert verdicts(url, timeout_seconds=0.3) == ["failed", "failed"]
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("status", [b"200 OK", b"500 Broken"])
def test_an_endless_reply_is_cut_off_and_not_kept(status: bytes, cache: Path) -> None:
    head = b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n"
    with raw_server(drops(head, b"x" * 2**17)) as url:
        assert verdicts(url) == ["failed", "failed"]
    assert not [*cache.rglob("*.json")]


def test_a_reply_that_is_compressed_unasked_is_not_unpacked() -> None:
    bomb = gzip.compress(b"x" * 10**7)
    head = HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb)
    with raw_server(lambda connection: connection.sendall(head + bomb)) as url:
        assert verdicts(url) == ["failed", "failed"]


@pytest.mark.parametrize(
    "kept",
    [b"", b"[]", b"{}", b"[" * 9000, b"\xff", b'{"text": 3, "in": 0, "out": 0}', b'{"text": "x", "in": "y"}',
     b'{"text": "x", "in": "1", "out": 2}', b'{"text": "' + b"x" * 9 * 2**20 + b'", "in": 0, "out": 0}'],
)  # fmt: skip
def test_a_kept_reply_that_is_none_counts_as_absent(cache: Path, kept: bytes) -> None:
    replies = Cache(cache)
    replies.put("ab", Reply("[[A]]", tokens_in=1, tokens_out=2))
    assert replies.get("ab") == Reply("[[A]]", tokens_in=1, tokens_out=2, cached=True)
    [file] = cache.rglob("*.json")
    file.write_bytes(kept)
    assert replies.get("ab") is None
    replies.put("cd", Reply("x" * (MOST_OF_A_REPLY + 1)))
    assert [*cache.rglob("*.json")] == [file]


class Odd:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def test_a_function_that_hangs_has_failed_after_its_time() -> None:
    def one_hangs(prompt: str, a: str, b: str) -> str:
        if a == rows(1)[0]["completion"]:
            time.sleep(60)
        return "A"

    def all_hang(prompt: str, a: str, b: str) -> str:
        time.sleep(60)
        return "A"

    started = time.monotonic()
    found = evolign.judge(rows(1), by=one_hangs, timeout_seconds=0.2)
    assert [row["verdict"] for row in found.verdicts] == ["failed", "A"]
    with pytest.raises(JudgeError, match=r"no answer within 0.02 seconds, 8 times in a row; give it more"):
        evolign.judge(rows(8), by=all_hang, timeout_seconds=0.02)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("said", [None, 3, [], Odd(), "a" * 10**7, float("nan"), ["A"]])
def test_what_a_function_says_beside_a_b_and_tie_is_invalid(said: Any) -> None:
    found = evolign.judge(rows(1), by=lambda prompt, a, b: said)
    assert [row["verdict"] for row in found.verdicts] == ["invalid", "invalid"]
    assert len(json.dumps(found.verdicts)) < 3 * MOST_OF_A_REPLY
