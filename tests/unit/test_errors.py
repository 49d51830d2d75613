"""Bad input through the public call `evolign.run`: what is told, and that nothing is lost by it.

What a recipe's syntax can get wrong is in test_config.py, what rows can in test_rows.py.
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evolign
from evolign.commands.run import Result
from evolign.config.recipe import parse
from evolign.errors import ConfigError, EvolignError, RewardError, RunError
from evolign.runs.progress import Silent

SIGNATURE = "def reward(prompts, completions, **columns):\n"
FAIR = "return [len(text) / 4 for text in completions]"
ROWS = [{"question": f"what is {i} + 1 ?", "answer": str(i + 1)} for i in range(12)]

Run = Callable[..., Result]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def start(tiny: Callable[[str], Path], tmp_path: Path) -> Run:
    """`start(task={...}, ...)` runs one generation in the folder `run`; sections change a good recipe."""
    (tmp_path / "reward.py").write_text(f"{SIGNATURE}    {FAIR}\n")

    def start(**sections: dict[str, Any]) -> Result:
        tree: dict[str, Any] = {
            "model": {"name": str(tiny("qwen2"))},
            "adapter": {"rank": 2, "warm_start": None},
            "task": {
                "name": "rows",
                "train": write_rows(tmp_path / "rows.jsonl", ROWS),
                "prompt": "question",
                "num_validation": 3,
                "reward": f"{tmp_path / 'reward.py'}:reward",
            },
            "sampling": {"max_new_tokens": 4},
            "strategy": {"name": "snes", "population": 2, "sigma": 0.5},
            "evolution": {"generations": 1, "prompts_per_generation": 9},
            "evaluation": {"decoding": ["greedy"]},
        }
        for name, section in sections.items():
            tree[name] = {**tree.get(name, {}), **section}
        return evolign.run(parse(tree), tmp_path / "run", progress=Silent())

    return start


def without_weights(model: Path, folder: Path) -> None:
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))


def without_end(model: Path, folder: Path) -> None:
    shutil.copytree(model, folder)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        settings = json.loads((folder / name).read_text())
        settings |= {key: None for key in settings if key.startswith("eos_token")}
        (folder / name).write_text(json.dumps(settings))


def with_torn_weights(model: Path, folder: Path) -> None:
    shutil.copytree(model, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda model, folder: None,
            r"model.name = '.*/model' is not a folder; give a model folder, a hub name",
        ),
        (lambda model, folder: folder.mkdir(), "could not be loaded: .*; the folder needs config.json, "),
        (
            without_weights,
            r"could not be loaded: .*; the folder needs config.json, \*.safetensors and tokenizer",
        ),
        (with_torn_weights, "could not be loaded: "),
        (without_end, "has no end-of-sequence token, so no completion would ever end; set `eos_token`"),
    ],
    ids=["no folder", "an empty folder", "no safetensors", "half the weights", "no end-of-sequence token"],
)
def test_a_model_that_cannot_be_used_is_told_and_nothing_is_written(
    start: Run, tiny: Callable[[str], Path], tmp_path: Path, damage: Callable[[Path, Path], None], words: str
) -> None:
    damage(tiny("qwen2"), tmp_path / "model")
    with pytest.raises(ConfigError, match=words):
        start(model={"name": str(tmp_path / "model")})
    assert not (tmp_path / "run").exists()


LONG = [*ROWS, {"question": "a" * 126, "answer": ""}]
REPEATED = [{"question": "the same ?"}] * 5


@pytest.mark.parametrize(
    ("rows", "sections", "words"),
    [
        (None, {}, r"task.train = '.*none.jsonl' does not exist \(looked in"),
        ([], {}, r"task.train = '.*given.jsonl' holds no rows; give at least one"),
        (ROWS, {"task": {"prompt": "questoin"}}, "needs the column 'questoin', .*Did you mean 'question'"),
        (ROWS, {"task": {"completion": "solution"}}, "task.completion needs the column 'solution'"),
        (
            LONG,
            {},
            "has 126 tokens and sampling.max_new_tokens = 4, together more than .* context of 128; shorten",
        ),
        (REPEATED, {}, "1 distinct rows, but .* leave none to train on"),
        (
            ROWS,
            {"evolution": {"prompts_per_generation": 10}},
            "10 exceeds the 9 training prompts; use 9 or fewer",
        ),
        (
            ROWS,
            {"adapter": {"rank": 17}},
            "adapter.rank = 17 is larger than the layer '.*', whose .* is 16; use",
        ),
        (ROWS, {"space": {"alpha": 0.4}}, "alpha = 0.4 leaves none of adapter.rank = 2 .*; use at least 0.5"),
        (
            ROWS,
            {"strategy": {"population": 1}},
            "strategy.population = 1: input should be greater than or equal",
        ),
        (ROWS, {"adapter": {"target_modules": ["qq"]}}, "adapter.target_modules: 'qq'; known: down_proj"),
        (
            ROWS,
            {"adapter": {"warm_start": {}}},
            "adapter.warm_start needs solved rows, but .*warm_start=null",
        ),
        (ROWS, {"adapter": {"path": "./none"}}, "adapter.path = './none' holds no adapter_config.json"),
        (ROWS, {"model": {"device": "cuda:99"}}, "model.device = 'cuda:99' cannot be used"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_setting_or_data_that_cannot_work_is_told_and_nothing_is_written(
    start: Run, tmp_path: Path, rows: list[dict[str, Any]] | None, sections: dict[str, Any], words: str
) -> None:
    given = "none.jsonl" if rows is None else "given.jsonl"
    if rows is not None:
        write_rows(tmp_path / given, rows)
    sections = {**sections, "task": {"train": str(tmp_path / given), **sections.get("task", {})}}
    with pytest.raises(ConfigError, match=words):
        start(**sections)
    assert not (tmp_path / "run").exists(), "the same --out can be used again"


def test_an_adapter_of_another_model_is_told(start: Run, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    other = start(model={"name": str(tiny("gpt2"))}, adapter={"warm_start": None})
    shutil.move(other.path, tmp_path / "other")
    with pytest.raises(
        ConfigError, match=r"other/adapter' does not fit the base model \(it was made for '.*gpt2'"
    ):
        start(adapter={"path": str(tmp_path / "other" / "adapter")})
    assert not (tmp_path / "run").exists()


def test_an_adapter_with_what_cannot_be_searched_is_told(
    start: Run, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.move(start().path, tmp_path / "other")
    path = tmp_path / "other" / "adapter" / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "use_dora": True}))
    with pytest.raises(ConfigError, match=r"uses DoRA .*; train a plain LoRA adapter"):
        start(adapter={"path": str(path.parent)})
    path.write_text(json.dumps(settings)[:-10])
    with pytest.raises(ConfigError, match=r"adapter.path = .*: adapter_config.json is broken"):
        start(adapter={"path": str(path.parent)})


def test_an_output_directory_that_exists_is_refused_before_the_model_is_loaded(
    start: Run, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("mine")
    with pytest.raises(RunError, match=r"run' exists already; give another --out, or remove it"):
        start(model={"name": "./no/model"})
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "return 1 / 0",
            r"the reward '.*reward' raised ZeroDivisionError: division by zero. It is called as f\(",
        ),
        (
            "return [0.5]",
            r"returned 1 values for \d+ completions; a reward returns a list with one finite number",
        ),
        ("return [float('nan')] * len(prompts)", "returned nan .* for completion 0; a reward returns"),
        ("return [float('inf')] * len(prompts)", "returned inf .* for completion 0; a reward returns"),
        ("return ['good'] * len(prompts)", "returned 'good' .* for completion 0; a reward returns"),
        ("return 0.5", "returned 0.5 .*; a reward returns a list"),
        ("return [None] * len(prompts)", "returned None .* for all 3 prompts of an evaluation"),
        ("return [columns['gold']]", "raised KeyError: 'gold'.*the columns here: answer"),
    ],
)
def test_a_reward_that_breaks_its_contract_is_told_and_the_run_goes_on_once_it_is_mended(
    start: Run, tmp_path: Path, body: str, words: str
) -> None:
    path = tmp_path / "reward.py"
    fair = path.read_text()
    path.write_text(f"{SIGNATURE}    {body}\n")
    with pytest.raises(RewardError, match=f"(?s){words}"):
        start()
    path.write_text(fair)
    with pytest.raises(
        RunError, match=r"names code, .* that was not run here before in this form; .*--trust"
    ):
        evolign.resume(tmp_path / "run", progress=Silent())
    result = evolign.resume(tmp_path / "run", progress=Silent(), trust=True)
    assert result.summary["generations"] == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nothing_of_this_name", "raised ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("def other(prompts, **columns): ...", "unknown function of .*reward.py.*'reward'"),
        ("def reward(", "raised SyntaxError"),
        ("import os; os._exit(3)", "the process that loads the reward .* ended; its file or module must not"),
        ("reward = 3", "is a int; it must be callable"),
    ],
)
def test_a_reward_that_cannot_be_loaded_is_told_before_anything_is_spent(
    start: Run, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "reward.py").write_text(text)
    with pytest.raises(ConfigError, match=words):
        start()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("body", "counted"),
    [
        ("import time; time.sleep(1000)", "reward_timeouts"),
        ("import os; os._exit(1)", "reward_crashes"),
    ],
    ids=["hangs", "kills its process"],
)
def test_a_completion_on_which_the_reward_hangs_or_dies_is_counted_and_the_run_finishes(
    start: Run, tmp_path: Path, body: str, counted: str
) -> None:
    trouble = f"{SIGNATURE}    if any('7 +' in prompt for prompt in prompts):\n        {body}\n    {FAIR}\n"
    (tmp_path / "reward.py").write_text(trouble)
    result = start(scoring={"workers": 2, "timeout_seconds": 0.3, "failure_score": -1.0})
    rows = [json.loads(line) for line in (result.path / "metrics.jsonl").read_text().splitlines()]
    # All 9 training prompts are in the one generation; the split by seed 0 leaves '7 +' among them, so 1 to
    # 3 completions (two candidates and the mean, equal ones scored once) meet it.
    held_out = [
        json.loads(line)["prompt"] for line in (result.path / "samples.jsonl").read_text().splitlines()
    ]
    assert not any("7 +" in prompt for prompt in held_out)
    assert 1 <= result.summary[counted] == rows[-1][counted] <= 3
    assert result.summary["reward_timeouts"] + result.summary["reward_crashes"] == result.summary[counted]
    assert result.adapter.is_dir()


def test_what_a_reward_prints_is_not_taken_for_its_answer(
    start: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    quiet = start().summary
    shutil.move(tmp_path / "run", tmp_path / "quiet")
    loud = f"{SIGNATURE}    print('[1.0]' * 1000, flush=True)\n    {FAIR}\n"
    (tmp_path / "reward.py").write_text(loud)
    capfd.readouterr()
    assert start().summary["final"] == quiet["final"]
    assert "[1.0]" not in capfd.readouterr().out


def random_states() -> tuple[object, ...]:
    """Python's, numpy's and torch's global states."""
    return random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()


