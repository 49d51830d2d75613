"""A small recipe with everything in it, its uninterrupted run, and the command line in and out of process."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_models import save_tiny

EVOLIGN = [sys.executable, "-c", "from evolign.cli.app import main; main()"]
LETTERS = ("abcdefghijkl", "mnopqrstuvwx", "0123456789+-")
REWARD = '''
"""The share of a completion's characters that its row wants. A file named trap beside this one, holding
"SIGNAL split count", sends the signal to evolign in the reward's count-th call for prompts of the split."""

import os
from collections import Counter
from pathlib import Path

TRAP, PID = Path(__file__).with_name("trap"), Path(__file__).with_name("pid")
calls = Counter()


def reward(prompts, completions, wanted, **columns):
    split = prompts[0].split()[0]
    calls[split] += 1
    if TRAP.exists():
        signal, where, count = TRAP.read_text().split()
        if (where, int(count)) == (split, calls[split]):
            TRAP.unlink()
            PID.write_text(str(os.getpid()))
            os.kill(os.getppid(), int(signal))
    pairs = zip(completions, wanted)
    return [sum(letter in row for letter in text) / max(1, len(text)) for text, row in pairs]
'''


def write_rows(path: Path, split: str, count: int) -> str:
    rows = [
        {"prompt": f"{split} {i}: {i} + {i} =", "solved": LETTERS[i % 3], "wanted": LETTERS[i % 3]}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def make_recipe(root: Path) -> Path:
    """A model, data, a reward and the recipe that names them."""
    root.mkdir()
    (root / "reward.py").write_text(REWARD)
    tree: dict[str, Any] = {
        "seed": 3,
        "model": {"name": str(save_tiny("qwen2", root / "model"))},
        "adapter": {"rank": 2, "warm_start": {"max_steps": 2, "batch_size": 4, "learning_rate": 0.01}},
        "task": {
            "name": "rows",
            "train": write_rows(root / "train.jsonl", "train", 20),
            "validation": write_rows(root / "validation.jsonl", "validation", 6),
            "test": write_rows(root / "test.jsonl", "test", 6),
            "completion": "solved",
            "num_warmup": 8,
            "reward": f"{root / 'reward.py'}:reward",
        },
        "sampling": {"max_new_tokens": 12},
        "strategy": {"name": "cma_es", "population": 4},
        "calibration": {"prompts": 4, "candidates": 4},
        "evolution": {"generations": 4, "prompts_per_generation": 4},
        "evaluation": {"every": 2, "num_samples_kept": 3},
    }
    path = root / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def start(*arguments: object) -> subprocess.Popen[str]:
    """`evolign arguments...` in a process of its own."""
    command = [*EVOLIGN, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe; its uninterrupted run is in the folder `reference` beside it. Read only.

    It is made once, by whichever worker of pytest-xdist comes first.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    with (root / "e2e.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = root / "e2e" / "recipe.yaml"
        if not path.exists():
            process = start("run", make_recipe(path.parent), "--out", path.parent / "reference")
            output, errors = process.communicate()
            assert process.returncode == 0, errors
            (path.parent / "output").write_text(output)
    return path


@pytest.fixture(scope="session")
def reference(recipe: Path) -> Path:
    """The run directory of the uninterrupted run. Read only."""
    return recipe.parent / "reference"


@pytest.fixture
def evolign() -> Callable[..., subprocess.Popen[str]]:
    """`evolign("run", ...)` starts the command in a process of its own."""
    return start


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """`cli("run", ...)` is exit status, output and errors of the command, in this process."""
    from evolign.cli.app import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evolign", *map(str, arguments)])
        monkeypatch.setattr(signal, "signal", lambda *args: None)
        monkeypatch.setenv("COLUMNS", "200")
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        output, errors = capfd.readouterr()
        if isinstance(caught.value.code, str):  # the interpreter would print it and exit with 1
            return 1, output, errors + caught.value.code
        return caught.value.code or 0, output, errors

    return run


@pytest.fixture
def substance() -> Callable[[Path], dict[str, Any]]:
    """All that two equal runs have in common, bit for bit: everything but times, memory and versions."""

    def substance(run: Path) -> dict[str, Any]:
        import numpy as np

        def lasting(row: dict[str, Any]) -> dict[str, Any]:
            return {
                name: lasting(value) if isinstance(value, dict) else value
                for name, value in row.items()
                if not name.startswith(("seconds", "peak_memory"))
            }

        checkpoints = {}
        for path in sorted((run / "checkpoints").glob("*.npz")):
            with np.load(path) as file:
                arrays = {name: file[name] for name in file.files if name != "state_json"}
                state = json.loads(file["state_json"].tobytes())["state"]
            checkpoints[path.name] = (
                {name: array.tobytes() for name, array in arrays.items()},
                lasting(state),
            )
        metrics = (run / "metrics.jsonl").read_text().splitlines()
        return {
            "metrics": [lasting(json.loads(line)) for line in metrics],
            "samples": (run / "samples.jsonl").read_text(),
            "adapter": (run / "adapter" / "adapter_model.safetensors").read_bytes(),
            "adapter_config": (run / "adapter" / "adapter_config.json").read_text(),
            "warm_start": (run / "warm_start" / "adapter_model.safetensors").read_bytes(),
            "result": lasting(json.loads((run / "result.json").read_text())),
            "checkpoints": checkpoints,
        }

    return substance
