"""The comparison as Markdown: its tables, notices and commands."""

from evolign.comparison.report import Comparison
from evolign.comparison.reproduce import commands
from evolign.comparison.samples import printable
from evolign.comparison.tables import Cell, Table


def markdown(comparison: Comparison) -> str:
    """The whole file."""
    labels = [entry.label for entry in comparison.entries]
    parts = ["# Comparison", *(f"- {_plain(notice.text)}" for notice in comparison.notices), ""]
    parts += ["## Results", "", *_table(labels, comparison.results)]
    parts += ["## Costs", "", *_table(labels, comparison.costs)]
    if comparison.reached is not None:
        heading = f"## To {comparison.metric} {comparison.target:.3f} on validation"
        parts += [heading, "", *_table(labels, comparison.reached)]
    if comparison.left_out:
        parts += ["## Left out", ""]
        parts += [f"- {_plain(left.path)}: {_plain(left.reason)}" for left in comparison.left_out] + [""]
    parts += ["## Commands", ""]
    for entry in comparison.entries:
        parts += [f"{_plain(entry.label)}:", "", *(f"    {printable(line)}" for line in commands(entry)), ""]
    return "\n".join(parts)


def _table(labels: list[str], table: Table) -> list[str]:
    rows = [
        " | ".join([_plain(label), *(_cell(cell) for cell in cells)])
        for label, cells in zip(labels, table.rows, strict=True)
    ]
    head = " | ".join(["entry", *map(_plain, table.columns)])
    rule = "|".join(["---", *("---:" for _ in table.columns)])
    notes = " ".join(table.notes)
    return [f"| {head} |", f"|{rule}|", *(f"| {row} |" for row in rows), "", *([notes, ""] if notes else [])]


def _cell(cell: Cell) -> str:
    text = _plain(cell.text)
    return " ".join([f"**{text}**" if cell.best else text, *([_plain(cell.detail)] if cell.detail else [])])


def _plain(text: str) -> str:
    """One line of text without meaning to Markdown or HTML."""
    escaped = printable(text).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    for sign in "|*_`":
        escaped = escaped.replace(sign, f"\\{sign}")
    return " ".join(escaped.split())
