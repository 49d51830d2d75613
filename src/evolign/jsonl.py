"""JSON lines: a text with one JSON value on each line. `untrusted.json_value` reads a single one."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from evolign import untrusted


class LineError(ValueError):
    """A line is not JSON; the message says which one and why."""


def loads(lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """The number of each line that is not blank, from 1, and its value.

    Raises LineError.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, untrusted.json_value(line, number)
            except untrusted.Unreadable as error:
                raise LineError(str(error)) from error


def read(path: Path) -> Iterator[tuple[int, Any]]:
    """`loads` of a file in UTF-8. Raises LineError or OSError."""
    # Only "\n" ends a line: other characters that Python takes for line breaks may stand in a text.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        try:
            yield from loads(untrusted.lines(file))
        except untrusted.Unreadable as error:
            raise LineError(str(error)) from error


def dumps(rows: Iterable[Mapping[str, Any]]) -> str:
    """The text of `rows`, one line each."""
    return "".join(json.dumps(row) + "\n" for row in rows)
