"""Quantised base models: what is stored, that candidates generate what PEFT generates, and the errors."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from configs import evolution
from engine_calls import generate
from peft import PeftModel

from evolign.commands.check import check
from evolign.config import Config, ModelConfig, TransformersConfig
from evolign.config.recipe import parse
from evolign.engines import build_engine
from evolign.engines.transformers.memory import weight_bytes
from evolign.errors import ConfigError
from evolign.policy.base_model import BaseModel, load_base_model
from evolign.policy.fingerprint import model_fingerprint
from evolign.policy.policy import load_policy
from evolign.policy.quantization import estimated_weight_bytes
from evolign.types import Example, Population, Sampling

MISSING = importlib.util.find_spec("torchao") is None
needs_torchao = pytest.mark.skipif(MISSING, reason="torchao is not installed: pip install 'evolign[quant]'")
Kind = Literal["int8", "int4"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
KINDS = pytest.mark.parametrize("kind", ["int8", "int4"])
ROWS = [Example(str(i), f"{i}+{i}=", completion=str(2 * i)) for i in range(8)]
SAMPLING = Sampling(max_new_tokens=12, temperature=0.0, noise_seed=0)


def quantised(folder: str | Path, kind: Kind | None, dtype: Dtype = "float32") -> BaseModel:
    return load_base_model(ModelConfig(name=str(folder), device="cpu", quantization=kind, dtype=dtype))


def greedy(model: torch.nn.Module, base: BaseModel, prompt: str) -> tuple[int, ...]:
    """By whole forward passes, without a cache: the plainest reference."""
    ids = base.encoder.encode(prompt)
    new: list[int] = []
    with torch.no_grad():
        while len(new) < SAMPLING.max_new_tokens and (not new or new[-1] not in base.eos_token_ids):
            new.append(int(model(torch.tensor([[*ids, *new]])).logits[0, -1].argmax()))
    return tuple(new)


@needs_torchao
@KINDS
def test_int8_takes_a_quarter_and_int4_an_eighth_and_check_foretells_it(kind: Kind) -> None:
    name = "embedded:arithmetic"
    plain, small = quantised(name, None).model, quantised(name, kind).model
    kept = plain.get_input_embeddings().weight.numel() * 4
    share = (weight_bytes(small) - kept) / (weight_bytes(plain) - kept)
    assert share == pytest.approx({"int8": 1 / 4, "int4": 1 / 8}[kind], rel=0.2)
    config = ModelConfig(name=name, quantization=kind)
    assert estimated_weight_bytes(plain, config) == pytest.approx(weight_bytes(small), rel=0.03)


@needs_torchao
@KINDS
def test_quantised_weights_are_near_the_original_ones(kind: Kind) -> None:
    """Against int4 read with wrong scales, as bitsandbytes does on a CPU where 64 does not divide a width."""
    plain, small = quantised("embedded:arithmetic", None), quantised("embedded:arithmetic", kind)
    ids = torch.tensor([plain.encoder.encode("12+34=")])
    with torch.no_grad():
        expected, found = plain.model(ids).logits, small.model(ids).logits
    error = float((found - expected).norm() / expected.norm())
    assert {"int8": 1e-4, "int4": 1e-2}[kind] < error < {"int8": 0.01, "int4": 0.1}[kind]


@needs_torchao
@KINDS
@pytest.mark.parametrize("targets", ["attention", "all-linear"])
def test_a_candidate_generates_what_its_adapter_does_in_peft_on_the_same_quantised_base(
    tiny: Callable[[str], Path], kind: Kind, targets: str, tmp_path: Path
) -> None:
    base = quantised(tiny("llama"), kind)
    before = model_fingerprint(base.model)
    warm_start = {"max_steps": 3, "learning_rate": 0.1}
    config = evolution({"adapter": {"rank": 4, "target_modules": targets, "warm_start": warm_start}})
    policy = load_policy(config, base, ROWS, tmp_path / "start")
    assert all(
        lora.B.abs().max() > 0 and lora.B.dtype == torch.float32 for lora in policy.adapter.modules.values()
    )
    theta_ND = np.random.default_rng(0).normal(0, 0.3, (2, policy.space.dim))
    with build_engine(TransformersConfig(), policy) as engine:
        tokens = generate(engine, Population(theta_ND), [ROWS] * 2, SAMPLING).token_ids_NPS
    assert model_fingerprint(base.model) == before, "the base model is frozen"
    references = []
    for number, theta_D in enumerate(theta_ND):
        policy.space.decode(theta_D).write(tmp_path / str(number))
        peft = PeftModel.from_pretrained(quantised(tiny("llama"), kind).model, str(tmp_path / str(number)))
        references.append([greedy(peft.eval(), base, str(example.prompt)) for example in ROWS])
    assert [list(tokens[n, :, 0]) for n in range(2)] == references
    assert references[0] != references[1], "or the comparison says nothing"


@needs_torchao
@KINDS
def test_a_row_does_not_depend_on_the_rows_beside_it(kind: Kind) -> None:
    base = quantised("embedded:arithmetic", kind)
    ids = torch.randint(3, 300, (16, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            base.model(ids).logits[:1], base.model(ids[:1]).logits, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize(
    ("kind", "dtype"), [("int8", "float32"), ("int4", "float32"), ("int4", "bfloat16"), (None, "bfloat16")]
)
def test_essa_runs_from_start_to_merged_export(kind: Kind | None, dtype: Dtype, tmp_path: Path) -> None:
    import evolign

    if kind is not None and MISSING:
        pytest.skip("torchao is not installed: pip install 'evolign[quant]'")
    evolign.run(tiny_run(kind, dtype), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["generations"] == 2
    evolign.export(tmp_path / "run", tmp_path / "merged", merge=True)
    merged = quantised(tmp_path / "merged", None, dtype).model
    assert not getattr(merged, "is_quantized", False)
    assert set(merged.state_dict()) == set(quantised("embedded:arithmetic", None).model.state_dict())


def tiny_run(kind: Kind | None, dtype: Dtype = "float32") -> Config:
    return parse(
        {
            "model": {"quantization": kind, "dtype": dtype, "device": "cpu"},
            "adapter": {"rank": 2, "warm_start": {"max_steps": 1}},
            "task": {
                "name": "arithmetic",
                "num_train": 8,
                "num_validation": 4,
                "num_test": 4,
                "num_warmup": 8,
            },
            "strategy": {"name": "cma_es", "population": 4, "sigma": 0.1},
            "evolution": {"generations": 2, "prompts_per_generation": 2},
        }
    )


@needs_torchao
@KINDS
def test_sft_trains_an_adapter_over_quantised_weights(kind: Kind, tmp_path: Path) -> None:
    import evolign

    config = parse(
        {
            "method": "sft",
            "model": {"quantization": kind, "device": "cpu"},
            "training": {"max_steps": 2, "batch_size": 4},
            "evaluation": {"every": 1},
            "task": {
                "name": "arithmetic",
                "num_train": 8,
                "num_validation": 4,
                "num_test": 4,
                "num_warmup": 8,
            },
        }
    )
    evolign.run(config, tmp_path / "run")
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_all_weights_of_a_quantised_model_cannot_be_trained(method: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.quantization = 'int8' freezes .* train an adapter"):
        parse({"method": method, "adapter": None, "model": {"quantization": "int8"}})


def test_a_reward_model_is_not_quantised() -> None:
    with pytest.raises(ConfigError, match=r"'reward_model' writes a whole classifier"):
        parse({"method": "reward_model", "model": {"quantization": "int4"}})


@needs_torchao
def test_a_model_without_linear_layers_is_refused_and_check_says_so(tiny: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match=r"no linear layer that can be quantised"):
        quantised(tiny("gpt2"), "int8")
    config = evolution(
        {"model": {"name": str(tiny("gpt2")), "quantization": "int8", "device": "cpu"}},
        ["sampling.max_new_tokens=16"],
    )
    (found,) = [finding for finding in check(config) if finding.what == "model"]
    assert found.status == "FAILED" and "no linear layer" in found.detail


@pytest.mark.skipif(not MISSING, reason="torchao is installed")
def test_a_missing_library_is_named_with_its_install_command() -> None:
    with pytest.raises(ConfigError, match=r"needs torchao.*pip install 'evolign\[quant\]'"):
        quantised("embedded:arithmetic", "int8")


@needs_torchao
def test_a_checkpoint_that_is_quantised_already_is_refused(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(tiny("llama"), tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    settings = json.loads(path.read_text()) | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    path.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=r"are quantised already; leave model\.quantization out"):
        quantised(tmp_path / "model", "int4")
