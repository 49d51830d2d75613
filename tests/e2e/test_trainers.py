"""Every method that trains by gradients, from a recipe to a result that others load."""

import json
from pathlib import Path
from typing import Any

import pytest
from training_runs import ON_POLICY, write_recipe, write_task
from watching import Watched

from evolign.commands.run import METHODS, run
from evolign.config import CONFIGS
from evolign.config.recipe import load, parse
from evolign.runs.directory import read_rows
from evolign.runs.progress import Silent

RECIPES = Path(__file__).parents[2] / "recipes" / "embedded"
RUN_DIRECTORY = Path(__file__).parents[2] / "docs" / "run_directory.md"
GRADIENT_METHODS = sorted(set(METHODS) - {"evolution"})
CONTRACT = {
    "method", "task", "model", "seed", "metric", "split", "num_examples", "baseline", "final", "validation",
    "stopped", "completions", "validation_completions", "generated_tokens", "reward_timeouts",
    "reward_crashes", "seconds", "peak_memory_bytes",
}  # fmt: skip
"""What result.json says of every method."""
SHORT = {
    "adapter.warm_start.max_steps": 1,
    "task.num_train": 8,
    "task.num_validation": 4,
    "task.num_test": 4,
    "task.num_warmup": 8,
    "sampling.max_new_tokens": 8,
    "training.max_steps": 2,
    "training.batch_size": 2,
    "evaluation.every": 1,
    "evaluation.num_samples_kept": 4,
}
"""What makes a recipe of the embedded model take two seconds."""


def shortened(method: str) -> list[str]:
    settings = dict(SHORT)
    if method == "reward_model":
        settings.pop("adapter.warm_start.max_steps")
    return [f"{name}={value}" for name, value in settings.items()]


