"""Sampling follows the softmax, and its noise depends on nothing but what it is for.

The keys are fixed, so every test gives the same answer for ever; the stated probability is that of a false
alarm if the keys were drawn anew.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from evolign.engines.transformers.noise import Noise, gumbel
from evolign.seeding import key

DRAWS = 200_000
LOGITS = torch.tensor(
    [3.0, 2.5, 2.0, 2.0, 1.0, 0.5, 0.0, 0.0, -0.5, -1.0, -1.0, -2.0, -2.5, -3.0, -4.0, -5.0]
)
EXTREME = (-(2**63), -(2**63) + 1, -1, 0, 1, 2**62, 2**63 - 2, 2**63 - 1)
EULER = 0.5772156649015329


def keys(count: int, seed: int = 0) -> Tensor:
    """Keys as the engine makes them: hashes, here through a generator for speed."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 2**63 - 1, count))


def noise(count: int, *, position: int = 0, vocabulary: int = 1, seed: int = 0) -> Tensor:
    return gumbel(keys(count, seed), position, vocabulary)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("position", [0, 7])
def test_sampling_follows_the_softmax(temperature: float, position: int) -> None:
    tokens = Noise(keys(DRAWS), temperature).choose(LOGITS.expand(DRAWS, -1), position)
    expected = DRAWS * torch.softmax(LOGITS.double() / temperature, 0)
    # the rarest cells are joined until they hold 5 expected draws: chi-square needs that much
    common = expected >= 5
    counts = torch.bincount(tokens, minlength=16).double()
    observed_K = torch.cat([counts[common], counts[~common].sum()[None]])
    expected_K = torch.cat([expected[common], expected[~common].sum()[None]])
    observed_K, expected_K = observed_K[expected_K > 0], expected_K[expected_K > 0]
    chi_square = ((observed_K - expected_K) ** 2 / expected_K).sum()
    # Wilson and Hilferty: a chi-square exceeds this with probability 1e-6 (4.75 standard errors)
    freedom = len(expected_K) - 1
    limit = freedom * (1 - 2 / (9 * freedom) + 4.753 * math.sqrt(2 / (9 * freedom))) ** 3
    assert freedom >= 12 and chi_square < limit


def test_sampling_is_not_greedy_and_temperature_zero_is() -> None:
    tokens = Noise(keys(1000), 1.0).choose(LOGITS.expand(1000, -1), 0)
    assert len(tokens.unique()) >= 10
    assert Noise(keys(1000), 0.0).choose(LOGITS.expand(1000, -1), 0).eq(0).all()


