"""The losses on responses that the model itself sampled: ESO, and what its paper's tables compare it with.

Pure functions `(logprob_PJT, reward_PJ, mask_PJT, *, baseline_P, log_probability) -> loss`, one signature for
all, with P prompts, J responses of each, and T tokens.

- `logprob_PJT`, float32 or float64 with gradient: log pi(token | prompt, tokens before it).
- `reward_PJ`, float: of each response, the higher the better. NaN: the reward does not apply.
- `mask_PJT`, bool or 0/1: 1 for the tokens of the response, the one that ends it included.
- `baseline_P`, float: reward of each prompt's greedy response. Only `self_critical` reads it.
- `log_probability`: of a response, the sum over its tokens or their mean.

A response whose reward does not apply, or that has no tokens, is ignored, as if it had not
been sampled. The loss is a scalar, to be minimised, the mean over prompts. An uninformative prompt (for
`self_critical`: no response is left, or no baseline; for the others: fewer than two responses are left, or
their rewards are all equal) adds exactly 0 and still counts in that mean.
Rewards are constants: no gradient flows into them. Where they are compared with each other or with their
mean, what differs by rounding alone is equal.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Reduction = Literal["sum", "mean"]

CERTAINTY = 1e-6
"""Unlikelihood takes a token's probability for 1 - CERTAINTY at most, and does not push from beyond it."""


class Loss(Protocol):
    """The signature of the losses of this module; see the module."""

    def __call__(
        self,
        logprob_PJT: Tensor,
        reward_PJ: Tensor,
        mask_PJT: Tensor,
        *,
        baseline_P: Tensor | None = None,
        log_probability: Reduction = "sum",
    ) -> Tensor: ...


def eso(
    logprob_PJT: Tensor,
    reward_PJ: Tensor,
    mask_PJT: Tensor,
    *,
    baseline_P: Tensor | None = None,
    log_probability: Reduction = "sum",
) -> Tensor:
    """Evolution Strategy Optimization (Huang et al., COLING 2025), equation 10.

        L_eso(x) = sum_j (mean_i R(x, a_i) - R(x, a_j)) * log pi(a_j | x)

    Its gradient is equation 12, sum_j (mean R - R_j) * grad log pi(a_j | x): every response is a
    perturbation, its reward above the mean is the perturbation's fitness.

    As the equation has it: the mean is over the prompt's own responses, this one included, and nothing is
    divided by J; log pi(a_j | x) is the sum over tokens (`log_probability` "mean": divided by their number).
    The paper's "averaged" is that mean of rewards. Its released code agrees so far, but leaves out prompts
    whose mean reward is 0.1 or less and averages over the others; we take every prompt, as written.
    """
    kept_PJT = _kept(reward_PJ, mask_PJT)
    advantage_PJ = advantage(reward_PJ, kept_PJT.any(2)).to(logprob_PJT.dtype)
    return -(advantage_PJ * response_logprob(logprob_PJT, kept_PJT, log_probability)).sum(1).mean()


def unlikelihood(
    logprob_PJT: Tensor,
    reward_PJ: Tensor,
    mask_PJT: Tensor,
    *,
    baseline_P: Tensor | None = None,
    log_probability: Reduction = "sum",
) -> Tensor:
    """Sequence-level unlikelihood (Welleck et al., arXiv 1908.04319) of the bad responses.

        L(x) = mean over { j : R_j < mean R } of - sum_t log(1 - pi(a_jt | x, a_j<t))

    The paper's negatives are the tokens of repeated n-grams in what the model wrote. With a reward, ours: all
    tokens of the responses whose reward is below their prompt's mean. Ours, too: the mean over the negatives,
    so that the weight of the loss does not depend on their number. By how much a response is below the
    mean does not matter. `log_probability` "mean" averages -log(1 - p) over tokens.

    A token of probability above 1 - 1e-6 costs what one of 1 - 1e-6 costs, 13.8, and gets no gradient.
    """
    kept_PJT = _kept(reward_PJ, mask_PJT)
    negative_PJ = advantage(reward_PJ, kept_PJT.any(2)) < 0
    log_not_PJT = _log1mexp(logprob_PJT.clamp(max=math.log1p(-CERTAINTY)))
    log_not_PJ = response_logprob(log_not_PJT, kept_PJT, log_probability)
    total_P = log_not_PJ.masked_fill(~negative_PJ, 0).sum(1)
    return -(total_P / negative_PJ.sum(1).clamp(min=1)).mean()


