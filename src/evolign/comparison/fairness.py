"""Notices: sentences that say why entries cannot be compared directly."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evolign.comparison.entries import Entry, differences
from evolign.comparison.estimates import Estimate, own_interval
from evolign.comparison.loading import Run

SCORED_BY = ("reward", "rewards", "metric")
"""Settings of a task that change what a score means; other rows to test on show in the fingerprints."""
COVERED = ("num_test",)
"""Settings of a task that another sentence covers."""
MISSING = "(missing)"
Spoils = Literal["metrics", "costs", "nothing"]


@dataclass(frozen=True)
class Notice:
    """A sentence for the reader, and the columns in which no entry can be called the best."""

    text: str
    spoils: Spoils = "nothing"


def notices(entries: Sequence[Entry], metric: str) -> list[Notice]:
    """Everything that a reader must know before comparing the figures of `entries`."""
    return [
        *_differing(entries, "The task", lambda run: run.result.get("task"), "metrics"),
        *_differing(entries, "The split", lambda run: run.result.get("split"), "metrics"),
        *_differing(
            entries, "The number of test prompts", lambda run: run.result.get("num_examples"), "metrics"
        ),
        *_task_settings(entries),
        *_model(entries),
        *_data(entries),
        *_differing(entries, "sampling.max_new_tokens", _tested_length, "metrics"),
        *_differing(entries, "The hardware", hardware, "costs"),
        *_differing(entries, "engine.threads", _setting("engine", "threads"), "costs"),
        *_versions(entries),
        *_mixed_entries(entries),
        *_starts(entries, metric),
        *_seeds(entries),
    ]


def hardware(run: Run) -> str | None:
    """Processor, cores, threads and GPUs that the run reports; None where it reports nothing."""
    facts = run.provenance
    if not facts:
        return None
    gpus = facts.get("gpus") or []
    cpu = f"{facts.get('processor') or 'unknown processor'}, {facts.get('cores', '?')} cores"
    threads = facts.get("omp_num_threads")
    return ", ".join([*map(str, gpus), cpu, *([f"OMP_NUM_THREADS={threads}"] if threads else [])])


def versions(run: Run) -> dict[str, str]:
    """Python, packages and the revision of evolign."""
    found = {"python": run.provenance.get("python"), "revision": run.provenance.get("revision")}
    packages = run.provenance.get("versions")
    if isinstance(packages, dict):
        found |= packages
    return {name: str(value) for name, value in found.items() if value}


def labels_by_value(
    entries: Sequence[Entry], value_of: Callable[[Run], Any]
) -> dict[str, tuple[Any, list[str]]]:
    """Every value with the labels of the entries that have it."""
    found: dict[str, tuple[Any, list[str]]] = {}
    for entry in entries:
        for run in entry.runs:
            value = value_of(run)
            _, labels = found.setdefault(json.dumps(value, sort_keys=True, default=str), (value, []))
            if entry.label not in labels:
                labels.append(entry.label)
    return found


def _differing(
    entries: Sequence[Entry], what: str, value_of: Callable[[Run], Any], spoils: Spoils
) -> list[Notice]:
    values = [pair for pair in labels_by_value(entries, value_of).values() if pair[0] != MISSING]
    if len(values) < 2:
        return []
    parts = [f"{'not recorded' if value is None else value} ({_names(labels)})" for value, labels in values]
    return [Notice(f"{what} differs: {'; '.join(parts)}.", spoils)]


def _names(labels: Sequence[str]) -> str:
    """A few labels by name; many as their number."""
    return ", ".join(labels) if len(labels) <= 4 else f"{len(labels)} entries"


def _setting(section: str, name: str) -> Callable[[Run], Any]:
    """A reader of one setting of config.json; MISSING where a foreign one does not have it."""

    def read(run: Run) -> Any:
        found = run.config.get(section)
        return found.get(name, MISSING) if isinstance(found, dict) else MISSING

    return read


def _tested_length(run: Run) -> Any:
    """Tokens of a tested completion at most; MISSING where the test generates none (a reward model's)."""
    generates = any(name.endswith(("_greedy", "_sampled")) for name in run.result["final"])
    return _setting("sampling", "max_new_tokens")(run) if generates else MISSING


def _task_settings(entries: Sequence[Entry]) -> list[Notice]:
    """Settings of the same task that change what the metric means."""
    if len(labels_by_value(entries, lambda run: run.result.get("task"))) > 1:
        return []
    tasks = [run.config.get("task") for entry in entries for run in entry.runs]
    paths = differences([task for task in tasks if isinstance(task, dict)])
    found = []
    for name in dict.fromkeys(path.split(".")[0] for path in paths):
        if name in COVERED:
            continue
        spoils: Spoils = "metrics" if name in SCORED_BY else "nothing"
        found += _differing(entries, f"task.{name}", _setting("task", name), spoils)
    return found


def _fingerprint(name: str) -> Callable[[Run], Any]:
    def read(run: Run) -> Any:
        prints = run.provenance.get("fingerprints")
        return prints.get(name) if isinstance(prints, dict) else None

    return read


def _named(values: dict[str, tuple[Any, list[str]]]) -> str:
    """The groups of entries that share a value, whatever it is."""
    groups = [
        f"{_names(labels)}{' (not recorded)' if value is None else ''}" for value, labels in values.values()
    ]
    return " | ".join(groups)


def _model(entries: Sequence[Entry]) -> list[Notice]:
    values = labels_by_value(entries, _fingerprint("model"))
    if len(values) < 2:
        return []
    return [Notice(f"The base model's weights differ between {_named(values)}.", "metrics")]


def _data(entries: Sequence[Entry]) -> list[Notice]:
    values = labels_by_value(entries, _fingerprint("data"))
    if len(values) < 2:
        return []
    kept = {tuple(tested) for entry in entries for run in entry.runs if (tested := _tested_prompts(run))}
    shorter = min((len(tested) for tested in kept), default=0)
    if shorter and len({tested[:shorter] for tested in kept}) == 1:
        return [
            Notice(
                f"The rows of the task differ between {_named(values)}, those learnt from included; the "
                f"{shorter} test prompts that all runs kept are the same."
            )
        ]
    return [Notice(f"The rows of the task differ between {_named(values)}.", "metrics")]


def _tested_prompts(run: Run) -> list[str]:
    """Prompts of the kept samples of the final test, in order."""
    final = [row for row in run.samples if row.get("stage") == "final"]
    return list(dict.fromkeys(json.dumps(row.get("prompt"), sort_keys=True) for row in final))


def _versions(entries: Sequence[Entry]) -> list[Notice]:
    """Packages in different versions; one that a run does not record is ignored."""
    parts = []
    for name in sorted({name for entry in entries for run in entry.runs for name in versions(run)}):
        values = labels_by_value(entries, _version(name)).values()
        told = [f"{_short(value)} ({_names(labels)})" for value, labels in values if value is not None]
        if len(told) > 1:
            parts.append(f"{name} {', '.join(told)}")
    return [Notice(f"Versions differ: {'; '.join(parts)}.")] if parts else []


def _version(name: str) -> Callable[[Run], str | None]:
    return lambda run: versions(run).get(name)


def _short(version: str) -> str:
    """A version as it is, a commit by its first twelve digits."""
    commit, mark, rest = version.partition("-")
    return f"{commit[:12]}{mark}{rest}" if len(commit) == 40 else version


def _mixed_entries(entries: Sequence[Entry]) -> list[Notice]:
    """Entries that the user named and whose runs differ in more than the seed."""
    found = []
    for entry in entries:
        paths = differences([run.config for run in entry.runs])
        if paths:
            found.append(
                Notice(f"The runs of {entry.label} differ in more than the seed: {', '.join(paths)}.")
            )
        if len(set(map(str, entry.seeds))) < len(entry.runs):
            found.append(Notice(f"{entry.label} holds a seed more than once: its interval is too narrow."))
    return found


def _starts(entries: Sequence[Entry], metric: str) -> list[Notice]:
    """Entries whose starting points differ by more than their own intervals over prompts."""
    found = []
    for entry in entries:
        for run in entry.runs:
            value, (low, high) = run.metric("baseline", metric), own_interval(run, "baseline", metric)
            if value is not None:
                found.append((Estimate(value, low, high, 1, "prompts"), entry.label))
    found.sort(key=lambda pair: pair[0].mean)
    if len(found) > 1 and found[0][0].is_apart(found[-1][0]):
        (low_start, worst), (high_start, best) = found[0], found[-1]
        return [
            Notice(
                f"The entries do not start from the same point: {metric} {low_start.mean:.3f} ({worst}) to "
                f"{high_start.mean:.3f} ({best})."
            )
        ]
    return []


def _seeds(entries: Sequence[Entry]) -> list[Notice]:
    """Entries whose intervals say less than a reader may think."""
    single = [entry.label for entry in entries if len(entry.runs) == 1]
    pairs = [entry.label for entry in entries if len(entry.runs) == 2]
    found = []
    if single:
        found.append(
            f"One seed only: {', '.join(single)}. The interval covers the choice of prompts, not the luck of "
            "the seed."
        )
    if pairs:
        found.append(
            f"Two seeds only: {', '.join(pairs)}. A t interval over two seeds is 12.7 standard errors to "
            "either side; three seeds bring it to 4.3."
        )
    return [Notice(text) for text in found]
