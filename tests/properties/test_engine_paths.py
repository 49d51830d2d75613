"""Every faster path of the engine computes what the plain one of PyTorch or transformers does."""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from engine_calls import generate, logprobs
from torch import nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import DynamicCache
from watching import Watched

from evolign.engines.transformers import decoding, log_probs
from evolign.engines.transformers import linear as one_dnn
from evolign.engines.transformers.attention import attend
from evolign.engines.transformers.engine import TransformersEngine
from evolign.engines.transformers.head import LOGITS_AT_ONCE
from evolign.engines.transformers.kv_cache import in_place_cache
from evolign.engines.transformers.memory import MOST_READINGS_ON_CPU, bytes_per_reading
from evolign.engines.transformers.noise import Noise, gumbel
from evolign.engines.transformers.scaled_lora import ScaledLora
from evolign.policy.policy import Policy
from evolign.policy.spaces.base import SharedFactors
from evolign.types import Example, Population, Sampling

TEXT = "12+34=? the sum is: (7*8)-x/2, no."
SAMPLING = Sampling(max_new_tokens=12, temperature=0.8, samples_per_prompt=2, noise_seed=3)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(policy: Policy, lengths: tuple[int, ...], **options: Any) -> np.ndarray:
    population = Population(np.random.default_rng(0).normal(size=(3, policy.space.dim)))
    examples = [Example(id=f"row {i}", prompt=TEXT[i : i + length]) for i, length in enumerate(lengths)]
    with TransformersEngine(policy, **options) as engine:
        return generate(engine, population, [examples] * 3, SAMPLING).token_ids_NPS


