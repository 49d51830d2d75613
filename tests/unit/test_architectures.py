"""GPT-2, OPT and Pythia as they are published: no chat template, no padding token, one token at both ends."""

from pathlib import Path
from typing import Any

import pytest
from configs import evolution
from engine_calls import generate
from tiny_models import save_tiny, tiny_tokenizer

from evolign.config import ModelConfig, TransformersConfig
from evolign.engines import build_engine
from evolign.policy.base_model import BaseModel, load_base_model
from evolign.policy.policy import fixed_policy, load_policy
from evolign.types import Example, Population, Sampling

PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "opt-125m": ("opt", {}),
    # The 350m alone has narrower embeddings with projections, and norms behind its blocks.
    "opt-350m": ("opt", {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "pythia": ("gpt_neox", {"use_parallel_residual": True, "tie_word_embeddings": False}),
}
ROWS = [Example(str(i), f"{i}+{i}=", completion=str(2 * i)) for i in range(8)]


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    architecture, changes = PUBLISHED[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    save_tiny(architecture, folder, **changes)
    tiny_tokenizer(pad_token=None, bos_token="<eos>", unk_token="<eos>").save_pretrained(folder)
    return load_base_model(ModelConfig(name=str(folder), device="cpu"))


def generated(base: BaseModel, examples: list[Example]) -> list[tuple[int, ...]]:
    sampling = Sampling(max_new_tokens=12, temperature=1.0, noise_seed=3)
    with build_engine(TransformersConfig(), fixed_policy(base, None)) as engine:
        rollouts = generate(engine, Population.of_mean(), [examples], sampling)
    return list(rollouts.token_ids_NPS[0, :, 0])


def test_prompts_of_many_lengths_generate_together_what_each_generates_alone(published: BaseModel) -> None:
    examples = [Example(str(i), "1+2*3-4" * i) for i in (1, 3, 2, 5)]
    together = generated(published, examples)
    assert together == [generated(published, [example])[0] for example in examples]
    assert len(set(together)) > 1


def test_messages_are_joined_and_completions_end_in_the_end_token(published: BaseModel) -> None:
    assert published.encoder.render([{"role": "user", "content": "hello"}]) == "hello\n\n"
    assert published.tokenizer.pad_token_id == published.tokenizer.eos_token_id
    assert published.encoder.encode_completion("12")[-1] == published.tokenizer.eos_token_id


@pytest.mark.parametrize("targets", ["attention", "all-linear"])
def test_an_adapter_is_warm_started_on_rows_and_explores_singular_values(
    published: BaseModel, targets: str, tmp_path: Path
) -> None:
    warm_start = {"max_steps": 3, "learning_rate": 0.1}
    config = evolution({"adapter": {"rank": 4, "target_modules": targets, "warm_start": warm_start}})
    policy = load_policy(config, published, ROWS, tmp_path / "start")
    assert any(lora.B.abs().max() > 0 for lora in policy.adapter.modules.values())
    assert policy.space.dim == 2 * 4 * len(policy.adapter.modules)
