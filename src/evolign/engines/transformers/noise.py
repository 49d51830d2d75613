"""Sampling noise that is a pure function of what it is for: common random numbers.

A token is drawn by the Gumbel-max trick, argmax(logits / temperature + gumbel). The Gumbel variable of
vocabulary entry v is a hash of (row key, position, v), so candidates that see the same prompt meet the same
noise, and neither batch layout nor worker nor device changes it.
"""

import torch
from torch import Tensor

# SplitMix64 (Steele, Lea and Flood 2014), as signed 64-bit integers; arithmetic wraps.
GOLDEN = -7046029254386353131
MIX_1 = -4658895280553007687
MIX_2 = -7723592293110705685


class Noise:
    """How the rows of a micro-batch choose their tokens: greedily at temperature 0, else by their noise.

    Candidates that share a prompt share its noise, which is therefore made once for each distinct key.
    """

    def __init__(self, key_B: Tensor, temperature: float) -> None:
        self._key_B, self._temperature = key_B, temperature
        self._distinct_U, self._which_B = key_B.unique(return_inverse=True)

    def choose(self, logits_BV: Tensor, position: int) -> Tensor:
        """The token of every row at `position`, shape (B,)."""
        if self._temperature == 0:
            return logits_BV.argmax(-1)
        noise_UV = gumbel(self._distinct_U, position, logits_BV.shape[-1])
        return (logits_BV.float() / self._temperature).add_(noise_UV[self._which_B]).argmax(-1)

    def of_rows(self, row_B: Tensor) -> "Noise":
        """The noise of some of the rows."""
        return Noise(self._key_B[row_B], self._temperature)


def gumbel(key_B: Tensor, position: int, vocabulary: int) -> Tensor:
    """Standard Gumbel noise, float32, shape (B, V), for int64 keys of shape (B,)."""
    entry_V = torch.arange(vocabulary, device=key_B.device)
    row_B = _mix(key_B + torch.full_like(key_B, position) * GOLDEN)
    bits_BV = _mix(row_B[:, None] + (entry_V + 1) * GOLDEN)
    # 40 bits, finest near 0, where likely winners come from; below 1 even after rounding to float32
    uniform_BV = (_shift(bits_BV, 24) + 0.5) * (2.0**-40 * (1 - 2.0**-24))
    return -torch.log(-torch.log1p(-uniform_BV))


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * MIX_1
    x = (x ^ _shift(x, 27)) * MIX_2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of 64-bit integers (torch's own is arithmetic)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