def self_critical(
    logprob_PJT: Tensor,
    reward_PJ: Tensor,
    mask_PJT: Tensor,
    *,
    baseline_P: Tensor | None = None,
    log_probability: Reduction = "sum",
) -> Tensor:
    """Self-critical policy gradient (Paulus et al., arXiv 1705.04304, equation 15), DRL in the ESO paper.

        L(x) = mean_j (R(x, greedy) - R(x, a_j)) * sum_t log pi(a_jt | x, a_j<t)

    `baseline_P`, shape (P,), is R(x, greedy). The paper samples one response; we take the mean over J of
    them, so J = 1 is the paper's case. A prompt whose baseline is NaN adds 0.

    Raises ValueError without `baseline_P`.
    """
    if baseline_P is None:
        raise ValueError(
            "self_critical: baseline_P is None; give the reward of each prompt's greedy response"
        )
    kept_PJT = _kept(reward_PJ, mask_PJT)
    kept_PJ = kept_PJT.any(2)
    lead_PJ = baseline_P.detach()[:, None] - reward_PJ.detach()
    weight_PJ = lead_PJ.masked_fill(~kept_PJ | lead_PJ.isnan(), 0).to(logprob_PJT.dtype)
    total_P = (weight_PJ * response_logprob(logprob_PJT, kept_PJT, log_probability)).sum(1)
    return (total_P / kept_PJ.sum(1).clamp(min=1)).mean()


def rrhf(
    logprob_PJT: Tensor,
    reward_PJ: Tensor,
    mask_PJT: Tensor,
    *,
    baseline_P: Tensor | None = None,
    log_probability: Reduction = "mean",
) -> Tensor:
    """Ranking by reward: L_rank of RRHF (Yuan et al., arXiv 2304.05302, equation 2).

        L_rank(x) = sum over { (i, j) : R_i < R_j } of max(0, p_i - p_j)

    p_j is the log-probability per token (equation 1; `log_probability` "sum": of the whole response). Only
    the order of the rewards matters. No margin, and no division by the number of pairs, as in the paper.
    Its L_ft (equation 4), the likelihood of the best response, is not in here.
    """
    kept_PJT = _kept(reward_PJ, mask_PJT)
    kept_PJ = kept_PJT.any(2)
    p_PJ = response_logprob(logprob_PJT, kept_PJT, log_probability)
    ahead_PJJ = reward_PJ[:, None, :] - reward_PJ[:, :, None]
    worse_PJJ = (
        (ahead_PJJ > rounding(reward_PJ, kept_PJ)[:, :, None]) & kept_PJ[:, :, None] & kept_PJ[:, None, :]
    )
    violation_PJJ = (p_PJ[:, :, None] - p_PJ[:, None, :]).clamp(min=0)
    return violation_PJJ.masked_fill(~worse_PJJ, 0).sum((1, 2)).mean()


@dataclass(frozen=True)
class Objective:
    """A loss, and the responses that it needs beside the sampled ones."""

    loss: Loss
    wants_reference: bool = False
    """The reference completion is ranked among the responses, where every prompt of a batch has one."""
    wants_greedy: bool = False
    """The greedy response is scored as the baseline."""


OBJECTIVES = {
    "eso": Objective(eso),
    "unlikelihood": Objective(unlikelihood),
    "self_critical": Objective(self_critical, wants_greedy=True),
    "rrhf": Objective(rrhf, wants_reference=True),
}
"""By method name."""


def response_logprob(logprob_PJT: Tensor, mask_PJT: Tensor, how: Reduction) -> Tensor:
    """log pi(response | prompt), shape (P, J): its tokens' log-probabilities summed, or their mean.

    0 for a response without tokens. What `logprob_PJT` holds outside the mask does not matter.
    """
    mask_PJT = mask_PJT.bool()
    total_PJ = logprob_PJT.masked_fill(~mask_PJT, 0).sum(2)
    return total_PJ if how == "sum" else total_PJ / mask_PJT.sum(2).clamp(min=1)


def advantage(reward_PJ: Tensor, kept_PJ: Tensor) -> Tensor:
    """R_j - mean R over a prompt's responses that are kept, shape (P, J); 0 for the others.

    Exactly 0 where a reward is equal to the mean but for rounding, so also where all are equal.
    """
    lowest_P1 = reward_PJ.masked_fill(~kept_PJ, torch.inf).amin(1, keepdim=True)
    above_PJ = (reward_PJ - lowest_P1).masked_fill(~kept_PJ, 0).detach()
    mean_P1 = above_PJ.sum(1, keepdim=True) / kept_PJ.sum(1, keepdim=True).clamp(min=1)
    advantage_PJ = above_PJ - mean_P1
    equal_PJ = advantage_PJ.abs() <= rounding(reward_PJ, kept_PJ)
    return advantage_PJ.masked_fill(~kept_PJ | equal_PJ, 0)


def rounding(reward_PJ: Tensor, kept_PJ: Tensor) -> Tensor:
    """By how much rewards of a prompt, or their mean, may differ by rounding alone, shape (P, 1)."""
    largest_P1 = reward_PJ.detach().abs().masked_fill(~kept_PJ, 0).amax(1, keepdim=True)
    return (4 + reward_PJ.shape[1]) * torch.finfo(reward_PJ.dtype).eps * largest_P1


def _kept(reward_PJ: Tensor, mask_PJT: Tensor) -> Tensor:
    """Which tokens count, (P, J, T): those of the responses to which the reward applies."""
    return mask_PJT.bool() & ~reward_PJ.isnan()[:, :, None]


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0 without loss of digits at either end (Mächler 2012)."""
    return torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))