def test_noise_has_the_gumbel_distribution() -> None:
    count = 1_000_000
    sample = noise(count // 10, vocabulary=10).flatten().double()
    mean, variance = sample.mean(), sample.var()
    sigma_2 = math.pi**2 / 6
    # 5 standard errors, 6e-7 each; a Gumbel's fourth central moment is 5.4 sigma^4
    assert abs(mean - EULER) < 5 * math.sqrt(sigma_2 / count)
    assert abs(variance - sigma_2) < 5 * sigma_2 * math.sqrt(4.4 / count)
    ordered = sample.sort().values
    distance = (torch.exp(-torch.exp(-ordered)) - torch.arange(1, count + 1) / count).abs().max()
    assert distance < 2.7 / math.sqrt(count)  # Kolmogorov and Smirnov: 2 exp(-2 * 2.7^2) = 9e-7


def test_sixteen_million_values_are_finite_and_reach_into_both_tails() -> None:
    for part in range(16):
        sample = noise(1000, vocabulary=1000, seed=part)
        assert -3.0 < sample.min() < -2.0  # a million: P(all above -2) = (1 - exp(-e^2))^1e6 < e^-600
        assert 10.0 < sample.max() < 29.0  # P(all below 10) = exp(-1e6 e^-10) = e^-45


@pytest.mark.parametrize("bits", [0, -1, -(2**63), 2**63 - 1, (1 << 40) - 1, -(1 << 24)])
def test_noise_is_finite_at_both_ends_of_the_range(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An infinite value would choose its token against any logits."""
    monkeypatch.setattr("evolign.engines.transformers.noise._mix", lambda x: torch.full_like(x, bits))
    assert gumbel(torch.tensor([1]), 0, 3).isfinite().all()


def correlation(x: Tensor, y: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([x.flatten(), y.flatten()]).double())[0, 1])


BOUND = 5 / math.sqrt(DRAWS)
"""Five standard errors of a correlation of independent draws: a false alarm in 6e-7 of cases each."""


def test_noise_of_different_positions_is_independent() -> None:
    first = noise(DRAWS)
    for position in (1, 2, 3, 64, 1000):
        assert abs(correlation(first, noise(DRAWS, position=position))) < BOUND


def test_noise_of_different_vocabulary_entries_is_independent() -> None:
    sample_BV = noise(DRAWS, vocabulary=9)
    off_diagonal = torch.corrcoef(sample_BV.T.double()).fill_diagonal_(0).abs()
    assert off_diagonal.max() < BOUND
    shifted = correlation(noise(DRAWS, vocabulary=2)[:, 1], noise(DRAWS, position=1)[:, 0])
    assert abs(shifted) < BOUND


def test_noise_of_neighbouring_keys_is_independent() -> None:
    consecutive = torch.arange(DRAWS)
    sample = gumbel(consecutive, 0, 1)
    assert abs(correlation(sample[:-1], sample[1:])) < BOUND
    for bit in range(0, 63, 7):
        flipped = gumbel(consecutive ^ (1 << bit), 0, 1)
        assert abs(correlation(sample, flipped)) < BOUND, bit


def test_large_values_do_not_come_together_either() -> None:
    """Correlation is blind to the tails that decide an argmax, so exceedances are counted as well."""
    here, there = noise(DRAWS, vocabulary=2).unbind(1)
    later = noise(DRAWS, position=1)[:, 0]
    threshold = -math.log(-math.log(0.99))
    for other in (there, later):
        both = int(((here > threshold) & (other > threshold)).sum())
        expected = DRAWS * 0.01**2
        assert abs(both - expected) < 5.2 * math.sqrt(expected)  # Poisson with mean 20: 2e-6


def test_noise_does_not_depend_on_the_batch_or_the_size_of_the_vocabulary() -> None:
    some = torch.cat([keys(37), torch.tensor(EXTREME)])
    whole = gumbel(some, 5, 101)
    order = torch.randperm(len(some), generator=torch.Generator().manual_seed(0))
    assert torch.equal(gumbel(some[order], 5, 101), whole[order])
    for row in (0, 13, 40, 44):
        assert torch.equal(gumbel(some[row : row + 1], 5, 101)[0], whole[row])
    for size in (1, 2, 7, 100):
        assert torch.equal(gumbel(some, 5, size), whole[:, :size])


def split_mix(x: int) -> int:
    """The finaliser of SplitMix64 in Python's unbounded integers."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


@pytest.mark.parametrize("row_key", [*EXTREME, key(0, "token", "a", 0)])
@pytest.mark.parametrize("position", [0, 1, 4095, 2**31])
def test_64_bit_arithmetic_wraps_as_in_the_published_generator(row_key: int, position: int) -> None:
    golden = 0x9E3779B97F4A7C15
    row = split_mix((row_key + position * golden) % 2**64)
    bits = [split_mix((row + (v + 1) * golden) % 2**64) >> 24 for v in range(6)]
    expected = [-math.log(-math.log1p(-(b + 0.5) / 2**40)) for b in bits]
    found = gumbel(torch.tensor([row_key]), position, 6)[0].tolist()
    # float32 keeps 24 bits of a uniform number near 1, where the noise is lowest and steepest
    assert found == pytest.approx(expected, abs=1e-4)