def test_a_live_model_and_live_rows_are_checked_too(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny("qwen2"))
    tokenizer = AutoTokenizer.from_pretrained(tiny("qwen2"))

    def evolve(**changes: Any) -> Result:
        settings: dict[str, Any] = {
            "model": model,
            "tokenizer": tokenizer,
            "train": ROWS,
            "reward": lambda completions, **columns: [len(text) / 4 for text in completions],
            "out": tmp_path / "run",
            "task": {"prompt": "question", "num_validation": 3},
            "adapter": {"rank": 2, "warm_start": None},
            "sampling": {"max_new_tokens": 4},
            "strategy": {"name": "snes", "population": 2, "sigma": 0.5},
            "evolution": {"generations": 1, "prompts_per_generation": 4},
            "evaluation": {"decoding": ["greedy"]},
            "progress": Silent(),
        }
        return evolign.evolve(**{**settings, **changes})

    for changes, words in (
        ({"tokenizer": None}, "needs the tokenizer of a live model; pass tokenizer="),
        ({"task": {"prompt": "q", "num_validation": 3}}, "needs the column 'q'"),
        ({"train": []}, "holds no rows"),
        ({"task": {"prompt": "question", "test": "t.jsonl"}}, r"must not hold \['test'\]"),
        ({"model_settings": {"name": "m"}}, r"evolve\(model_settings=...\) must not hold \['name'\]"),
        ({"model_settings": {"nam": "m"}}, "model.nam: unknown key"),
        ({"strategy": {"nam": "snes"}}, "strategy.nam: unknown key"),
        ({"reward": open}, "reward"),
    ):
        with pytest.raises(EvolignError, match=words):
            evolve(**changes)
    shutil.rmtree(tmp_path / "run", ignore_errors=True)  # `open` is a reward that raises, not a wrong setting
    model.train()
    tokenizer.pad_token = None
    before = random_states()
    learning = {
        "task": {"prompt": "question", "completion": "answer", "num_validation": 3, "num_warmup": 2},
        "adapter": {"rank": 2, "warm_start": {"max_steps": 1}},
    }
    result = evolve(**learning)
    assert random_states() == before
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert tokenizer.pad_token is None, "the model and its tokenizer are given back as they were"
    with pytest.raises(RunError, match="holds a finished run, and whether it used this reward"):
        evolve(**learning)
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["task"]
    assert (recorded["train"], recorded["reward"]) == ("(live rows)", "(live function <lambda>)")
    with pytest.raises(RunError, match="holds a run of other settings; give another `out`"):
        evolve(seed=1)
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result.summary
    assert evolve(model=tiny("qwen2"), tokenizer=None, out=tmp_path / "by path").summary["seed"] == 0
