"""Training runs that take a second: recipes of every gradient method for tiny models, and how to run them."""

import json
import multiprocessing
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tiny_models import save_tiny

LETTERS = ("abcdefghijkl", "mnopqrstuvwx", "0123456789+-")
REWARD = '''
"""The share of a completion's characters that its row wants."""


def share(prompts, completions, wanted, **columns):
    pairs = zip(completions, wanted)
    return [sum(letter in row for letter in text) / max(1, len(text)) for text, row in pairs]
'''
ON_POLICY = ("eso", "unlikelihood", "self_critical", "rrhf")


def share(prompts: Any, completions: Any, wanted: Any, **columns: Any) -> list[float]:
    """The reward of REWARD, for tasks in memory."""
    return [
        sum(letter in row for letter in text) / max(1, len(text))
        for text, row in zip(completions, wanted, strict=True)
    ]


def examples(split: str, count: int, *, solved: bool = True) -> list[Any]:
    """Prompts of several lengths; the better completion has the letters that the row wants."""
    from evolign.types import Example

    return [
        Example(
            f"{split}-{i}",
            f"{split} {i}: {10 ** (i % 4)} + {i} =",
            LETTERS[i % 3][:7] if solved else None,
            LETTERS[(i + 1) % 3][:5] if solved else None,
            {"wanted": LETTERS[i % 3]},
        )
        for i in range(count)
    ]


def task(**changes: Any) -> Any:
    """A task in memory."""
    rows: dict[str, Any] = {
        "train": examples("train", 12),
        "validation": examples("validation", 4),
        "test": examples("test", 4),
        "warmup": [],
        "metric": "reward",
        "reward": share,
    }
    return SimpleNamespace(**{**rows, **changes})


def tree(method: str, **sections: Any) -> dict[str, Any]:
    """A recipe of a few steps; each section is merged over it."""
    found: dict[str, Any] = {
        "method": method,
        "seed": 3,
        "adapter": {"rank": 2},
        "sampling": {"max_new_tokens": 6},
        "training": {"max_steps": 4, "batch_size": 4, "learning_rate": 1e-2},
        "evaluation": {"every": 2, "decoding": ["greedy"], "num_samples_kept": 4},
    }
    if method in ON_POLICY:
        found["objective"] = {"from_epoch": 1, "weight": 0.5, "temperatures": [0.7, 1.5]}
    if method == "grpo":
        found["sampling"]["samples_per_prompt"] = 3
    if method == "ppo":
        found["objective"] = {"epochs": 2}
    for name, section in sections.items():
        both = isinstance(section, dict) and isinstance(found.get(name), dict)
        found[name] = {**found[name], **section} if both else section
    return found


def write_task(folder: Path) -> dict[str, Any]:
    """The section `task` for the same rows and reward in files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "reward.py").write_text(REWARD)
    for split, count in (("train", 12), ("validation", 4), ("test", 4)):
        rows = [
            {"prompt": e.prompt, "good": e.completion, "bad": e.rejected, **e.columns}
            for e in examples(split, count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "name": "rows",
        **{split: str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")},
        "completion": "good",
        "rejected": "bad",
        "reward": f"{folder / 'reward.py'}:share",
    }


def write_recipe(path: Path, method: str, **sections: Any) -> Path:
    """A recipe in a file (JSON is YAML); model and rows lie beside it."""
    root = path.parent
    dropout: dict[str, Any] = {"attention_dropout": 0.2} if sections.pop("dropout", False) else {}
    model = root / ("model-dropout" if dropout else "model")
    if not model.is_dir():
        save_tiny("qwen2", model, **dropout)
    sections = {"model": {"name": str(model)}, "task": write_task(root), **sections}
    path.write_text(json.dumps(tree(method, **sections)))
    return path


@cache
def processes() -> Any:
    """Processes that start in no time, since their server has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    trainers = [f"evolign.trainers.{name}" for name in ("eso", "ppo", "reward_model")]
    context.set_forkserver_preload(["evolign.commands.run", *trainers])
    return context


def run_file(recipe: Path, out: Path) -> None:
    """Run a recipe to its end: for a process of its own."""
    from evolign.commands.run import run
    from evolign.config.recipe import load
    from evolign.runs.progress import Silent

    run(load(recipe), out, progress=Silent())
