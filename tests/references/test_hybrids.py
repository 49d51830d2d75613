"""Attention beside recurrent layers, attention of a model's own, scaled logits: tokens and readings."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from engine_calls import generate, logprobs
from tiny_models import HYBRIDS, LLAMA_LIKE, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from evolign.engines.transformers import log_probs
from evolign.engines.transformers.engine import TransformersEngine
from evolign.engines.transformers.head import is_apart
from evolign.errors import ConfigError
from evolign.policy.base_model import BaseModel
from evolign.policy.policy import fixed_policy
from evolign.types import Example, Population, Sampling

PROMPTS = [Example(str(i), prompt) for i, prompt in enumerate(["1 + 2 = ?\n", "13 + 24 = ? and\n", "5\n"])]
NOBODY = Population(np.zeros((1, 0)))


@pytest.fixture(params=HYBRIDS)
def base(request: pytest.FixtureRequest) -> Iterator[BaseModel]:
    logging.disable(logging.WARNING)  # of kernels that only a GPU has
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(request.param, **{**LLAMA_LIKE, **HYBRIDS[request.param]})
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.25)
    model.generation_config.update(pad_token_id=0, eos_token_id=2)
    yield BaseModel(model, tiny_tokenizer(), request.param)
    logging.disable(logging.NOTSET)


@torch.inference_mode()
def test_a_batch_in_which_rows_end_says_and_reads_what_each_row_does_alone(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = base.model
    prompts = [base.encoder.encode(example.prompt) for example in PROMPTS]
    alone = []
    for prompt in prompts:
        prompt_ids = torch.tensor([prompt])
        output = model.generate(
            prompt_ids,
            attention_mask=torch.ones_like(prompt_ids),
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=[2],
        )
        alone.append(tuple(output[0, len(prompt) :].tolist()))
    ends = {2, alone[0][2]}
    expected = [ids[: min((i for i, t in enumerate(ids) if t in ends), default=7) + 1] for ids in alone]
    model.generation_config.eos_token_id = sorted(ends)
    with TransformersEngine(fixed_policy(base)) as engine:
        said = generate(engine, NOBODY, [PROMPTS], Sampling(8, temperature=0.0)).token_ids_NPS[0, :, 0]
        assert said.tolist() == expected and min(map(len, expected)) < 8
        token_ids = [*expected, *(ids[::-1] for ids in expected)]
        logprob_MT = logprobs(engine, NOBODY, [0] * 6, PROMPTS * 2, token_ids)
        monkeypatch.setattr(log_probs, "LOGITS_AT_ONCE", 5 * 64)  # five labels at a time
        in_parts_MT = logprobs(engine, NOBODY, [0] * 6, PROMPTS * 2, token_ids)
    assert is_apart(model)
    np.testing.assert_allclose(in_parts_MT, logprob_MT, atol=1e-4)
    for prompt, ids, logprob_T in zip(prompts * 2, token_ids, logprob_MT, strict=True):
        logits_TV = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        expected_T = logits_TV.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
        np.testing.assert_allclose(logprob_T[: len(ids)], expected_T, atol=1e-4)


def test_a_model_without_a_cache_of_the_usual_kind_is_refused() -> None:
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("mamba", hidden_size=8, num_hidden_layers=1)
    )
    model.generation_config.update(pad_token_id=0, eos_token_id=2)
    with pytest.raises(ConfigError, match="MambaForCausalLM does not continue from `past_key_values`"):
        TransformersEngine(fixed_policy(BaseModel(model, tiny_tokenizer(), "mamba")))
