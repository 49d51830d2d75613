"""Adapters are made, warm-started, read and written as PEFT does it, and the base model is only borrowed."""

import json
import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from configs import evolution
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import CHARACTERS, CHAT_TEMPLATE, LLAMA_LIKE, save_tiny, tiny_tokenizer
from transformers import AutoModelForCausalLM, Gemma3Config, MambaConfig, MambaForCausalLM

from evolign.config import AdapterConfig, ModelConfig, WarmStartConfig
from evolign.errors import ConfigError
from evolign.policy.adapter import Adapter, new_adapter, read_adapter
from evolign.policy.base_model import BaseModel, load_base_model
from evolign.policy.policy import Policy, load_policy
from evolign.policy.targets import target_modules
from evolign.policy.warm_start import warm_start
from evolign.types import Example

ROWS = [Example(id=str(i), prompt=f"{i}+{j}=", completion=str(i + j)) for i in range(8) for j in range(2)]
TRAINING = WarmStartConfig(max_steps=20, batch_size=8, learning_rate=1e-2)
ATTENTION = {
    "gpt2": {"attn.c_attn", "attn.c_proj"},
    "opt": {f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")},
    "gpt_neox": {"attention.query_key_value", "attention.dense"},
}
LLAMA_ATTENTION = {f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
FEED_FORWARD = {
    "gpt2": {"mlp.c_fc", "mlp.c_proj"},
    "opt": {"fc1", "fc2"},
    "gpt_neox": {"mlp.dense_h_to_4h", "mlp.dense_4h_to_h"},
}
LLAMA_FEED_FORWARD = {f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")}
LAYERS = {"gpt2": "transformer.h", "opt": "model.decoder.layers", "gpt_neox": "gpt_neox.layers"}


@pytest.fixture
def llama(base: Callable[[str], BaseModel]) -> BaseModel:
    return base("llama")


@pytest.fixture
def own_llama(tiny: Callable[[str], Path]) -> BaseModel:
    """A copy of its own, for tests that may change it."""
    return load_base_model(ModelConfig(name=str(tiny("llama")), device="cpu"))


@pytest.fixture
def saved(policy: Callable[..., Policy], tmp_path: Path) -> Path:
    """A good adapter folder, free to be damaged."""
    policy("llama").adapter.write(tmp_path / "saved")
    return tmp_path / "saved"


def snapshot(base: BaseModel) -> dict[str, Any]:
    """Everything of a model that borrowing it must not change."""
    model = base.model
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "modules": {name: (type(module), id(module)) for name, module in model.named_modules()},
        "hooks": [name for name, module in model.named_modules() if module._forward_hooks],
        "training": [name for name, module in model.named_modules() if module.training],
        "gradients": [name for name, value in model.named_parameters() if value.requires_grad],
        "config": model.config.to_dict(),
        "generation": model.generation_config.to_dict(),
        "tokenizer": base.tokenizer.special_tokens_map,
        "ends": base.eos_token_ids,
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
    }


def assert_unchanged(base: BaseModel, before: dict[str, Any]) -> None:
    after = snapshot(base)
    weights = before["weights"]
    assert weights.keys() == after["weights"].keys()
    assert all(torch.equal(value, weights[name]) for name, value in after["weights"].items())
    for what in before.keys() - {"weights"}:
        assert after[what] == before[what], what


def edit(folder: Path, **settings: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


# Which layers


def test_attention_and_all_linear_name_the_layers_they_say(
    architecture: str, targets: str, policy: Callable[..., Policy]
) -> None:
    """For example attention must not reach GPT-2's mlp.c_proj, nor all-linear any output head."""
    wanted = set(ATTENTION.get(architecture, LLAMA_ATTENTION))
    if targets == "all-linear":
        wanted |= FEED_FORWARD.get(architecture, LLAMA_FEED_FORWARD)
    root = LAYERS.get(architecture, "model.layers")
    expected = {f"{root}.{layer}.{name}" for layer in (0, 1) for name in wanted}
    for start in ("new", "trained"):
        assert set(policy(architecture, targets, start).adapter.modules) == expected


def test_a_list_of_modules_is_taken_as_it_is(llama: BaseModel) -> None:
    assert target_modules(llama.model, ["q_proj", "down_proj"]) == ["q_proj", "down_proj"]
    model = new_adapter(llama.model, AdapterConfig(rank=2, target_modules=["q_proj", "down_proj"]), seed=0)
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if hasattr(module, "lora_A")}
    model.unload()
    assert names == {"q_proj", "down_proj"}


def test_an_architecture_without_attention_layers_by_name_asks_for_a_list() -> None:
    model = MambaForCausalLM(MambaConfig(vocab_size=8, hidden_size=8, state_size=4, num_hidden_layers=1))
    assert target_modules(model, "all-linear")
    with pytest.raises(ConfigError, match=r"target_modules = 'attention'.* list module names instead"):
        target_modules(model, "attention")


def test_of_a_model_that_sees_the_language_model_alone_is_adapted() -> None:
    text = {**LLAMA_LIKE, "head_dim": 8}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    assert any("vision" in name for name in names)
    for choice, per_layer in (("attention", 4), ("all-linear", 7)):
        targets = target_modules(model, choice)
        hit = [name for name in names if any(("." + name).endswith("." + target) for target in targets)]
        assert len(hit) == 2 * per_layer and not any("vision" in name for name in hit)


def test_a_target_that_no_layer_has_is_an_error(llama: BaseModel) -> None:
    with pytest.raises(
        ConfigError, match=r"adapter\.target_modules: 'q_porj'; known: .*Did you mean 'q_proj'"
    ):
        new_adapter(llama.model, AdapterConfig(target_modules=["q_porj"]), seed=0)


@pytest.mark.parametrize("targets", ["attention", "all-linear"])
def test_a_rank_larger_than_a_layer_is_an_error(
    targets: Literal["attention", "all-linear"], llama: BaseModel, tmp_path: Path
) -> None:
    message = (
        r"adapter\.rank = 17 is larger than the layer '.*\.k_proj'.* side is 16; use a rank of 16 or less"
    )
    with pytest.raises(ConfigError, match=message):
        new_adapter(llama.model, AdapterConfig(rank=17, target_modules=targets), seed=0)
    new_adapter(llama.model, AdapterConfig(rank=16, target_modules=targets), seed=0).unload()


# Reading and writing


def test_an_adapter_survives_writing_and_reading(
    architecture: str, targets: str, policy: Callable[..., Policy], tmp_path: Path
) -> None:
    chosen = policy(architecture, targets)
    chosen.adapter.write(tmp_path)
    again = read_adapter(chosen.base.model, tmp_path)
    assert list(again.modules) == list(chosen.adapter.modules)
    for name, lora in chosen.adapter.modules.items():
        assert torch.equal(lora.A, again.modules[name].A)
        assert torch.equal(lora.B, again.modules[name].B)
        assert lora.scaling == again.modules[name].scaling == 2.0
    again.write(tmp_path / "again")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_peft_loads_every_tensor_of_a_written_adapter_without_a_word(
    architecture: str,
    targets: str,
    policy: Callable[..., Policy],
    tiny: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    chosen = policy(architecture, targets)
    chosen.adapter.write(tmp_path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fresh = AutoModelForCausalLM.from_pretrained(tiny(architecture))
        model = PeftModel.from_pretrained(fresh, tmp_path)
    assert not [str(w.message) for w in said if "is_gradient_checkpointing" not in str(w.message)]
    loaded = {name: value for name, value in model.state_dict().items() if "lora_" in name}
    expected = load_file(tmp_path / "adapter_model.safetensors")
    assert {name.replace(".default.", ".") for name in loaded} == set(expected)
    assert all(torch.equal(value, expected[name.replace(".default.", ".")]) for name, value in loaded.items())
    assert model.peft_config["default"].base_model_name_or_path == str(tiny(architecture))


def test_peft_own_adapters_are_read_with_their_scaling(llama: BaseModel, tmp_path: Path) -> None:
    """Ranks and scalings that differ from layer to layer, and the square root of rsLoRA."""
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        use_rslora=True,
        target_modules=["q_proj", "down_proj"],
        rank_pattern={"down_proj": 9},
        alpha_pattern={"down_proj": 5},
        init_lora_weights=False,
    )
    fresh = AutoModelForCausalLM.from_pretrained(llama.name)
    peft_model = get_peft_model(fresh, config)
    peft_model.save_pretrained(tmp_path)
    adapter = read_adapter(llama.model, tmp_path)
    query, down = (
        adapter.modules[f"model.layers.1.{name}"] for name in ("self_attn.q_proj", "mlp.down_proj")
    )
    assert (len(query.A), len(down.A)) == (4, 9)
    assert query.scaling == pytest.approx(6 / math.sqrt(4))
    assert down.scaling == pytest.approx(5 / math.sqrt(9))
    weight = peft_model.base_model.model.model.layers[1].mlp.down_proj.get_delta_weight("default")
    assert torch.allclose(down.scaling * down.B @ down.A, weight, rtol=1e-6, atol=1e-7)


def drop_a_tensor(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(list(tensors.items())[:-1])


def add_a_tensor(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**tensors, "base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight": torch.zeros(4, 32)}


def widen(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n: torch.cat([t, t], 1 if "lora_A" in n else 0).contiguous() for n, t in tensors.items()}


def spoil(value: float) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        next(iter(tensors.values()))[0, 0] = value
        return tensors

    return spoil


def raise_the_rank(folder: Path) -> None:
    edit(folder, r=17)
    edit_tensors(
        folder,
        lambda tensors: {
            name: torch.ones((17, tensor.shape[1]) if "lora_A" in name else (tensor.shape[0], 17))
            for name, tensor in tensors.items()
        },
    )


def truncate(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, r"holds no adapter_config\.json; give a PEFT folder"),
    "no settings": (lambda f: (f / "adapter_config.json").unlink(), r"holds no adapter_config\.json"),
    "no weights": (
        lambda f: (f / "adapter_model.safetensors").unlink(),
        r"holds no adapter_model\.safetensors",
    ),
    "truncated weights": (truncate, "does not fit the base model"),
    "not safetensors": (
        lambda f: (f / "adapter_model.safetensors").write_bytes(b"\x80\x04 not a tensor"),
        "does not fit the base model",
    ),
    "settings are not JSON": (
        lambda f: (f / "adapter_config.json").write_text("{"),
        "adapter_config.json is broken",
    ),
    "settings are a list": (
        lambda f: (f / "adapter_config.json").write_text("[1]"),
        "holds a list, not a JSON object",
    ),
    "unknown settings": (lambda f: edit(f, r="many"), "does not fit the base model"),
    "another kind": (lambda f: edit(f, peft_type="PREFIX_TUNING"), "is a PREFIX_TUNING adapter; only LORA"),
    "DoRA": (lambda f: edit(f, use_dora=True), "uses DoRA .* train a plain LoRA adapter"),
    "biases": (lambda f: edit(f, bias="all"), "uses trained biases .* train a plain LoRA adapter"),
    "LoRA bias": (lambda f: edit(f, lora_bias=True), "uses LoRA bias .* train a plain LoRA adapter"),
    "whole modules": (lambda f: edit(f, modules_to_save=["lm_head"]), "uses fully trained modules"),
    "tokens": (lambda f: edit(f, trainable_token_indices=[3]), "uses trained token embeddings"),
    "replication": (lambda f: edit(f, layer_replication=[[0, 2], [1, 2]]), "uses replicated layers"),
    "changed base": (lambda f: edit(f, init_lora_weights="pissa"), "'pissa', which changes the base weights"),
    "fewer tensors": (lambda f: edit_tensors(f, drop_a_tensor), "does not fit the base model.*missing"),
    "a third layer": (
        lambda f: edit_tensors(f, add_a_tensor),
        r"holds 17 tensors, where .* take 16; .*layers\.2\.self_attn\.q_proj",
    ),
    "a wider model": (lambda f: edit_tensors(f, widen), r"made for '.*llama'\): .*size mismatch"),
    "other names": (lambda f: edit(f, target_modules=["c_attn"]), "does not fit the base model"),
    "an embedding": (lambda f: edit(f, target_modules=["q_proj", "embed_tokens"]), "does not fit"),
    "NaN": (lambda f: edit_tensors(f, spoil(math.nan)), r"holds NaN or infinite numbers, .*layers\.0\..*"),
    "infinite": (lambda f: edit_tensors(f, spoil(math.inf)), "holds NaN or infinite numbers"),
    "diverged": (lambda f: edit_tensors(f, spoil(1e30)), r"has diverged: entries of A up to 1e\+30"),
    "a scaling": (lambda f: edit(f, lora_alpha=1e308), r"has diverged: .* times 2\.5e\+307"),
    "too high a rank": (raise_the_rank, r"rank of 17 is larger than .* use a rank of 16 or less"),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_what_cannot_be_searched_is_refused_in_words_and_the_model_left_alone(
    damage: str, saved: Path, own_llama: BaseModel
) -> None:
    before = snapshot(own_llama)
    break_it, words = BROKEN[damage]
    break_it(saved)
    with pytest.raises(ConfigError, match=rf"(?s)adapter\.path = '.*saved'.*{words}"):
        read_adapter(own_llama.model, saved)
    assert_unchanged(own_llama, before)


def test_adapters_of_other_models_and_kinds_as_peft_writes_them_are_refused(
    llama: BaseModel, policy: Callable[..., Policy], tmp_path: Path
) -> None:
    policy("gpt2").adapter.write(tmp_path / "gpt2")
    with pytest.raises(ConfigError, match=r"does not fit the base model \(it was made for '.*gpt2'\)"):
        read_adapter(llama.model, tmp_path / "gpt2")
    kinds = {
        "dora": LoraConfig(target_modules=["q_proj"], use_dora=True),
        "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
        "saved": LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]),
        "embedding": LoraConfig(target_modules=["q_proj", "embed_tokens"]),
    }
    for name, config in kinds.items():
        fresh = AutoModelForCausalLM.from_pretrained(llama.name)
        get_peft_model(fresh, config).save_pretrained(tmp_path / name, save_embedding_layers=False)
        with pytest.raises(ConfigError, match=r"adapter\.path = "):
            read_adapter(llama.model, tmp_path / name)


# The base model is only borrowed


def test_making_reading_and_warm_starting_leave_the_base_model_as_it_was(
    own_llama: BaseModel, tmp_path: Path
) -> None:
    before = snapshot(own_llama)
    new_adapter(own_llama.model, AdapterConfig(rank=3), seed=0).unload()
    assert_unchanged(own_llama, before)
    warm_start(own_llama, AdapterConfig(rank=3, warm_start=TRAINING), ROWS, 0, tmp_path / "adapter")
    assert_unchanged(own_llama, before)
    read_adapter(own_llama.model, tmp_path / "adapter")
    assert_unchanged(own_llama, before)
    with pytest.raises(ConfigError):
        warm_start(own_llama, AdapterConfig(rank=99, warm_start=None), ROWS, 0, tmp_path / "none")
    with pytest.raises(ConfigError):
        warm_start(own_llama, AdapterConfig(target_modules=["q_proj", "norm"]), ROWS, 0, tmp_path / "none")
    assert_unchanged(own_llama, before)


def test_a_warm_start_with_gradient_checkpointing_as_on_a_gpu_leaves_nothing_behind(
    own_llama: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trl

    def checkpointing(**options: Any) -> Any:
        return config_class(**{**options, "gradient_checkpointing": True})

    config_class = trl.SFTConfig
    monkeypatch.setattr(trl, "SFTConfig", checkpointing)
    before = snapshot(own_llama)
    config = AdapterConfig(rank=3, warm_start=TRAINING.model_copy(update={"max_steps": 2}))
    warm_start(own_llama, config, ROWS, 0, tmp_path / "adapter")
    assert_unchanged(own_llama, before)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in own_llama.model.modules())


def test_no_global_generator_decides_or_is_moved(llama: BaseModel, tmp_path: Path) -> None:
    folders = []
    for state in (1, 2):
        torch.manual_seed(state)
        expected = torch.random.get_rng_state()
        folders.append(tmp_path / str(state))
        config = AdapterConfig(rank=3, warm_start=TRAINING.model_copy(update={"max_steps": 2}))
        warm_start(llama, config, ROWS, 0, folders[-1])
        assert torch.equal(torch.random.get_rng_state(), expected)
    assert weights(folders[0]) == weights(folders[1])


# The warm start


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


@torch.inference_mode()
def completion_loss(base: BaseModel, rows: list[Example], adapter: Path | None = None) -> float:
    """Mean negative log-likelihood per token of the completions and their end, row by row."""
    model: Any = AutoModelForCausalLM.from_pretrained(base.name)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    losses: list[float] = []
    for row in rows:
        prompt = base.encoder.encode(row.prompt)
        target = [*base.tokenizer(row.completion, add_special_tokens=False)["input_ids"], 2]
        logits = model(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
        losses += torch.nn.functional.cross_entropy(logits, torch.tensor(target), reduction="none").tolist()
    return sum(losses) / len(losses)


def test_a_warm_start_learns_its_rows_is_fixed_by_the_seed_and_differs_between_seeds(
    llama: BaseModel, tmp_path: Path
) -> None:
    config = AdapterConfig(rank=8, target_modules="all-linear", warm_start=TRAINING)
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        warm_start(llama, config, ROWS, seed, tmp_path / name)
    before, after = completion_loss(llama, ROWS), completion_loss(llama, ROWS, tmp_path / "first")
    assert after < 0.7 * before
    assert weights(tmp_path / "first") == weights(tmp_path / "again")
    assert weights(tmp_path / "first") != weights(tmp_path / "other")


def test_only_completions_are_learnt(llama: BaseModel, tmp_path: Path) -> None:
    """Rows whose completions are empty still teach their end, and nothing about their prompts."""
    rows = [Example(id=row.id, prompt=row.prompt, completion="") for row in ROWS]
    config = AdapterConfig(rank=4, warm_start=TRAINING)
    warm_start(llama, config, rows, 0, tmp_path / "adapter")
    assert completion_loss(llama, rows, tmp_path / "adapter") < 0.5 * completion_loss(llama, rows)
    prompts = [Example(id=row.id, prompt=row.prompt[:1], completion=str(row.prompt)[1:]) for row in ROWS]
    assert completion_loss(llama, prompts, tmp_path / "adapter") > 0.8 * completion_loss(llama, prompts)


def test_without_a_warm_start_the_adapter_changes_nothing_and_follows_the_seed(
    llama: BaseModel, tmp_path: Path
) -> None:
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        warm_start(llama, AdapterConfig(rank=4, warm_start=None), [], seed, tmp_path / name)
    assert completion_loss(llama, ROWS, tmp_path / "first") == completion_loss(llama, ROWS)
    assert weights(tmp_path / "first") == weights(tmp_path / "again")
    assert weights(tmp_path / "first") != weights(tmp_path / "other")


def test_a_warm_start_without_solved_rows_says_what_to_set(own_llama: BaseModel, tmp_path: Path) -> None:
    before = snapshot(own_llama)
    config = AdapterConfig(rank=4, warm_start=TRAINING)
    with pytest.raises(
        ConfigError, match=r"needs solved rows.* task\.num_warmup .* adapter\.warm_start=null"
    ):
        warm_start(own_llama, config, [], 0, tmp_path / "none")
    with pytest.raises(ConfigError, match=r"row 'x' has no completion.* adapter\.warm_start=null"):
        warm_start(own_llama, config, [Example(id="x", prompt="1+1=")], 0, tmp_path / "none")
    short = AdapterConfig(rank=4, warm_start=TRAINING.model_copy(update={"max_length": 2}))
    with pytest.raises(ConfigError, match=r"max_length = 2 cuts all \d+ rows off before their completion"):
        warm_start(own_llama, short, ROWS, 0, tmp_path / "none")
    assert_unchanged(own_llama, before)


def test_a_policy_starts_from_the_adapter_in_its_folder_and_trains_only_once(
    llama: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = evolution({"adapter": {"rank": 4, "warm_start": {"max_steps": 2, "batch_size": 8}}})
    first = load_policy(config, llama, ROWS, tmp_path / "start")
    monkeypatch.setattr("evolign.policy.policy.warm_start", lambda *_: pytest.fail("trained again"))
    again = load_policy(config, llama, [], tmp_path / "start")
    assert same_tensors(first.adapter, again.adapter)
    assert not list(tmp_path.glob("*.partial"))
    copied = load_policy(
        evolution({"adapter": {"path": str(tmp_path / "start")}}), llama, [], tmp_path / "copy"
    )
    assert same_tensors(first.adapter, copied.adapter)
    shutil.rmtree(tmp_path / "start")  # a run directory does not depend on where the adapter came from
    assert same_tensors(first.adapter, read_adapter(llama.model, tmp_path / "copy"))


def same_tensors(left: Adapter, right: Adapter) -> bool:
    return list(left.modules) == list(right.modules) and all(
        torch.equal(left.modules[name].A, right.modules[name].A)
        and torch.equal(left.modules[name].B, right.modules[name].B)
        for name in left.modules
    )


# Tokenizers


@pytest.fixture
def with_tokenizer(llama: BaseModel, tiny: Callable[[str], Path]) -> Callable[[Any], BaseModel]:
    """The tiny model with another tokenizer and its own generation settings."""

    def make(tokenizer: Any) -> BaseModel:
        model = AutoModelForCausalLM.from_pretrained(tiny("llama"))
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        return BaseModel(model, tokenizer, str(tiny("llama")))

    return make


def test_a_tokenizer_without_padding_still_learns_where_completions_end(
    with_tokenizer: Callable[[Any], BaseModel], tmp_path: Path
) -> None:
    """Padding is then the end-of-sequence token; a loss that masked it would never learn to stop."""
    base = with_tokenizer(tiny_tokenizer(pad_token=None))
    assert base.tokenizer.pad_token_id == base.tokenizer.eos_token_id == 2
    rows = [Example(id=str(i), prompt=f"{i}=", completion="7" * (1 + i % 3)) for i in range(8)]
    warm_start(base, AdapterConfig(rank=8, warm_start=TRAINING), rows, 0, tmp_path / "adapter")
    ends = [Example(id=row.id, prompt=f"{row.prompt}{row.completion}", completion="") for row in rows]
    assert completion_loss(base, ends, tmp_path / "adapter") < 0.5 * completion_loss(base, ends)


def test_a_model_that_no_token_ends_is_refused(with_tokenizer: Callable[[Any], BaseModel]) -> None:
    with pytest.raises(ConfigError, match="no end-of-sequence token, so no completion would ever end"):
        with_tokenizer(tiny_tokenizer(eos_token=None))


def test_every_token_that_either_declares_ends_a_completion(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    declared = json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"]
    base = load_base_model(ModelConfig(name=str(tmp_path), device="cpu"))
    assert base.eos_token_ids == sorted({*declared, 2})
    base.model.generation_config.eos_token_id = 7
    assert base.eos_token_ids == [2, 7]
    base.model.generation_config.eos_token_id = None
    assert base.eos_token_ids == [2]


MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "1+1=?"}]


def test_messages_go_through_the_chat_template_without_doubled_special_tokens(
    with_tokenizer: Callable[[Any], BaseModel],
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    base = with_tokenizer(tokenizer)
    text = "<bos>system: be brief<eos><bos>user: 1+1=?<eos><bos>assistant: "
    assert base.encoder.render(MESSAGES) == text
    ids = base.encoder.encode(MESSAGES)
    assert ids == tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 3
    assert base.encoder.render("1+1=?") == "1+1=?"  # plain text stays plain


def test_messages_are_joined_where_there_is_no_template(with_tokenizer: Callable[[Any], BaseModel]) -> None:
    base = with_tokenizer(tiny_tokenizer())
    assert base.encoder.render(MESSAGES) == "be brief\n\n1+1=?\n\n"
    assert base.encoder.decode(tuple(base.encoder.encode(MESSAGES))) == "be brief\n\n1+1=?\n\n"


def test_the_tiny_tokenizers_keep_every_character_in_every_architecture(
    architecture: str, base: Callable[[str], BaseModel]
) -> None:
    chosen = base(architecture)
    assert chosen.encoder.decode(tuple(chosen.encoder.encode(CHARACTERS))) == CHARACTERS
    assert len(chosen.encoder.encode(CHARACTERS)) == len(CHARACTERS)
