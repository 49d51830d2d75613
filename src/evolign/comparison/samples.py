"""Side-by-side samples: the same prompts before and after, for every entry."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolign.comparison.entries import Entry
from evolign.comparison.loading import Run, number

SHOWN = 8
"""Prompts at most."""
PICTURES = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {127: "␡"}
"""Control characters, which HTML does not allow, and the signs that stand for them."""


@dataclass(frozen=True)
class Sample:
    """A completion and its score."""

    completion: str
    score: float | None


@dataclass(frozen=True)
class Case:
    """One prompt and the completion of every entry; None if its run did not keep the prompt."""

    prompt: str
    decoding: str
    shared_start: Sample | None
    """The completion before, where it is the same for all entries that kept the prompt."""
    before: list[Sample | None]
    after: list[Sample | None]


def cases(entries: Sequence[Entry], metric: str | None) -> list[Case]:
    """Up to `SHOWN` prompts, those that most entries kept first; of each entry its first seed with samples.

    The decoding is that of `metric`, where the samples have it.
    """
    decoding = _decoding(entries, metric)
    before = [_first(entry, "baseline", decoding) for entry in entries]
    after = [_first(entry, "final", decoding) for entry in entries]
    kept: dict[str, int] = {}
    for old, new in zip(before, after, strict=True):
        for key in dict.fromkeys([*new, *old]):
            kept[key] = kept.get(key, 0) + 1
    found = []
    for key in sorted(kept, key=lambda key: -kept[key])[:SHOWN]:
        starts = [_sample(samples.get(key)) for samples in before]
        same = {start for start in starts if start is not None}
        row = next(samples[key] for samples in (*after, *before) if key in samples)
        found.append(
            Case(
                prompt_text(row.get("prompt")),
                decoding or "",
                next(iter(same)) if len(same) == 1 else None,
                starts,
                [_sample(samples.get(key)) for samples in after],
            )
        )
    return found


def prompt_text(prompt: object) -> str:
    """A prompt as one text; chat messages under their roles."""
    if isinstance(prompt, list) and all(isinstance(message, dict) for message in prompt):
        return "\n\n".join(
            f"{printable(message.get('role', '?'))}: {printable(message.get('content', ''))}"
            for message in prompt
        )
    return printable(prompt)


def printable(value: object) -> str:
    """Text that HTML can hold: control characters as pictures, lone surrogates replaced."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("\r\n", "\n").translate(PICTURES).encode("utf-8", "replace").decode()


def _decoding(entries: Sequence[Entry], metric: str | None) -> str | None:
    names = dict.fromkeys(
        str(row["decoding"])
        for entry in entries
        for run in entry.runs
        for row in run.samples
        if "decoding" in row
    )
    named = [name for name in names if metric is not None and metric.endswith(f"_{name}")]
    return next(iter([*named, *names]), None)


def _first(entry: Entry, stage: str, decoding: str | None) -> dict[str, Mapping[str, Any]]:
    """The samples of a stage by prompt, of the entry's first run that has any."""
    return next((found for run in entry.runs if (found := _of_stage(run, stage, decoding))), {})


def _of_stage(run: Run, stage: str, decoding: str | None) -> dict[str, Mapping[str, Any]]:
    """By id and prompt. Without stages, the first and the last evaluation stand for them."""
    rows = [row for row in run.samples if row.get("decoding") == decoding]
    if any("stage" in row for row in run.samples):
        rows = [row for row in rows if row.get("stage") == stage]
    elif rows:
        times = [number(row.get("generation", row.get("step"))) or 0.0 for row in rows]
        wanted = min(times) if stage == "baseline" else max(times)
        rows = [row for row, time in zip(rows, times, strict=True) if time == wanted]
    return {json.dumps([row.get("id"), row.get("prompt")], sort_keys=True): row for row in rows}


def _sample(row: Mapping[str, Any] | None) -> Sample | None:
    if row is None:
        return None
    return Sample(printable(row.get("completion", "")), number(row.get("score")))
