"""Alarms while a run goes on: what its rows and its machine say, once each, with what to do about it."""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from evolign.errors import RunError, quoted
from evolign.runs.directory import read_rows
from evolign.runs.progress import Progress, Relay
from evolign.runs.provenance import memory_limit_bytes

TRUNCATED, RISE = 0.25, 2
"""Share of completions that reach the length limit, and how much it has grown since the start."""
UNINFORMATIVE = 3
"""Rows in a row without a prompt to learn from."""
MEMORY = 0.9
"""Share of what the process may use."""
FREE_BYTES = 2**30
"""Of the disk: a few checkpoints of a large adapter."""


class Alarms(Relay):
    """A run's progress, which also raises alarms. What an interrupted run has said is not said again."""

    def __init__(self, run: Path, progress: Progress) -> None:
        super().__init__(progress)
        self._run = run
        self._first: dict[str, float] = {}
        self._uninformative = 0
        self._raised: set[str] = set()
        with suppress(RunError):  # a damaged file is told where it is needed
            for row in read_rows(run / "metrics.jsonl"):
                self._raised |= self._of_row(row).keys()

    def record(self, row: Mapping[str, Any]) -> bool | None:
        """Show the row, and raise the alarms that it gives reason for."""
        asked = super().record(row)
        found = self._of_row(row) | self._of_disk()
        for name in found.keys() - self._raised:
            self.say(f"Warning: {found[name]}")
        self._raised |= found.keys()
        return asked

    def _of_row(self, row: Mapping[str, Any]) -> dict[str, str]:
        """The alarms of a row by name. Rows that were read may be of any form."""
        row = {k: v for k, v in row.items() if isinstance(v, int | float)} if isinstance(row, dict) else {}
        return self._truncation(row) | self._nothing_to_learn(row) | _memory(row)

    def _truncation(self, row: Mapping[str, Any]) -> dict[str, str]:
        for name in row:
            if name == "truncated" or name.startswith("eval/truncated_"):
                share, first = row[name], self._first.setdefault(name, row[name])
                if share > TRUNCATED and share >= RISE * first:
                    return {
                        "truncation": f"{share:.0%} of the completions reach sampling.max_new_tokens, "
                        f"{first:.0%} did at the start ({name}). See in samples.jsonl whether they ramble: "
                        "then let the reward punish it; if they are cut off in the middle of good answers, "
                        "raise sampling.max_new_tokens."
                    }
        return {}

    def _nothing_to_learn(self, row: Mapping[str, Any]) -> dict[str, str]:
        if "informative" in row:
            self._uninformative = 0 if row["informative"] else self._uninformative + 1
        if self._uninformative < UNINFORMATIVE:
            return {}
        return {
            "informative": f"for {UNINFORMATIVE} generations, no prompt had completions of different "
            "rewards, so that there was nothing to learn from. Raise sampling.samples_per_prompt, "
            "sampling.temperature or evolution.prompts_per_generation; if the rewards are all low, the task "
            "is too hard for the model, if they are all high, it is solved."
        }

    def _of_disk(self) -> dict[str, str]:
        free = shutil.disk_usage(self._run).free
        if free >= FREE_BYTES:
            return {}
        return {
            "disk": f"the disk of {str(self._run)!r} has {free / 2**20:,.0f} MiB left. Free some space: when "
            f"it is full, the run stops at its last checkpoint; then `evolign resume {quoted(self._run)}`."
        }


def _memory(row: Mapping[str, Any]) -> dict[str, str]:
    used, limit = row.get("peak_memory_bytes", 0), memory_limit_bytes()
    if used < MEMORY * limit:
        return {}
    return {
        "memory": f"the process has held {used / 2**30:.1f} GiB of the {limit / 2**30:.1f} GiB that it may "
        "use. To need less, stop it and start again with a lower engine.memory_gb or engine.micro_batch_size "
        "(and training.micro_batch_size); neither changes the result beyond rounding."
    }
