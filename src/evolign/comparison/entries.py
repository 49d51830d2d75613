"""Entries: runs whose configurations differ only in the seed, and the labels that tell entries apart."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from evolign.comparison.loading import LeftOut, Run

SHORT = {"learning_rate": "lr"}
ABSENT = "–"


@dataclass(frozen=True)
class Entry:
    """One line of the report: a configuration and its runs, one per seed."""

    label: str
    runs: list[Run]

    @property
    def seeds(self) -> list[Any]:
        return [run.seed for run in self.runs]


def group(runs: Sequence[Run]) -> tuple[list[Entry], list[LeftOut]]:
    """The entries in the order of their first runs; a run that repeats another one is left out.

    Runs with a label of the user's form one entry, whatever their configurations.
    """
    groups: dict[str, list[Run]] = {}
    left_out = []
    for run in runs:
        key = f"label {run.label}" if run.label is not None else _identity(run)
        twins = [other for other in groups.get(key, []) if other.config == run.config]
        if twins:
            left_out.append(
                LeftOut(str(run.path), f"it repeats {twins[0].path}: the same configuration and seed")
            )
        else:
            groups.setdefault(key, []).append(run)
    members = [sorted(group, key=lambda run: str(run.seed).zfill(12)) for group in groups.values()]
    return [Entry(label, group) for label, group in zip(_labels(members), members, strict=True)], left_out


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a configuration by dotted path."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            leaves |= flatten(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves


def differences(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Dotted paths of the settings, except the seed, that are not the same in all `configs`."""
    leaves = [flatten(config) for config in configs]
    paths = list(dict.fromkeys(path for tree in leaves for path in tree if path != "seed"))
    return [path for path in paths if len({_text(tree, path) for tree in leaves}) > 1]


def shown(tree: Mapping[str, Any], path: str) -> str:
    """A setting of a flattened configuration as a reader writes it."""
    if path not in tree:
        return ABSENT
    value = tree[path]
    return value if isinstance(value, str) else json.dumps(value)


def _identity(run: Run) -> str:
    rest = {name: value for name, value in run.config.items() if name != "seed"}
    return json.dumps([run.method, rest], sort_keys=True)


def _text(tree: Mapping[str, Any], path: str) -> str:
    return json.dumps(tree[path], sort_keys=True) if path in tree else ABSENT


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Each group's given label; else its method, and the fewest settings that tell it from its namesakes."""
    labels = [group[0].label or group[0].method for group in groups]
    for method, count in Counter(labels).items():
        same = [i for i, label in enumerate(labels) if label == method and groups[i][0].label is None]
        if count > 1 and len(same) > 1:
            trees = [flatten(groups[i][0].config) for i in same]
            for i, label in zip(same, _distinct(method, trees), strict=True):
                labels[i] = label
    taken: Counter[str] = Counter()
    for i, label in enumerate(labels):
        taken[label] += 1
        if taken[label] > 1:
            labels[i] = f"{label} #{taken[label]}"
    return labels


def _distinct(method: str, trees: Sequence[Mapping[str, Any]]) -> list[str]:
    """Labels of one method's configurations: names first, then the other settings, until all differ."""
    paths = sorted(differences(trees), key=lambda path: not path.endswith(".name"))
    chosen: list[str] = []
    parts = 1
    for path in paths:
        split = len({tuple(_text(tree, name) for name in [*chosen, path]) for tree in trees})
        if split > parts:
            chosen, parts = [*chosen, path], split
    labels = []
    for tree in trees:
        names = [_short(tree, path) for path in chosen if path.endswith(".name") and path in tree]
        values = [
            f"{_short_path(path)}={_short(tree, path)}"
            for path in chosen
            if not path.endswith(".name") and path in tree
        ]
        labels.append(" ".join([method, *([f"({', '.join(names)})"] if names else []), *values]))
    return labels


def _short_path(path: str) -> str:
    last = path.rsplit(".", 1)[-1]
    return SHORT.get(last, last)


def _short(tree: Mapping[str, Any], path: str) -> str:
    """A value as a label shows it: the last part of a path, a number without padding."""
    value = tree[path]
    if isinstance(value, float):
        return f"{value:g}"
    return PurePath(value).name or value if isinstance(value, str) else json.dumps(value)
