"""What is exported is what was evaluated: merged weights, cards, the way to a base model that has moved."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from configs import evolution
from tiny_models import randomised, save_tiny
from transformers import AutoModelForCausalLM

import evolign
from evolign.commands.check import Finding, check
from evolign.config import Config, ModelConfig, TransformersConfig
from evolign.config.recipe import dump, parse
from evolign.engines import build_engine
from evolign.errors import ConfigError, RunError
from evolign.policy.adapter import read_adapter
from evolign.policy.base_model import load_base_model
from evolign.policy.export import write_adapter
from evolign.policy.fingerprint import model_fingerprint
from evolign.policy.policy import fixed_policy, load_policy
from evolign.types import Example, Population, Sampling

ROWS = [Example(str(i), f"{i}+{i}=", completion=str(2 * i)) for i in range(4)]
SUMMARY: dict[str, Any] = {
    "method": "evolution", "task": "rows", "num_examples": 4, "completions": 8, "seconds": 1.0,
    "exported_generation": 1, "generations": 2,
    "baseline": {"reward_greedy": 0.1, "reward_greedy_low": 0.0, "reward_greedy_high": 0.2},
    "final": {"reward_greedy": 0.3, "reward_greedy_low": 0.2, "reward_greedy_high": 0.4},
}  # fmt: skip


SMALL_TASK: dict[str, Any] = {
    "task": {"num_train": 8, "num_validation": 8, "num_test": 8, "num_warmup": 4},
    "sampling": {"max_new_tokens": 8},
}


def finished_run(root: Path, model: Path, targets: list[str]) -> Path:
    """A run whose result is a random adapter on `targets`, as evolution leaves it."""
    settings = {"rank": 4, "target_modules": targets, "warm_start": None}
    config = evolution({"model": {"name": str(model), "device": "cpu"}, "adapter": settings})
    base = load_base_model(config.model)
    root.mkdir()
    policy = load_policy(config, base, [], root / "warm_start")
    write_adapter(randomised(policy.adapter), root / "adapter", SUMMARY)
    (root / "config.json").write_text(dump(config))
    (root / "provenance.json").write_text(
        json.dumps({"fingerprints": {"model": model_fingerprint(base.model)}})
    )
    (root / "result.json").write_text(json.dumps(SUMMARY))
    return root


def greedy(model: Path, adapter: Path | None = None) -> list[tuple[int, ...]]:
    base = load_base_model(ModelConfig(name=str(model), device="cpu"))
    with build_engine(TransformersConfig(), fixed_policy(base, adapter), ROWS) as engine:
        prompts = [[row.id for row in ROWS]]
        return list(engine.generate(Population.of_mean(), prompts, Sampling(8, 0.0)).token_ids_NPS.flat)


def told_of_model(config: Config) -> Finding:
    return next(finding for finding in check(config) if finding.what == "model")


# Merging


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_an_adapter_on_a_tied_output_layer_is_merged_into_weights_of_its_own(
    architecture: str, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    run = finished_run(tmp_path / "run", tiny(architecture), ["lm_head"])
    difference = evolign.export(run, tmp_path / "merged", merge=True)
    assert difference is not None and difference < 1e-6
    said = greedy(tiny(architecture), run / "adapter")
    assert greedy(tmp_path / "merged") == said != greedy(tiny(architecture))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.get_output_embeddings().weight is not merged.get_input_embeddings().weight


def test_a_merged_model_that_says_something_else_is_not_written(
    tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run(tmp_path / "run", tiny("qwen2"), ["lm_head"])
    monkeypatch.setattr("evolign.policy.merging._untie", lambda *_: None)
    with pytest.raises(RunError, match=r"logits differ by \S+ standard deviations; nothing is kept"):
        evolign.export(run, tmp_path / "merged", merge=True)
    assert not list(tmp_path.glob("merged*"))


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_an_output_layer_is_not_trained_by_gradients_and_check_says_so(
    architecture: str, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    training = {"max_steps": 1, "batch_size": 2}
    settings = {"rank": 4, "target_modules": ["q_proj", "lm_head"], "warm_start": training}
    config = evolution({"model": {"name": str(tiny(architecture)), "device": "cpu"}, "adapter": settings})
    words = r"output layer 'lm_head' can be evolved, not trained .* adapter\.warm_start=null"
    with pytest.raises(ConfigError, match=words):
        load_policy(config, load_base_model(config.model), ROWS, tmp_path / "start")
    assert not (tmp_path / "start").exists()
    for method in ("evolution", "sft"):
        tree: dict[str, Any] = SMALL_TASK | {"method": method, "model": {"name": str(tiny(architecture))}}
        found = told_of_model(parse(tree | {"adapter": settings}))
        assert found.status == "FAILED" and re.search(words, found.detail)


# Where the base model lies


def test_a_base_model_that_has_moved_is_named_by_an_override_and_known_again(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(tiny("llama"), tmp_path / "before")
    run = finished_run(tmp_path / "run", tmp_path / "before", ["q_proj", "v_proj"])
    said = greedy(tmp_path / "before", run / "adapter")
    (tmp_path / "before").rename(tmp_path / "after")
    again = evolution({"model": {"name": str(tiny("llama"))}, "adapter": {"path": str(run / "adapter")}})
    load_policy(again, load_base_model(again.model), [], tmp_path / "start")
    settings = json.loads((tmp_path / "start" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(tiny("llama"))
    with pytest.raises(ConfigError, match="before' is not a folder"):
        evolign.export(run, tmp_path / "out", merge=True)
    moved = [f"model.name={tmp_path / 'after'}"]
    evolign.export(run, tmp_path / "merged", merge=True, overrides=moved)
    assert greedy(tmp_path / "merged") == said
    evolign.export(run, tmp_path / "adapter", overrides=moved)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(tmp_path / "after")
    other = save_tiny("llama", tmp_path / "other", seed=5)
    with pytest.raises(RunError, match=r"other' has other weights than the model of the run"):
        evolign.export(run, tmp_path / "wrong", merge=True, overrides=[f"model.name={other}"])
    with pytest.raises(
        ConfigError, match=r"cannot export with 'adapter\.rank=2': what was evaluated is fixed"
    ):
        evolign.export(run, tmp_path / "wrong", overrides=["adapter.rank=2"])
    assert not (tmp_path / "wrong").exists()


def test_the_same_weights_are_known_in_another_dtype(tiny: Callable[[str], Path]) -> None:
    from evolign.policy.fingerprint import could_be

    model = load_base_model(ModelConfig(name=str(tiny("llama")), device="cpu")).model
    coarse = load_base_model(ModelConfig(name=str(tiny("llama")), device="cpu", dtype="bfloat16")).model
    assert could_be(model, model_fingerprint(coarse)) and could_be(model, model_fingerprint(model))
    model.get_input_embeddings().weight.data[0] += 1
    assert not could_be(model, model_fingerprint(coarse))


def test_folders_are_absolute_in_what_is_written_and_a_tilde_is_home(
    tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny("llama"), tmp_path / "models" / "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MODELS", str(tmp_path / "models"))
    for name in ("models/mine", "~/models/mine", "./models/../models/mine", "$MODELS/mine"):
        assert ModelConfig(name=name).name == str(tmp_path / "models" / "mine")
    for name in ("embedded:arithmetic", "owner/name", "./none"):
        assert ModelConfig(name=name).name == name
    run = finished_run(tmp_path / "run", Path("models/mine"), ["q_proj"])
    for path in (run / "config.json", run / "adapter" / "adapter_config.json"):
        assert str(tmp_path / "models" / "mine") in path.read_text()
    monkeypatch.chdir(tmp_path / "models")
    evolign.export("~/run", "~/out")
    assert (tmp_path / "out" / "adapter_config.json").is_file()


# What check says of an adapter, and what its card says


def test_check_reads_an_adapter_and_names_the_layers_of_a_regex(
    tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run(tmp_path / "run", tiny("llama"), ["q_proj", "v_proj"])
    settings = run / "adapter" / "adapter_config.json"
    told = json.loads(settings.read_text()) | {"target_modules": r".*\.self_attn\.(q|v)_proj"}
    settings.write_text(json.dumps(told))
    policy = {"model": {"name": str(tiny("llama"))}, "adapter": {"path": str(run / "adapter")}}
    config = evolution(SMALL_TASK | policy, ["evolution.prompts_per_generation=4"])
    assert "adapter on q_proj, v_proj; " in told_of_model(config).detail
    base = load_base_model(config.model)
    broken = read_adapter(base.model, run / "adapter")
    next(iter(broken.modules.values())).A[0, 0] = torch.nan
    broken.write(run / "adapter")
    for most in (2**32, 1000):  # on torch's meta device as well
        monkeypatch.setattr("evolign.commands.check.READ_AT_ONCE", most)
        found = told_of_model(config)
        assert found.status == "FAILED" and "holds NaN or infinite numbers" in found.detail


@pytest.mark.parametrize("name", ["My Model: v2 #1", "a [b] {c} & *d", "'quoted' \"twice\"", "модель"])
def test_a_card_is_valid_yaml_and_tells_no_path(
    name: str, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(tiny("llama"), tmp_path / name)
    run = finished_run(tmp_path / "run", tmp_path / name, ["q_proj"])
    card = (run / "adapter" / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["evolign", "evolution", "lora", "evolution-strategies"],
    }
    assert str(tmp_path) not in card and name not in card


def test_a_card_over_a_model_of_the_hub_names_it(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", tiny("llama"), ["q_proj"])
    adapter = read_adapter(load_base_model(ModelConfig(name=str(tiny("llama")))).model, run / "adapter")
    adapter.config["base_model_name_or_path"] = "owner/some-model"
    write_adapter(adapter, tmp_path / "out", SUMMARY)
    card = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["base_model"] == "owner/some-model"
    assert "from_pretrained('owner/some-model')" in card