@pytest.mark.parametrize("window", [None, 4, 50])
def test_the_cache_in_place_returns_what_the_growing_one_does(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evolign.engines.transformers.kv_cache.GROWTH", 2)  # so that it grows on the way
    config = SimpleNamespace(
        get_text_config=lambda decoder: SimpleNamespace(
            layer_types=["full_attention" if window is None else "sliding_attention"] * 2,
            per_layer_config=[SimpleNamespace(sliding_window=window)] * 2,
        )
    )
    ours, theirs = in_place_cache(config), DynamicCache(config=config)
    rows = torch.arange(6)
    for step, new in enumerate((7, 1, 1, 3, 1, 1)):
        if step in (2, 4):  # rows end
            kept = torch.tensor([0, 2, 3, 5] if step == 2 else [1, 3])
            rows = rows[kept]
            ours.batch_select_indices(kept)
            theirs.batch_select_indices(kept)
        assert ours.get_mask_sizes(new, 0) == theirs.get_mask_sizes(new, 0)
        for layer in (0, 1):
            states = [random(6, 2, new, 5, seed=100 * step + 10 * layer + i)[rows] for i in (0, 1)]
            found, expected = ours.update(*states, layer), theirs.update(*states, layer)
            assert all(torch.equal(left, right) for left, right in zip(found, expected, strict=True))
        assert ours.get_seq_length() == theirs.get_seq_length()


@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize("masked", [False, True])
def test_decoding_attention_is_attention(heads: int, masked: bool) -> None:
    query, key, value = random(3, heads, 1, 8), random(3, 2, 8, 9).transpose(2, 3), random(3, 2, 9, 8, seed=1)
    mask = (torch.arange(9) >= torch.tensor([0, 2, 8])[:, None])[:, None, None] if masked else None
    module = SimpleNamespace(num_key_value_groups=heads // 2, is_causal=True)
    expected = scaled_dot_product_attention(
        query, key.repeat_interleave(heads // 2, 1), value.repeat_interleave(heads // 2, 1), mask, scale=0.3
    )
    found, _ = attend(module, query, key, value, mask, scaling=0.3)
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_large_layers_go_through_one_dnn_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, last = nn.Linear(512, 600), nn.Linear(600, 512, bias=False), nn.Linear(512, 4)
    model = nn.Sequential(first, nn.ReLU(), second, last)
    model.requires_grad_(False)
    with torch.inference_mode():
        for rows in (1, one_dnn.SMALLEST_ROWS, 130):
            x = random(rows, 512)
            plain = linear(linear(linear(x, first.weight, first.bias).relu(), second.weight), last.weight)
            patched = one_dnn.OneDnnLinear(model)
            found = model(x) - last.bias
            changed = ["forward" in vars(module) for module in model]
            patched.remove()
            assert changed in ([True, False, True, False], [False] * 4)  # the latter without oneDNN
            assert not any("forward" in vars(module) for module in model)
            torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(one_dnn, "_available", lambda: False)
    one_dnn.OneDnnLinear(model)
    assert not any("forward" in vars(module) for module in model)


def test_tokens_are_the_same_with_and_without_every_faster_path(
    architecture: str, policy: Callable[..., Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of one length go without a mask, rows of several with one; and each again the plain way."""
    chosen = policy(architecture, "all-linear")
    lengths = (9, 9, 9, 4, 17)
    monkeypatch.setattr(one_dnn, "SMALLEST_MATRIX", 1)
    monkeypatch.setattr(one_dnn, "SMALLEST_ROWS", 1)
    together, equal = tokens(chosen, lengths), tokens(chosen, lengths[:3])
    alone = tokens(chosen, lengths, micro_batch_size=1)
    assert (together == alone).all()
    assert (together[:, :3] == equal).all()
    assert len(set(together.flat)) > 0.8 * together.size

    monkeypatch.setattr(one_dnn, "_available", lambda: False)
    monkeypatch.setattr("evolign.engines.transformers.attention.NAME", "sdpa")
    monkeypatch.setattr("transformers.AttentionInterface.register", lambda *args: None)
    monkeypatch.setattr("transformers.AttentionMaskInterface.register", lambda *args: None)
    monkeypatch.setattr(decoding, "in_place_cache", lambda config: DynamicCache(config=config))
    monkeypatch.setattr(ScaledLora, "_notice", lambda self, layer, x: None)  # no layers stacked
    assert (tokens(chosen, lengths) == together).all()


def test_readings_in_parts_are_readings_at_once(
    architecture: str, policy: Callable[..., Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of candidates that differ, after prompts of several lengths, with labels of several lengths."""
    chosen = policy(architecture, "all-linear")
    model: Any = chosen.base.model
    examples = [Example(id=f"row {i}", prompt=TEXT[i : i + length]) for i, length in enumerate((9, 4, 17))]
    population = Population(np.random.default_rng(0).normal(size=(2, chosen.space.dim)))
    readings = [0, 1, 0, 1, 0, 0], [*examples, *examples], [(5,), (6, 7, 8, 9), (8, 9), (3, 4, 5), (9,), (7,)]
    sizes: list[int] = []

    def size(module: Any, given: Any, output: Any) -> None:
        sizes.append(output.logits.numel())

    monkeypatch.setattr(log_probs, "LOGITS_AT_ONCE", len(readings[0]) * 4 * 64)
    with TransformersEngine(chosen) as engine, model.register_forward_hook(size):
        at_once_MT = logprobs(engine, population, *readings)
        assert max(sizes) == 6 * 3 * 64
        monkeypatch.setattr(log_probs, "LOGITS_AT_ONCE", 5 * 64)
        sizes.clear()
        in_parts_MT = logprobs(engine, population, *readings)
    assert sizes[-3:] == [5 * 64, 5 * 64, 2 * 64] and max(sizes) == 5 * 64
    np.testing.assert_allclose(in_parts_MT, at_once_MT, atol=1e-5)
    assert (in_parts_MT == 0).sum() == 12


def test_what_a_reading_needs_does_not_grow_with_the_vocabulary_without_end(
    policy: Callable[..., Policy],
) -> None:
    model: Any = copy.copy(policy("llama").base.model)
    needs = []
    for size in (64, 50_000, 500_000):
        model.config = copy.copy(model.config)
        model.config.vocab_size = size
        needs.append(bytes_per_reading(model, 64, 40))
    assert needs[1] - needs[0] < 12 * LOGITS_AT_ONCE / MOST_READINGS_ON_CPU and needs[2] == needs[1]


def test_what_is_written_and_read_is_counted_to_the_last_token(policy: Callable[..., Policy]) -> None:
    """Rows end early, and a writing ends in several micro-batches."""
    progress = Watched()
    chosen = policy("llama")
    written = tokens(chosen, (9, 4, 17, 9), micro_batch_size=5, progress=progress)
    with TransformersEngine(chosen, progress=progress, micro_batch_size=2) as engine:
        read = [(3, 4), (5, 6, 7), (8,)]
        logprobs(engine, Population.of_mean(), [0] * 3, [Example("a", "1+")] * 3, read)
    writing, reading = progress.phases
    assert writing.name == "writing" and writing.done == writing.total == sum(map(len, written.flat))
    assert writing.done < written.size * SAMPLING.max_new_tokens
    assert reading.name == "reading" and reading.done == reading.total == 6


def test_layers_that_read_the_same_tensor_are_stacked_and_add_the_same() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.o = nn.Linear(6, 4), nn.Linear(6, 6), nn.Linear(6, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.o(self.q(x).repeat(1, 1, 2)[..., :6] + self.k(x))
            return output

    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        model = Model()
        ranks = {"q": 2, "k": 3, "o": 2}
        factors = [
            SharedFactors(
                name,
                random(6, rank),
                random(rank, rank),
                random(getattr(model, name).out_features, rank),
                2.0,
            )
            for name, rank in ranks.items()
        ]
        lora = ScaledLora(model, factors)
        a_NK, b_NK, candidate_B = random(3, 7), random(3, 7, seed=1), torch.tensor([2, 0, 0, 1])
        lora.set_population(a_NK, b_NK)
        lora.select(candidate_B)
        x_BTI = random(4, 5, 6)
        first, second, one_token = model(x_BTI), model(x_BTI), model(x_BTI[:, :1])
        groups = sorted(len(group._ranks) for group in lora._groups)
        lora.remove()
        assert groups == [1, 2]

        def updated(name: str, x: torch.Tensor) -> torch.Tensor:
            layer = next(factor for factor in factors if factor.name == name)
            begin = {"q": 0, "k": 2, "o": 5}[name]
            part = slice(begin, begin + ranks[name])
            a, b = a_NK[candidate_B][:, None, part], b_NK[candidate_B][:, None, part]
            plain: torch.Tensor = getattr(model, name)(x)
            return plain + 2.0 * ((((x @ layer.V_A) * a) @ layer.Q.T) * b) @ layer.U_B.T

        inner = updated("q", x_BTI).repeat(1, 1, 2)[..., :6] + updated("k", x_BTI)
        expected = updated("o", inner)
        for found in (first, second):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one_token, expected[:, :1], rtol=1e-4, atol=1e-4)


def test_rows_that_share_a_key_choose_as_each_would_alone() -> None:
    key_B, logits_BV = torch.tensor([7, -3, 7, 7, 12]), random(5, 40)
    together = Noise(key_B, 0.9)
    assert torch.equal(together.choose(logits_BV, 4), (logits_BV / 0.9 + gumbel(key_B, 4, 40)).argmax(-1))
    some = torch.tensor([1, 3])
    expected = (logits_BV[some] / 0.9 + gumbel(key_B[some], 4, 40)).argmax(-1)
    assert torch.equal(together.of_rows(some).choose(logits_BV[some], 4), expected)
