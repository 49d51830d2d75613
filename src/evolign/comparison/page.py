"""The comparison as one HTML page that contains its style and figures."""

import json
from pathlib import Path
from typing import Any

from evolign.comparison.entries import differences, flatten, shown
from evolign.comparison.fairness import hardware, labels_by_value, versions
from evolign.comparison.figures import COLOURS, DASHES, curves, forest, marker
from evolign.comparison.report import Comparison
from evolign.comparison.reproduce import commands
from evolign.comparison.samples import cases, printable

TEMPLATES = Path(__file__).parent / "templates"


def page(comparison: Comparison) -> str:
    """The whole page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: (
            printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
        ),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    entries, metric = comparison.entries, comparison.metric
    charts = curves(entries, metric, comparison.target)
    return environment.get_template("page.html.j2").render(
        comparison=comparison,
        entries=entries,
        keys=[_key(i) for i in range(len(entries))],
        colours=COLOURS,
        facts=_facts(comparison),
        forest=forest(entries, metric),
        charts=charts,
        drawn=sorted({line.index for chart in charts for line in chart.lines}),
        cases=cases(entries, metric),
        settings=_settings(comparison),
        commands=[commands(entry) for entry in entries],
        configs=[json.dumps(entry.runs[0].config, indent=2, ensure_ascii=False) for entry in entries],
    )


def _key(index: int) -> dict[str, Any]:
    """An entry's sign in legends: its colour, its marker and its dash."""
    return {
        "colour": index % len(COLOURS),
        "marker": marker(index, 12, 6, 4.2),
        "dash": DASHES[index // len(COLOURS) % len(DASHES)],
    }


def _facts(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """The origin of the figures: each fact with its values, and the entries of each if they differ."""
    readers = {
        "task": lambda run: run.result.get("task"),
        "model": lambda run: run.result.get("model"),
        "tested on": lambda run: (
            f"{run.result.get('num_examples', '?')} {run.result.get('split', '?')} prompts"
        ),
        "hardware": hardware,
        "evolign": lambda run: versions(run).get("revision", versions(run).get("evolign")),
        "versions": lambda run: _main_versions(versions(run)),
    }
    facts = []
    for name, read in readers.items():
        values = labels_by_value(comparison.entries, read)
        told = [str(value or "not recorded") for value, _ in values.values()]
        if len(values) > 1:
            told = [
                f"{text} ({', '.join(labels)})"
                for text, (_, labels) in zip(told, values.values(), strict=True)
            ]
        facts.append((name, told))
    return facts


def _main_versions(found: dict[str, str]) -> str:
    return ", ".join(
        f"{name} {version}" for name, version in found.items() if name not in ("revision", "evolign")
    )


def _settings(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """The settings that are not the same for all entries, with every entry's value."""
    trees = [flatten(entry.runs[0].config) for entry in comparison.entries]
    paths = differences([entry.runs[0].config for entry in comparison.entries])
    return [(path, [shown(tree, path) for tree in trees]) for path in paths]
