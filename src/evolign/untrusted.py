"""Files that somebody else wrote: read in one place, with a limit for everything that has no natural end.

Each limit carries its reason, and each refusal says where in the file, what is wrong and the way out.
Nothing heavy is imported: a recipe is checked in milliseconds.
"""

import codecs
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

DEEPEST = 64
"""Nesting of lists and mappings. Settings have four levels and rows of data some ten; Python's own limit is
a thousand calls, which json, repr and pickle reach at different depths."""
LONGEST_NUMBER = 308
"""Digits of a number: what a float64 holds at most. Python refuses to print more than 4,300."""
SMALL_FILE = 256 * 1024
"""Bytes of what people write by hand (recipes, templates): 50 times the longest recipe of ours. A second
for PyYAML."""
LONGEST_LINE = 64 * 2**20
"""Characters of one line of data: sixteen million tokens, more than any model reads."""
SHARE_OF_MEMORY = 8
"""Rows take eight times the characters of their file, as dicts of Python: measured with GSM8K."""


class Unreadable(ValueError):
    """A file that is not what it should be: where, what, and the way out."""


def text(path: str | Path, most_bytes: int = SMALL_FILE) -> str:
    """The text of a file of at most `most_bytes`.

    Raises OSError where it cannot be opened, Unreadable where it is no regular file (a pipe could wait for
    ever, a device never end), too large, or not UTF-8.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a null character in the name
        raise Unreadable(f"no file has such a name ({error})") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise Unreadable("it is no regular file; copy what it says into one")
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise Unreadable(
            f"it has {os.path.getsize(path):,} bytes, which is more than the {most_bytes:,} that such a file "
            "may have; see that it is the right one"
        )
    return decoded(data)


def decoded(data: bytes) -> str:
    """UTF-8, with or without a byte order mark. Raises Unreadable with line and column."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise Unreadable("it is UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise Unreadable(
            f"line {line}, column {column}: the byte 0x{data[error.start]:02x} is not UTF-8; save the file "
            "as UTF-8"
        ) from None


def most_of_data() -> int:
    """Characters of a data file that this machine can hold as rows."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // SHARE_OF_MEMORY


def lines(file: IO[str], longest: int = LONGEST_LINE) -> Iterator[str]:
    """The lines of a text file that is open with errors="surrogateescape": none is endless, all are UTF-8.

    Raises Unreadable with line and column, and where the file, unpacked, is more than memory can hold.
    """
    number, left = 0, most_of_data()
    while line := file.readline(longest + 1):
        number, left = number + 1, left - len(line)
        if left < 0:
            raise Unreadable(
                f"it has more than {most_of_data():,} characters, and the rows would not fit into memory; "
                "take a part of it"
            )
        try:
            line.encode()
        except UnicodeEncodeError as error:
            byte = ord(line[error.start]) - 0xDC00
            raise Unreadable(
                f"line {number}, column {error.start + 1}: the byte 0x{byte:02x} is not UTF-8; save the file "
                "as UTF-8"
            ) from None
        if len(line) > longest:
            raise Unreadable(
                f"line {number} has more than {longest:,} characters, which no model reads; cut it into rows"
            )
        yield line


def json_object(data: str | bytes) -> dict[str, Any]:
    """The object that a JSON text or file holds. Raises Unreadable, as `json_value` does."""
    value = json_value(data)
    if not isinstance(value, dict):
        raise Unreadable(f"it holds a {type(value).__name__}, not a JSON object")
    return value


def json_value(data: str | bytes, line: int | None = None) -> Any:
    """What a JSON text says. Raises Unreadable with line and column, and for what is nested too deeply.

    `line` is the text's number in a file of lines.
    """
    text = decoded(data) if isinstance(data, bytes) else data
    where = "" if line is None else f"line {line}: "
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise Unreadable(
            f"line {line or error.lineno} is not JSON: {error.msg}, column {error.colno}"
        ) from None
    except RecursionError:
        raise Unreadable(where + TOO_DEEP) from None
    except ValueError:  # the only other one: an integer that Python does not convert
        raise Unreadable(where + TOO_LONG) from None
    if text.count("[") + text.count("{") > DEEPEST and _deeper(value):
        raise Unreadable(where + TOO_DEEP)
    return value


TOO_DEEP = f"lists and mappings are nested more than {DEEPEST} deep; flatten them"
TOO_LONG = f"a number has more than {LONGEST_NUMBER} digits; write it as a text"


def _deeper(value: Any) -> bool:
    """Whether lists and mappings are nested more than `DEEPEST` deep."""
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True
