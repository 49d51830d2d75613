"""Every reader of .jsonl files sees the same lines, and files that are shared are written whole."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import evolign
from evolign import disk, jsonl
from evolign.errors import EvolignError
from evolign.runs.directory import read_rows
from evolign.tasks import files

SAID = ["a\u2028b\x85c\x1cd", "ä€😀", "\n\r\t\\", ""]
"""Texts with what Python, but not JSON, takes for the end of a line."""


def completion(text: str) -> dict[str, Any]:
    return {"id": "a", "prompt": "p", "completion": text, "reference": "r"}


def judged(path: Path) -> str:
    """What a judge is shown of the completion in `path`."""
    shown = []

    def judge(prompt: str, a: str, b: str) -> str:
        shown.append(a)
        return "A"

    evolign.judge(path, by=judge)
    return shown[0]


def of_a_task(path: Path) -> str:
    return str(files.read_rows(str(path), "task.train", "train")[0]["completion"])


def of_a_run(path: Path) -> str:
    return str(read_rows(path)[0]["completion"])


READERS: dict[str, Callable[[Path], object]] = {"judge": judged, "task": of_a_task, "run": of_a_run}


@pytest.mark.parametrize("text", SAID[:2])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("ascii", [True, False])
def test_a_text_is_read_as_it_was_written_whoever_wrote_the_file(
    reader: str, text: str, ascii: bool, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(completion(text), ensure_ascii=ascii) + "\n", encoding="utf-8")
    assert READERS[reader](path) == text


@pytest.mark.parametrize("broken", ['{"id": ', "not json", "[" * 100_000], ids=["cut", "text", "deep"])
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_names_the_file_and_the_line_that_is_not_json(
    reader: str, broken: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(completion("x")) + "\n\n" + broken + "\n")
    with pytest.raises(EvolignError, match=r"rows\.jsonl.* line 3(: | is not JSON)"):
        READERS[reader](path)


def test_lines_are_what_was_dumped() -> None:
    rows = [{"text": text} for text in SAID]
    assert list(jsonl.loads(jsonl.dumps(rows).splitlines())) == list(enumerate(rows, start=1))
    assert jsonl.dumps([]) == ""


def test_a_shared_file_is_whole_whoever_writes_it_at_the_same_time(tmp_path: Path) -> None:
    path, texts = tmp_path / "reply.json", [str(i) * 10_000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for text in texts * 5:
            pool.submit(disk.write, path, text, shared=True)
        futures = [pool.submit(disk.write, path, text, shared=True) for text in texts]
    assert [future.exception() for future in futures] == [None] * len(futures)
    assert path.read_text() in texts and list(tmp_path.iterdir()) == [path]
