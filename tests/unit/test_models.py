"""Models that are not what they seem: refused with names and a way out, when loaded and by check."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from configs import evolution
from safetensors.torch import load_file, save_file
from tiny_models import CONFIGS, HYBRIDS, save_of_type, save_tiny
from transformers import AutoConfig, AutoModelForCausalLM

import evolign
from evolign.commands.check import check
from evolign.config import AdapterConfig, ModelConfig
from evolign.engines.transformers.self_test import TESTED, self_test
from evolign.errors import ConfigError
from evolign.policy.base_model import BaseModel, load_base_model
from evolign.policy.policy import load_policy
from evolign.policy.targets import left_out, target_modules
from evolign.policy.warm_start import warm_start
from evolign.types import Example

ROWS = [Example(str(i), f"{i}+{i}=", completion=str(2 * i)) for i in range(8)]
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
DEEPSEEK = {
    **EXPERTS, "num_hidden_layers": 2, "first_k_dense_replace": 1, "n_routed_experts": 8, "n_group": 2,
    "topk_group": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "num_key_value_heads": 4,
}  # fmt: skip
QWEN_MOE = {**EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 16}
LLAMA_4 = {"num_local_experts": 4, "intermediate_size_mlp": 64, "head_dim": 8}
RECURRENT = {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 16}


SMALL = {
    "task": {"num_train": 8, "num_validation": 8, "num_test": 8, "num_warmup": 8},
    "evolution": {"prompts_per_generation": 4},
    "sampling": {"max_new_tokens": 8},
    "adapter": {"rank": 4},
}


def of_type(model_type: str, folder: Path, **options: Any) -> BaseModel:
    return load_base_model(ModelConfig(name=str(save_of_type(model_type, folder, **options)), device="cpu"))


def told_by_check(folder: Path, *overrides: str) -> tuple[str, str]:
    """Status and detail of what check finds of the model."""
    config = evolution(SMALL | {"model": {"name": str(folder), "device": "cpu"}}, overrides)
    found = next(finding for finding in check(config) if finding.what == "model")
    return found.status, found.detail


# Weights


def cut_a_layer(folder: Path) -> None:
    _edit_config(folder, num_hidden_layers=1)


def ask_for_a_layer(folder: Path) -> None:
    _edit_config(folder, num_hidden_layers=3)


def ask_for_other_sizes(folder: Path) -> None:
    _edit_config(folder, intermediate_size=48)


def lose_a_tensor(folder: Path) -> None:
    _edit_weights(folder, lambda tensors: tensors.pop("model.norm.weight"))


def add_a_tensor(folder: Path) -> None:
    _edit_weights(folder, lambda tensors: tensors.update({"v_head.weight": torch.zeros(1, 32)}))


def spoil(value: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        _edit_weights(folder, lambda tensors: tensors["model.layers.1.mlp.up_proj.weight"][3].fill_(value))

    return spoil


def _edit_config(folder: Path, **changes: int) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


DAMAGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "fewer layers": (
        cut_a_layer,
        r"weights in its files that it would not use: model\.layers\.1\..* and 6 more",
    ),
    "more layers": (ask_for_a_layer, r"no weights in its files for model\.layers\.2\..* and 6 more"),
    "other sizes": (
        ask_for_other_sizes,
        r"of another size in its files: model\..*proj\.weight of 32x64 for 32x48",
    ),
    "a tensor less": (lose_a_tensor, r"no weights in its files for model\.norm\.weight;"),
    "a tensor more": (add_a_tensor, r"would not use: v_head\.weight;"),
    "NaN": (spoil(float("nan")), r"NaN or infinite: model\.layers\.1\.mlp\.up_proj\.weight;"),
    "infinite": (spoil(float("inf")), r"NaN or infinite: model\.layers\.1\.mlp\.up_proj\.weight;"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_weights_that_are_missing_left_over_or_no_numbers_are_refused_by_name(
    damage: str, tmp_path: Path
) -> None:
    break_it, words = DAMAGED[damage]
    break_it(save_tiny("llama", tmp_path))
    with pytest.raises(ConfigError, match=rf"model\.name = '{tmp_path}' has .*{words}"):
        load_base_model(ModelConfig(name=str(tmp_path), device="cpu"))
    if damage in ("more layers", "NaN"):
        status, detail = told_by_check(tmp_path)
        assert status == "FAILED" and detail.startswith(f"model.name = {str(tmp_path)!r} has ")


def test_of_a_large_model_check_reads_the_names_alone(
    tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evolign.commands.check.READ_AT_ONCE", 1000)
    status, detail = told_by_check(tiny("llama"))
    assert status == "ok" and "its weights are complete; adapter on k_proj, o_proj, q_proj, v_proj" in detail
    ask_for_a_layer(save_tiny("llama", tmp_path))
    assert told_by_check(tmp_path)[0] == "FAILED"


def test_a_live_model_with_nan_is_refused(tiny: Callable[[str], Path]) -> None:
    base = load_base_model(ModelConfig(name=str(tiny("llama")), device="cpu"))
    base.model.get_submodule("model.norm").weight.data[0] = torch.nan
    with pytest.raises(ConfigError, match=r"NaN or infinite: model\.norm\.weight"):
        BaseModel(base.model, base.tokenizer, "live")


# A warm start that diverges


def test_a_warm_start_that_diverges_is_refused_and_not_kept(
    base: Callable[[str], BaseModel], tmp_path: Path
) -> None:
    training = {"max_steps": 3, "batch_size": 2, "learning_rate": 1e6}
    config = evolution({"adapter": {"rank": 4, "warm_start": training}})
    words = r"adapter\.warm_start (has diverged|holds NaN).*; lower adapter\.warm_start\.learning_rate"
    with pytest.raises(ConfigError, match=words):
        load_policy(config, base("llama"), ROWS, tmp_path / "start")
    assert not (tmp_path / "start").exists()


# Architectures


def test_the_tested_list_is_what_the_references_test() -> None:
    tested = {CONFIGS[name]().model_type for name in CONFIGS} | set(HYBRIDS)
    assert tested == TESTED


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bert": ({}, "depends on the tokens that follow, as in an encoder"),
    "roberta": ({"max_position_embeddings": 130}, "depends on the tokens that follow, as in an encoder"),
    "bart": ({"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4}, "other tokens than alone"),
    "recurrent_gemma": (RECURRENT, r"keeps a state outside its cache, model\.layers\.0\."),
    "minimax": ({"num_local_experts": 4, "head_dim": 8}, "MiniMax uses cache of its own"),
    "mamba": ({"state_size": 4}, "MambaForCausalLM does not continue from `past_key_values`"),
    "rwkv": ({"attention_hidden_size": 32}, "RwkvForCausalLM does not continue from `past_key_values`"),
}


@pytest.mark.parametrize("model_type", REFUSED)
def test_an_architecture_that_the_engine_gets_wrong_is_refused(model_type: str, tmp_path: Path) -> None:
    options, words = REFUSED[model_type]
    base = of_type(model_type, tmp_path, **options)
    with pytest.raises(ConfigError, match=words):
        self_test(base)
    if model_type in ("bert", "mamba"):
        status, detail = told_by_check(tmp_path, "adapter.target_modules=all-linear")
        assert status == "FAILED" and re.search(words, detail)
        config = evolution(SMALL | {"model": {"name": str(tmp_path)}}, ["adapter.target_modules=all-linear"])
        with pytest.raises(ConfigError, match=words):
            evolign.run(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()
        with pytest.raises(ConfigError, match=words):
            evolign.evaluate(str(tmp_path))


def test_an_architecture_that_it_gets_right_is_trusted_and_left_as_it_was(tmp_path: Path) -> None:
    base = of_type("qwen3", tmp_path, head_dim=8)
    before = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    ends, state = base.eos_token_ids, torch.random.get_rng_state()
    assert self_test(base, AdapterConfig(rank=4))
    assert base.eos_token_ids == ends and torch.equal(torch.random.get_rng_state(), state)
    after = base.model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    status, detail = told_by_check(tmp_path)
    assert (
        status == "ok" and "The self-test of the architecture qwen3, which our tests do not cover" in detail
    )


def test_code_from_elsewhere_is_not_trusted_by_its_name(tiny: Callable[[str], Path]) -> None:
    base = load_base_model(ModelConfig(name=str(tiny("llama")), device="cpu"))
    assert not self_test(base)

    class Mine(type(base.model)):  # type: ignore[misc]
        pass

    base.model.__class__ = Mine
    assert self_test(base)


# all-linear


LEFT_OUT: dict[str, tuple[dict[str, Any], str]] = {
    "deepseek_v3": (DEEPSEEK, "down_proj, gate_proj, up_proj"),
    "qwen2_moe": (QWEN_MOE, "shared_expert_gate"),
    "llama4_text": (LLAMA_4, "router"),
    "falcon_h1": (HYBRIDS["falcon_h1"], "out_proj"),
    "ctrl": ({"n_embd": 32, "dff": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}, ""),
    "modernbert-decoder": ({"global_attn_every_n_layers": 2, "local_attention": 16}, ""),
}


@pytest.mark.parametrize("model_type", LEFT_OUT)
def test_all_linear_leaves_out_what_peft_cannot_adapt_and_says_so(model_type: str, tmp_path: Path) -> None:
    options, words = LEFT_OUT[model_type]
    base = of_type(model_type, tmp_path / "model", **options)
    config = AdapterConfig(rank=4, target_modules="all-linear", warm_start=None)
    assert words in left_out(base.model, config) and bool(words) == bool(left_out(base.model, config))
    self_test(base, config)
    warm_start(base, config, [], 0, tmp_path / "adapter")
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert names and not any(f".{name}." in key for name in words.split(", ") for key in names if name)
    if model_type == "deepseek_v3":
        status, detail = told_by_check(tmp_path / "model", "adapter.target_modules=all-linear")
        assert status == "ok" and f"left out: {words} (PEFT does not adapt it as a linear layer)" in detail


def test_a_list_that_peft_would_misread_is_refused() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("deepseek_v3", **DEEPSEEK))
    with pytest.raises(
        ConfigError, match=r"does not adapt 'gate_proj' of a deepseek_v3 model .* leave it out"
    ):
        target_modules(model, ["q_b_proj", "gate_proj"])
