"""Whole populations in one batch generate what each candidate alone generates in PEFT and transformers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_calls import generate, logprobs
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from evolign.engines.transformers.engine import TransformersEngine
from evolign.engines.transformers.noise import gumbel
from evolign.errors import EngineError
from evolign.policy.policy import Policy
from evolign.policy.spaces.base import SearchSpace, SharesFactors
from evolign.policy.spaces.lora import LoraFactors
from evolign.seeding import key
from evolign.strategies.mean import Mean
from evolign.types import Example, Population, Rollouts, Sampling

N = 3
LENGTHS = (1, 4, 9, 17, 28)
TEXT = "12+34=? the sum is: (7*8)-x/2, no."
EXAMPLES = [Example(id=f"row {length}", prompt=TEXT[-length:]) for length in LENGTHS]
GREEDY = Sampling(max_new_tokens=16, temperature=0.0)
SAMPLED = Sampling(max_new_tokens=12, temperature=0.7, samples_per_prompt=2, noise_seed=5)
SAMPLED_PROMPTS = 3


@dataclass
class Case:
    """A population, what the engine made of it, and every candidate exported to its own folder."""

    policy: Policy
    population: Population
    mean_D: np.ndarray
    greedy: Rollouts
    sampled: Rollouts
    folders: list[Path]
    model: Path

    def alone(self, candidate: int) -> PeftModel:
        fresh = AutoModelForCausalLM.from_pretrained(self.model)
        return PeftModel.from_pretrained(fresh, self.folders[candidate]).eval()


class OnlyAdapters:
    """A search space without shared factors, so that the engine takes one adapter after the other."""

    def __init__(self, space: SearchSpace) -> None:
        self.dim, self.subspace_dim = space.dim, space.subspace_dim
        self.lift, self.decode, self.adapters = space.lift, space.decode, space.adapters


def in_a_subspace(
    policy: Policy, rng: np.random.Generator
) -> tuple[Policy, Population, list[np.ndarray], np.ndarray]:
    """A population of LoRA's weights, its members as points of the space, and the mean."""
    space = LoraFactors(policy.adapter, terms=3)
    assert space.subspace_dim is not None
    mean_D, subspace = 0.2 * rng.standard_normal(space.dim), 5
    z_NK = 0.3 * rng.normal(size=(N, space.subspace_dim)) * np.array([[0.0], [0.7], [1.0]])
    theta = [mean_D + space.lift(mean_D, subspace, z_K) for z_K in z_NK]
    return replace(policy, space=space), Population(z_NK, subspace), theta, mean_D


@pytest.fixture(scope="module", params=["attention", "all-linear", "all-linear, lora"], ids=lambda name: name)
def case(
    request: pytest.FixtureRequest,
    architecture: str,
    policy: Callable[..., Policy],
    tiny: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    """Candidate 0 is the start itself; the others are far enough away to give other tokens."""
    targets, _, space = request.param.partition(", ")
    chosen, rng = policy(architecture, targets), np.random.default_rng(0)
    if space:
        chosen, population, theta, mean_D = in_a_subspace(chosen, rng)
    else:
        population = Population(rng.normal(size=(N, chosen.space.dim)) * np.array([[0.0], [0.7], [1.0]]))
        theta, mean_D = list(population.theta_NK), rng.normal(size=chosen.space.dim)
    with TransformersEngine(chosen) as engine:
        engine.place(Mean.at(mean_D).state_dict())
        greedy = generate(engine, population, [EXAMPLES] * N, GREEDY)
        sampled = generate(engine, population, [EXAMPLES[:SAMPLED_PROMPTS]] * N, SAMPLED)
    folders = [tmp_path_factory.mktemp(f"candidate{n}") for n in range(N)]
    for theta_D, folder in zip(theta, folders, strict=True):
        chosen.space.decode(theta_D).write(folder)
    return Case(chosen, population, mean_D, greedy, sampled, folders, tiny(architecture))


def generate_alone(model: Any, prompt: list[int]) -> tuple[int, ...]:
    """transformers' own greedy generation of one prompt, without any padding."""
    ids = torch.tensor([prompt])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=GREEDY.max_new_tokens, do_sample=False
    )
    return tuple(output[0, len(prompt) :].tolist())


