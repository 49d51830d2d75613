"""Files: the rows of a file or of a Hugging Face data set, as a list of dicts.

A source is the path of a .jsonl, .json, .csv, .tsv (each also .gz) or .parquet file, in which `~`
and environment variables such as `$EVOLIGN_DATA` are expanded, or a data set of the hub:
"owner/name", "owner/name:configuration", "owner/name:configuration@split".
"""

import csv
import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

from evolign import jsonl, untrusted
from evolign.errors import ConfigError, UnreachableError, did_you_mean
from evolign.errors import shown as shown_value
from evolign.tasks.cells import text

Row = dict[str, Any]
T = TypeVar("T")

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
MOST_SHOWN = 100
"""Columns of a row that a message lists."""
HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(:(?P<config>[\w.-]+))?(@(?P<split>.+))?")


def read_rows(source: str | Iterable[Mapping[str, Any]], field: str, split: str) -> list[Row]:
    """The rows of `source`; `field` names the setting in errors, `split` is the hub's default.

    `source` may also be a list of dicts or a `datasets.Dataset`. Values of CSV files are strings.
    Raises ConfigError where the source cannot be read or is empty.
    """
    if not isinstance(source, str):
        rows = [dict(row) for row in source]
        shown = f"{field} = {type(source).__name__}"
    else:
        path, shown = Path(expanded(source, field)), f"{field} = {source!r}"
        if path.is_file():
            rows = _read_file(path, shown)
        elif _suffix(path) in SUFFIXES or not (hub := HUB.fullmatch(source)):
            raise ConfigError(
                f"{shown} does not exist (looked in {Path.cwd()}); give the path of a"
                f" {', '.join(SUFFIXES)} file or a hub name such as 'openai/gsm8k:main'"
            )
        else:
            rows = _read_hub(hub["name"], hub["config"], hub["split"] or split, shown)
    if not rows:
        raise ConfigError(f"{shown} holds no rows; give at least one")
    return rows


def expanded(path: str, field: str) -> str:
    """The path with `~` and environment variables replaced; ConfigError if one is not set."""
    result = os.path.expandvars(os.path.expanduser(path))
    if missing := re.search(r"\$\{?(\w+)", result):
        raise ConfigError(
            f"{field} = {path!r}: the environment variable {missing[1]} is not set; set it to the"
            f" folder that is meant (export {missing[1]}=...), or give a path without it"
        )
    return result


def column(row: Mapping[str, Any], name: str, number: int, field: str) -> Any:
    """The value of a column of row `number`; ConfigError if there is none or it is null."""
    if name not in row:
        columns = ", ".join(shown_value(key).strip("'") for key in [*row][:MOST_SHOWN]) or "none"
        raise ConfigError(
            f"{field} needs the column {shown_value(name)}, which row {number} does not have; its columns: "
            f"{columns}.{did_you_mean(name, [*row][:MOST_SHOWN])}"
        )
    if row[name] is None:
        raise ConfigError(f"{field}: the column {name!r} of row {number} is null; remove the row")
    return row[name]


def text_column(row: Mapping[str, Any], name: str, number: int, field: str) -> str:
    """The text of a column of row `number`; ConfigError if there is none."""
    return as_cell(text, column(row, name, number, field), name, number, field)


def as_cell(read: Callable[[Any], T], value: Any, name: str, number: int, field: str) -> T:
    """What `read`, a function of `cells.py`, makes of a value of row `number`; ConfigError if it refuses."""
    try:
        return read(value)
    except ValueError as error:
        raise ConfigError(f"{field}: the column {name!r} of row {number} {error}") from error


def _read_file(path: Path, shown: str) -> list[Row]:
    suffix = _suffix(path)
    try:
        if suffix == ".parquet":
            import pyarrow.parquet

            _check_size(pyarrow.parquet.read_metadata(path))
            table: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
            return table
        with _opened(path) as file:
            lines = untrusted.lines(file)
            if suffix == ".jsonl":
                return _json_lines(lines, shown)
            if suffix == ".json":
                return _json_array("".join(lines), shown)
            if suffix in (".csv", ".tsv"):
                return _csv(lines, shown, "," if suffix == ".csv" else "\t")
    except untrusted.Unreadable as error:
        raise ConfigError(f"{shown} cannot be read: {error}") from error
    except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{shown} cannot be read: {type(error).__name__}: {error}") from error
    raise ConfigError(f"{shown} has the ending {suffix!r}; known: {', '.join(SUFFIXES)}")


def _check_size(parquet: Any) -> None:
    """Raise Unreadable if the rows of a Parquet file, whose metadata these are, would not fit into memory."""
    groups = [parquet.row_group(i) for i in range(parquet.num_row_groups)]
    size = max(sum(group.total_byte_size for group in groups), parquet.num_rows * parquet.num_columns)
    if size > untrusted.most_of_data():
        raise untrusted.Unreadable(
            f"it holds {parquet.num_rows:,} rows of {size:,} bytes in all, which would not fit into memory; "
            "take a part of it"
        )


def _json_lines(lines: Iterable[str], shown: str) -> list[Row]:
    try:
        numbered = list(jsonl.loads(lines))
    except jsonl.LineError as error:
        raise ConfigError(f"{shown}: {error}; repair it") from error
    for number, row in numbered:
        if not isinstance(row, dict):
            raise ConfigError(
                f"{shown}: line {number} is a {type(row).__name__}; every line must be an object"
            )
    return [row for _, row in numbered]


def _json_array(text: str, shown: str) -> list[Row]:
    try:
        value = untrusted.json_value(text)
    except untrusted.Unreadable as error:
        raise ConfigError(f"{shown}: {error}; one row per line is .jsonl") from error
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise ConfigError(f"{shown} must hold one array of objects; one object per line is .jsonl")
    return value


def _csv(lines: Iterable[str], shown: str, delimiter: str) -> list[Row]:
    rows = []
    for number, row in enumerate(csv.DictReader(lines, delimiter=delimiter, strict=True), start=1):
        if None in row or None in row.values():
            raise ConfigError(
                f"{shown}: row {number} has not as many fields as the header; quote fields that"
                " hold the delimiter"
            )
        rows.append(dict(row))
    return rows


def _read_hub(name: str, config: str | None, split: str, shown: str) -> list[Row]:
    from datasets import load_dataset

    try:
        return [dict(row) for row in load_dataset(name, config, split=split)]
    except Exception as error:  # offline, gated, misspelt, without such a split: all said by it
        raise UnreachableError(
            f"{shown} is no file here (looked in {Path.cwd()}), and loading split {split!r} of it"
            f" from the hub failed: {type(error).__name__}: {error}"
        ) from error


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix == ".gz" else path.suffix.lower()


def _opened(path: Path) -> TextIO:
    # utf-8-sig drops the mark that spreadsheet programs put first; newline="" is for csv.
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def check_enough(rows: Sequence[object], field: str, **wanted: int) -> None:
    """Raise ConfigError unless `rows` hold all the `wanted` ones and at least one more."""
    if sum(wanted.values()) >= len(rows):
        settings = " and ".join(f"{name} = {count}" for name, count in wanted.items())
        raise ConfigError(
            f"{field} has {len(rows)} distinct rows, but {settings} leave none to train on; lower"
            " them or add rows"
        )