def greedy(model: Any, tokenizer: Any, prompt: str, max_new_tokens: int) -> str:
    """The completion that transformers' own generate gives."""
    inputs = tokenizer(prompt, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def loaded(path: Path) -> tuple[Any, Any]:
    """The result of a run as PEFT or transformers load it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if (path / "model").is_dir():
        name = str(path / "model")
        return AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    name = json.loads((path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(name), str(path / "adapter"))
    return model, AutoTokenizer.from_pretrained(name)


def final_samples(path: Path) -> list[dict[str, Any]]:
    rows = [row for row in read_rows(path / "samples.jsonl") if row.get("stage") == "final"]
    return [row for row in rows if row["decoding"] in ("greedy", "pair")]


def check_result(path: Path, method: str) -> None:
    """What a finished run leaves, whatever its method."""
    result = json.loads((path / "result.json").read_text())
    assert result.keys() >= CONTRACT and result["method"] == method
    assert result["baseline"].keys() == result["final"].keys()
    assert result["split"] == "test" and result["num_examples"] == 4
    sampled = method not in ("sft", "dpo", "reward_model")
    assert (result["completions"] > 0) == (result["generated_tokens"] > 0) == sampled
    assert (result["validation_completions"] > 0) == (method != "reward_model")
    page = RUN_DIRECTORY.read_text()
    assert [name for name in result if f"`{name}`" not in page] == []


def check_rows(path: Path, steps: int, method: str) -> None:
    """metrics.jsonl: the starting point, then one row per step."""
    rows = read_rows(path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(steps + 1))
    shared = {"step", "completions", "generated_tokens", "seconds", "peak_memory_bytes"}
    for row in rows:
        assert shared <= row.keys()
        evaluated = [name for name in row if name.startswith("eval/")]
        assert any(f"{name}_low" in row for name in evaluated)
    assert all({"loss", "grad_norm", "learning_rate", "epoch"} <= row.keys() for row in rows[1:])
    for name in ("completions", "generated_tokens", "seconds"):
        totals = [row[name] for row in rows]
        assert totals == sorted(totals)
    each = {"reward_mean", "reward/arithmetic_answer", "reward/arithmetic_answer_std"}
    told = {
        "ppo": {*each, "loss_policy", "loss_value", "kl", "clipped"},
        "grpo": each,
        **{name: {*each, "loss_sft", "loss_objective"} for name in ON_POLICY},
    }
    assert told.get(method, set()) <= rows[1].keys()
    page = RUN_DIRECTORY.read_text()
    named = {name for row in rows for name in row if not name.startswith("eval/")}
    named = {name.replace("arithmetic_answer", "<name>") for name in named}
    assert [name for name in sorted(named) if f"`{name}`" not in page] == []


def test_every_method_has_a_recipe_for_the_embedded_model() -> None:
    for method in METHODS:
        name = "essa-likelihood" if method == "evolution" else method
        assert load(RECIPES / f"{name}.yaml").method == method
    assert set(METHODS) == set(CONFIGS)


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_a_recipe_runs_and_its_result_says_elsewhere_what_it_said_in_the_final_test(
    method: str, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    progress = Watched()
    config = load(RECIPES / f"{method}.yaml", shortened(method))
    result = run(config, path, progress=progress)
    assert {file.name for file in path.iterdir() if file.name[0] != "."} - {"warm_start"} == {
        "config.json", "provenance.json", "metrics.jsonl", "samples.jsonl", "checkpoints", "result.json",
        "model" if method == "reward_model" else "adapter",
    }  # fmt: skip
    check_result(path, method)
    check_rows(path, 2, method)
    assert result.weights.is_dir() and f"with {method}" in progress.said[0]
    phases = {phase.name for phase in progress.phases}
    assert {"training", "baseline test", "validation", "final test"} <= phases
    assert method == "reward_model" or {"writing", "scoring"} <= phases
    card = (result.weights / "README.md").read_text()
    assert f"{method} on arithmetic" in card and "before" in card
    if method == "reward_model":
        assert "AutoModelForSequenceClassification" in card
        return
    model, tokenizer = loaded(path)
    samples = final_samples(path)
    assert len(samples) == 4
    for row in samples:
        assert greedy(model, tokenizer, row["prompt"], 8) == row["completion"]


def test_a_reward_model_scores_elsewhere_what_it_scored_in_the_final_test(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path = tmp_path / "run"
    run(load(write_recipe(tmp_path / "recipe.json", "reward_model")), path, progress=Silent())
    model = AutoModelForSequenceClassification.from_pretrained(path / "model")
    tokenizer = AutoTokenizer.from_pretrained(path / "model")
    assert model.config.num_labels == 1 and "lora" not in str(type(model.model.layers[0].self_attn.q_proj))
    samples = final_samples(path)
    assert len(samples) == 4
    for row in samples:
        score = [
            model(torch.tensor([[*tokenizer(row["prompt"] + text)["input_ids"], tokenizer.eos_token_id]]))
            .logits[0, 0]
            .item()
            for text in (row["completion"], row["rejected"])
        ]
        assert score[0] - score[1] == pytest.approx(row["score"], abs=1e-5)
    result = json.loads((path / "result.json").read_text())
    assert result["final"]["accuracy"] == sum(row["score"] > 0 for row in samples) / 4
    assert result["final"]["accuracy_low"] < result["final"]["accuracy_high"]


def test_all_weights_are_exported_as_a_model_that_can_be_evaluated(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from evolign.commands.evaluate import evaluate

    path = tmp_path / "run"
    run(load(write_recipe(tmp_path / "recipe.json", "sft", adapter=None)), path, progress=Silent())
    assert not (path / "adapter").exists() and not (path / "warm_start").exists()
    before, after = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "model", path / "model")
    )
    assert before.keys() == after.keys()
    assert all(bool((before[name] != after[name]).any()) for name in before)
    settings = [json.loads((f / "config.json").read_text()) for f in (tmp_path / "model", path / "model")]
    assert settings[0] == settings[1]
    model, tokenizer = loaded(path)
    for row in final_samples(path):
        assert greedy(model, tokenizer, row["prompt"], 6) == row["completion"]
    result = json.loads((path / "result.json").read_text())
    assert result["trainable_parameters"] == sum(tensor.numel() for tensor in after.values())
    found = evaluate(str(path)).metrics
    assert {name: found[name] for name in result["final"]} == result["final"]


def test_a_trained_reward_model_is_the_reward_of_evolution(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.json", "reward_model")
    run(load(recipe), tmp_path / "judge", progress=Silent())
    sections = {
        "model": {"name": str(tmp_path / "model")},
        "task": write_task(tmp_path) | {"reward": f"classifier:{tmp_path / 'judge'}"},
        "adapter": {"rank": 2, "warm_start": None},
        "sampling": {"max_new_tokens": 4},
        "strategy": {"population": 4, "sigma": 0.1},
        "evolution": {"generations": 1, "prompts_per_generation": 2},
        "evaluation": {"decoding": ["greedy"]},
    }
    result = run(parse(sections), tmp_path / "run", progress=Silent())
    [pair, *_] = [row for row in read_rows(tmp_path / "run" / "samples.jsonl") if row.get("stage") == "final"]
    from evolign.rewards.classifier import Classifier

    score = Classifier(str(tmp_path / "judge" / "model"))([pair["prompt"]], [pair["completion"]])
    assert score == [pytest.approx(pair["score"], abs=1e-5)]
    assert result.summary["metric"] == "reward"