@torch.inference_mode()
def sample_alone(model: Any, prompt: list[int], noise_key: int, ends: list[int]) -> tuple[int, ...]:
    """Gumbel-max sampling of one prompt as the text book has it: no cache, no batch."""
    tokens: list[int] = []
    while len(tokens) < SAMPLED.max_new_tokens and not (tokens and tokens[-1] in ends):
        logits_V = model(torch.tensor([prompt + tokens])).logits[0, -1]
        noise_V = gumbel(torch.tensor([noise_key]), len(tokens), len(logits_V))[0]
        tokens.append(int((logits_V / SAMPLED.temperature + noise_V).argmax()))
    return tuple(tokens)


def assert_telling(rollouts: Rollouts) -> None:
    """Equal tokens prove something only where candidates and prompts differ, and some rows end early."""
    tokens = rollouts.token_ids_NPS
    assert len(set(tokens.flat)) >= 0.8 * tokens.size
    for n in range(1, N):
        assert any(tokens[n, p, 0] != tokens[0, p, 0] for p in range(tokens.shape[1]))
    assert 0 < rollouts.truncated_NPS.sum() < tokens.size
    assert len({len(ids) for ids in tokens.flat}) >= 2


def test_greedy_tokens_of_a_population_equal_those_of_each_exported_adapter_alone(case: Case) -> None:
    assert_telling(case.greedy)
    base = case.policy.base
    for n in range(N):
        model = case.alone(n)
        for p, example in enumerate(EXAMPLES):
            expected = generate_alone(model, base.encoder.encode(example.prompt))
            assert case.greedy.token_ids_NPS[n, p, 0] == expected, (n, example)
            assert case.greedy.truncated_NPS[n, p, 0] == (expected[-1] not in base.eos_token_ids)
            assert case.greedy.text_NPS[n, p, 0] == base.tokenizer.decode(expected, skip_special_tokens=True)


def test_merged_weights_sample_and_decode_the_same_tokens(case: Case) -> None:
    assert_telling(case.sampled)
    base = case.policy.base
    for n in range(N):
        merged = case.alone(n).merge_and_unload()
        for p, example in enumerate(EXAMPLES[:SAMPLED_PROMPTS]):
            prompt = base.encoder.encode(example.prompt)
            assert case.greedy.token_ids_NPS[n, p, 0] == generate_alone(merged, prompt), (n, example)
            for s in range(SAMPLED.samples_per_prompt):
                noise_key = key(SAMPLED.noise_seed, "token", example.id, s)
                expected = sample_alone(merged, prompt, noise_key, base.eos_token_ids)
                assert case.sampled.token_ids_NPS[n, p, s] == expected, (n, example, s)


def test_the_origin_exports_the_starting_adapter_bit_for_bit(
    architecture: str, targets: str, policy: Callable[..., Policy], tmp_path: Path
) -> None:
    for start in ("trained", "new"):
        chosen = policy(architecture, targets, start)
        chosen.adapter.write(tmp_path / start)
        chosen.space.decode(np.zeros(chosen.space.dim)).write(tmp_path / f"{start} decoded")
        saved = load_file(tmp_path / start / "adapter_model.safetensors")
        decoded = load_file(tmp_path / f"{start} decoded" / "adapter_model.safetensors")
        assert saved.keys() == decoded.keys() and saved
        for name in saved:
            assert torch.equal(saved[name].view(torch.int32), decoded[name].view(torch.int32)), name


def test_the_origin_of_an_untrained_adapter_generates_what_the_base_model_does(
    architecture: str, targets: str, policy: Callable[..., Policy]
) -> None:
    chosen = policy(architecture, targets, "new")
    with TransformersEngine(chosen) as engine:
        origin = generate(engine, Population(np.zeros((1, chosen.space.dim))), [EXAMPLES], GREEDY)
    expected = [generate_alone(chosen.base.model, chosen.base.encoder.encode(row.prompt)) for row in EXAMPLES]
    assert list(origin.token_ids_NPS[0, :, 0]) == expected
    assert len(set(expected)) >= 4


