"""Pairing completions: rows of two evaluations, or of one and its references, matched by example."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolign import jsonl
from evolign.errors import ConfigError
from evolign.messages import Prompt
from evolign.tasks.cells import text

Rows = str | Path | Sequence[Mapping[str, Any]]
"""A .jsonl file of `evolign evaluate --out`, or its rows: id, prompt, completion, decoding where known."""
REFERENCE = "reference"


@dataclass(frozen=True)
class Pair:
    """Two completions of one prompt."""

    id: str
    sample: int
    prompt: Prompt
    ours: str
    theirs: str


@dataclass(frozen=True)
class Pairs:
    """The pairs to judge, and what could not be paired."""

    pairs: list[Pair]
    unmatched: int
    """Rows of either side without a partner."""
    without_reference: int
    """Rows of ours that have no reference, or a blank one."""


def pair_up(rows: Rows, against: Rows, decoding: str) -> Pairs:
    """The pairs of `rows` and `against`: other rows, or "reference" for the rows' own references.

    Of rows that say how they were decoded, those of `decoding` count. Raises ConfigError where there is
    nothing to compare, where a row lacks a field, and where one id stands for two prompts.
    """
    ours = _by_key(rows, decoding)
    if isinstance(against, str) and against == REFERENCE:
        return _with_references(rows, ours)
    theirs = _by_key(against, decoding)
    shared = [key for key in ours if key in theirs]
    if not shared:
        raise ConfigError(
            f"{_name(rows)} and {_name(against)} have no example in common; evaluate both on the same task "
            "and split"
        )
    pairs = []
    for key in shared:
        if ours[key]["prompt"] != theirs[key]["prompt"]:
            raise ConfigError(
                f"the example {key[0]!r} has another prompt in {_name(rows)} than in {_name(against)}; "
                "evaluate both on the same task and split"
            )
        row = ours[key]
        pairs.append(Pair(*key, row["prompt"], row["completion"], theirs[key]["completion"]))
    return Pairs(pairs, len(ours) + len(theirs) - 2 * len(shared), 0)


def _with_references(rows: Rows, ours: Mapping[tuple[str, int], Mapping[str, Any]]) -> Pairs:
    pairs = [
        Pair(*key, row["prompt"], row["completion"], reference)
        for key, row in ours.items()
        if (reference := _reference(row, f"{_name(rows)}, row {key[0]!r}")).strip()
    ]
    if not pairs:
        raise ConfigError(
            f"{_name(rows)} holds no reference completions; compare with other rows, or set task.completion "
            "and evaluate again"
        )
    return Pairs(pairs, 0, len(ours) - len(pairs))


def _reference(row: Mapping[str, Any], where: str) -> str:
    try:
        return "" if row.get("reference") is None else text(row["reference"])
    except ValueError as error:
        raise ConfigError(f"{where}: the reference {error}") from error


def _by_key(rows: Rows, decoding: str) -> dict[tuple[str, int], Mapping[str, Any]]:
    name = _name(rows)
    everything = _read(rows) if isinstance(rows, str | Path) else rows
    if not everything:
        raise ConfigError(f"{name} holds no rows")
    found: dict[tuple[str, int], Mapping[str, Any]] = {}
    for number, row in enumerate(everything, start=1):
        _check_row(row, f"{name}, row {number}")
        if row.get("decoding", decoding) != decoding:
            continue
        key = (str(row["id"]), int(row.get("sample", 0)))
        if key in found:
            raise ConfigError(f"{name}, row {number}: the id {row['id']!r} comes twice; make ids unique")
        found[key] = row
    if not found:
        others = ", ".join(sorted({str(row["decoding"]) for row in everything}))
        raise ConfigError(f"{name} holds no {decoding} completions, only {others}; choose by --decoding")
    return found


def _check_row(row: Any, where: str) -> None:
    if not isinstance(row, Mapping):
        raise ConfigError(f"{where} is {row!r:.80}; it must be an object with id, prompt and completion")
    for field in ("id", "prompt", "completion"):
        if field not in row:
            raise ConfigError(f"{where} lacks {field!r}; it needs id, prompt and completion")
    if not isinstance(row["completion"], str):
        raise ConfigError(f"{where}: completion = {row['completion']!r:.80} must be a text")


def _read(path: str | Path) -> list[Any]:
    try:
        return [row for _, row in jsonl.read(Path(path).expanduser())]
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the completions in {str(path)!r}: {error}") from error


def _name(rows: Rows) -> str:
    return repr(str(rows)) if isinstance(rows, str | Path) else "the rows"
