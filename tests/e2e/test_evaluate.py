"""`evolign evaluate` and `evolign judge`, from a finished run to a win rate."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import judge_server

Cli = Callable[..., tuple[int, str, str]]
JUDGE = """
def wanted(prompt, a, b):
    i = int(prompt.split()[1].rstrip(":"))
    letters = ("abcdefghijkl", "mnopqrstuvwx", "0123456789+-")[i % 3]
    one, other = (sum(letter in letters for letter in text) / max(1, len(text)) for text in (a, b))
    return "A" if one > other else "B" if other > one else "tie"
"""


def test_a_run_is_judged_against_where_it_started_on_its_own_task(
    cli: Cli, reference: Path, tmp_path: Path
) -> None:
    """The starting adapter brings no task: it is given the run's, so that the prompts are the same."""
    (tmp_path / "judge.py").write_text(JUDGE)
    rows, out = tmp_path / "rows.jsonl", tmp_path / "verdicts"
    by = f"{tmp_path / 'judge.py'}:wanted"
    status, output, errors = cli(
        "evaluate", reference, "--judge", by, "--against", reference / "warm_start",
        "--judge-out", out, "--out", rows,
    )  # fmt: skip
    assert (status, errors) == (0, "")
    found = json.loads((out / "win_rate.json").read_text())
    assert found["pairs"] == 6 and found["agreement"] in (1.0, None)
    assert f"Win rate {found['win_rate']:.3f} [" in output and str(reference / "warm_start") in output
    for name in ("reward_greedy", "rougeL_sampled", "tokens_greedy", "truncated_greedy", "empty_sampled"):
        assert name in output
    status, output, _ = cli("judge", rows, "--by", by)
    assert status == 0 and "6 pairs in both orders" in output and "against reference" in output
    status, again, _ = cli("evaluate", reference, "--judge", by, "--against", rows, "--yes")
    assert status == 0 and "Win rate 0.500 [0.500, 0.500]" in again and "6 pairs of equal" in again


def test_pass_at_k_is_an_override_away(cli: Cli, reference: Path, tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text(
        "def reward(prompts, completions, **columns):\n    return [float('a' in t) for t in completions]\n"
    )
    asked = ["task.metric=accuracy", f"task.reward={tmp_path / 'reward.py'}:reward"]
    asked += ["evaluation.decoding=[sampled]", "evaluation.samples=4", "evaluation.pass_at=[1, 4]"]
    out = tmp_path / "rows.jsonl"
    status, output, errors = cli("evaluate", reference, *asked, "--out", out)
    assert (status, errors) == (0, ""), "and that the run selected by greedy does not matter"
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    right = [sum(row["score"] for row in rows if row["id"] == id) for id in {row["id"] for row in rows}]
    assert len(rows) == 24 and f"{sum(right) / 24:.3f}" in output
    assert f"{sum(count > 0 for count in right) / 6:.3f}" in output and "pass@4_sampled" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--judge", "x.py:f"), "judge = 'x.py:f': the file 'x.py' does not exist"),
        (("--judge", "gpt-x", "--judge-url", "host"), "must begin with http:// or https:// and name a host"),
        (("--judge", "local:./none"), "'./none' is not a folder"),
    ],
)
def test_a_judge_that_cannot_work_is_told_before_a_completion_is_generated(
    cli: Cli, reference: Path, arguments: tuple[str, ...], words: str
) -> None:
    status, output, errors = cli("evaluate", reference, *arguments)
    assert (status, output) == (1, "") and errors.startswith("evolign: ") and words in errors


def test_on_a_terminal_nothing_is_spent_without_a_yes(tmp_path: Path) -> None:
    row = {"id": "a", "prompt": "p", "completion": "c", "reference": "r"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "OPENAI_API_KEY": "sk-none"}

    def answered(server: Any, keys: str) -> subprocess.CompletedProcess[str]:
        ours, theirs = pty.openpty()
        os.write(ours, keys.encode())
        command = [sys.executable, "-c", "from evolign.cli.app import main; main()", "judge", "rows.jsonl"]
        try:
            return subprocess.run(
                [*command, "--by", "gpt-x", "--url", server.url],
                cwd=tmp_path, env=environment, stdin=theirs, capture_output=True, text=True,
            )  # fmt: skip
        finally:
            os.close(ours)
            os.close(theirs)

    with judge_server(lambda number, body: "[[A]]") as server:
        refused = answered(server, "n\n")
        assert refused.returncode == 1 and "Judge gpt-x: 2 calls" in refused.stdout and not server.bodies
        assert answered(server, "y\n").returncode == 0 and len(server.bodies) == 2
        free = answered(server, "")
        assert free.returncode == 0 and "Continue?" not in free.stdout, "what is in the cache costs nothing"