def test_logprobs_are_those_of_each_exported_candidate_reading_the_completion_alone(case: Case) -> None:
    completions = [case.sampled.token_ids_NPS[0, p, 0] for p in range(SAMPLED_PROMPTS)]
    with TransformersEngine(case.policy) as engine:
        candidates = np.repeat(np.arange(N), SAMPLED_PROMPTS).tolist()
        examples = EXAMPLES[:SAMPLED_PROMPTS] * N
        engine.place(Mean.at(case.mean_D).state_dict())
        logprob_MT = logprobs(engine, case.population, candidates, examples, completions * N, 0.7)
        logprob_NJT = logprob_MT.reshape(N, SAMPLED_PROMPTS, -1)
    assert len({len(ids) for ids in completions}) > 1 or all(len(ids) == 12 for ids in completions)
    for candidate in range(N):
        model = case.alone(candidate)
        for j, (example, ids) in enumerate(zip(EXAMPLES, completions, strict=False)):
            prompt = case.policy.base.encoder.encode(example.prompt)
            with torch.inference_mode():
                logits_TV = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
            expected_T = (logits_TV / 0.7).log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
            # float32 through two layers: absolute errors of log-probabilities stay below 1e-3
            np.testing.assert_allclose(logprob_NJT[candidate, j, : len(ids)], expected_T, atol=1e-3)
            assert not logprob_NJT[candidate, j, len(ids) :].any(), "zero beyond the end"


def test_a_space_that_offers_only_adapters_says_and_reads_what_shared_factors_do(case: Case) -> None:
    only_adapters = replace(case.policy, space=OnlyAdapters(case.policy.space))
    assert isinstance(case.policy.space, SharesFactors) and not isinstance(only_adapters.space, SharesFactors)
    population = replace(case.population, theta_NK=case.population.theta_NK[1:], with_mean=True, version=4)
    readings = [(n, p) for p in range(SAMPLED_PROMPTS) for n in (2, 0)]  # in turns, and none of candidate 1
    whose, examples = [n for n, _ in readings], [EXAMPLES[p] for _, p in readings]
    token_ids = [case.sampled.token_ids_NPS[1, p, 0] for _, p in readings]
    said, read = [], []
    for policy in (case.policy, only_adapters):
        with TransformersEngine(policy) as engine:
            engine.place(Mean.at(case.mean_D, version=4).state_dict())
            said.append(generate(engine, population, [EXAMPLES] * N, GREEDY))
            read.append(logprobs(engine, population, whose, examples, token_ids, 0.7))
    assert_telling(said[0])
    assert (said[1].token_ids_NPS == said[0].token_ids_NPS).all()
    assert (said[1].text_NPS == said[0].text_NPS).all()
    assert (said[1].truncated_NPS == said[0].truncated_NPS).all()
    assert (abs(read[0][::2] - read[0][1::2]).max(axis=1) > 0.01).all(), "the two read differently"
    np.testing.assert_allclose(read[1], read[0], atol=1e-3)


@pytest.mark.parametrize("space", ["singular_values", "lora"])
def test_a_population_of_another_version_and_an_unknown_prompt_are_engine_errors(
    space: str, policy: Callable[..., Policy]
) -> None:
    chosen, rng = policy("llama"), np.random.default_rng(0)
    if space == "lora":
        chosen, population, _, mean_D = in_a_subspace(chosen, rng)
    else:
        population = Population(np.zeros((N, chosen.space.dim)), with_mean=True)
        mean_D = rng.normal(size=chosen.space.dim)
    current = replace(population, version=3)
    names = [example.id for example in EXAMPLES]
    with TransformersEngine(chosen) as engine:
        engine.place(Mean.at(mean_D, version=3).state_dict())
        engine.add_prompts(EXAMPLES)
        for version in (0, 2, 4):
            other = replace(population, version=version)
            with pytest.raises(EngineError, match=f"version {version} of the mean, .* has followed 3 moves"):
                engine.generate(other, [names] * len(other), GREEDY)
            with pytest.raises(EngineError, match=f"version {version} of the mean, .* has followed 3 moves"):
                engine.logprobs(other, [0], names[:1], [(3, 4)])
        with pytest.raises(EngineError, match="prompt 'unknown' is not known"):
            engine.generate(current, [names] * (len(current) - 1) + [[*names[1:], "unknown"]], GREEDY)
        with pytest.raises(EngineError, match="prompt 'unknown' is not known"):
            engine.logprobs(current, [0, 1], [names[0], "unknown"], [(3, 4), (5,)])
        assert engine.generate(current, [names] * len(current), GREEDY).text_NPS.shape[0] == len(current)
        assert engine.logprobs(current, [0], names[:1], [(3, 4)]).all()
