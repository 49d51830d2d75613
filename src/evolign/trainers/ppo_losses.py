"""Proximal policy optimisation on tokens: rewards, advantages, and the two clipped losses, as pure functions.

Schulman et al. 2017 (arXiv 1707.06347; the clipped ratio), Schulman et al. 2016 (arXiv 1506.02438;
generalised advantage estimation), Ziegler et al. 2019 (arXiv 1909.08593) and Stiennon et al. 2020 (arXiv
2009.01325) for language: a token is an action, the response an episode, its score comes with its last token.

Shapes: B responses, T tokens. `mask_BT`, bool or 0/1, is 1 for a response's tokens, the one that ends it
included; they need not start at the first position, and what the tensors hold elsewhere does not matter. A
response whose reward does not apply gets an empty mask from the caller: it then counts nowhere.
The end of a response is the end of its episode, also where the limit on tokens has cut it: V is 0 beyond it.
"""

import torch
from torch import Tensor

from evolign.metrics import LOG_RATIO_BOUND


@torch.no_grad()
def token_rewards(
    score_B: Tensor, logprob_BT: Tensor, reference_logprob_BT: Tensor, mask_BT: Tensor, kl_weight: float
) -> Tensor:
    """Reward of every token, shape (B, T), without gradient; 0 outside the mask.

        r_t = -kl_weight * (log pi(a_t) - log pi_ref(a_t)),  and score added at the last token

    Summed over tokens this is equation 2 of Ziegler et al. 2019, score - beta * log(pi / pi_ref).
    `logprob_BT` is of the policy that sampled. The KL is estimated by the plain log ratio, as there: it may
    be negative for a token. A response without tokens loses its score.
    """
    mask_BT = mask_BT.bool()
    penalty_BT = kl_weight * (logprob_BT - reference_logprob_BT)
    still_to_come_BT = mask_BT.flip(1).cumsum(1).flip(1)
    last_BT = mask_BT & (still_to_come_BT == 1)
    score_BT = score_B.to(logprob_BT.dtype)[:, None].expand_as(penalty_BT).masked_fill(~last_BT, 0)
    return score_BT - penalty_BT.masked_fill(~mask_BT, 0)


@torch.no_grad()
def gae(
    reward_BT: Tensor, value_BT: Tensor, mask_BT: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantages and returns, both (B, T), without gradient; 0 outside the mask.

        delta_t  = r_t + gamma * V_{t+1} - V_t
        A_t      = delta_t + gamma * gae_lambda * A_{t+1}    (equation 16 of Schulman et al. 2016)
        return_t = A_t + V_t                                 the value head's target

    `value_BT` holds V before each token. t + 1 is the response's next token; beyond the last one V and A
    are 0. `gae_lambda` 0 is equation 17, only delta_t; 1 is equation 18, the discounted rewards to come
    minus V_t.
    """
    mask_BT = mask_BT.bool()
    advantage_BT = torch.zeros_like(reward_BT)
    next_value_B = next_advantage_B = torch.zeros_like(reward_BT[:, 0])
    for t in reversed(range(reward_BT.shape[1])):
        inside_B = mask_BT[:, t]
        delta_B = reward_BT[:, t] + gamma * next_value_B - value_BT[:, t]
        next_advantage_B = torch.where(
            inside_B, delta_B + gamma * gae_lambda * next_advantage_B, next_advantage_B
        )
        next_value_B = torch.where(inside_B, value_BT[:, t], next_value_B)
        advantage_BT[:, t] = next_advantage_B
    return advantage_BT.masked_fill(~mask_BT, 0), (advantage_BT + value_BT).masked_fill(~mask_BT, 0)


@torch.no_grad()
def whiten(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Shift and scale to mean 0 and standard deviation 1 over all tokens of the batch; 0 outside the mask.

    (x - mean) / sqrt(variance + 1e-8), the variance with n - 1, as in TRL's PPO: a spread far below 1e-4 is
    not blown up. Fewer than two tokens, or equal values, give exactly 0.
    """
    mask_BT = mask_BT.bool()
    x_K = x_BT[mask_BT]
    if len(x_K) < 2 or x_K.min() == x_K.max():
        return torch.zeros_like(x_BT)
    return ((x_BT - x_K.mean()) / (x_K.var() + 1e-8).sqrt()).masked_fill(~mask_BT, 0)


def policy_loss(
    logprob_BT: Tensor, old_logprob_BT: Tensor, advantage_BT: Tensor, mask_BT: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """The clipped surrogate, to be minimised, and the share of tokens that the clip holds; scalars.

        rho_t = pi(a_t) / pi_old(a_t)
        L     = -mean_t min(rho_t A_t, clip(rho_t, 1 - clip, 1 + clip) A_t)

    Equation 7 of Schulman et al. 2017. The mean is over all tokens of all responses, so a long response
    weighs more than a short one. The share, without gradient, counts tokens whose ratio is beyond the clip
    on the side where it matters (too high with A > 0, too low with A < 0): these get no gradient. Both are
    0 if there are no tokens.
    """
    mask_BT = mask_BT.bool()
    log_ratio_K = logprob_BT[mask_BT] - old_logprob_BT[mask_BT].detach()
    ratio_K = log_ratio_K.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
    advantage_K = advantage_BT[mask_BT].detach()
    surrogate_K = ratio_K * advantage_K
    clipped_K = ratio_K.clamp(1 - clip, 1 + clip) * advantage_K
    held_K = (clipped_K < surrogate_K).to(ratio_K.dtype)
    return -_mean(torch.minimum(surrogate_K, clipped_K)), _mean(held_K).detach()


def value_loss(
    value_BT: Tensor, old_value_BT: Tensor, return_BT: Tensor, mask_BT: Tensor, value_clip: float
) -> Tensor:
    """The clipped squared error of the value head, to be minimised; a scalar, the mean over tokens.

        V' = V_old + clip(V - V_old, -value_clip, value_clip)
        L  = mean_t 1/2 max((V_t - return_t)^2, (V'_t - return_t)^2)

    Equation 9 of Schulman et al. 2017 has the plain square. The clip and the half are of OpenAI's and TRL's
    implementations, whose customary weights of this loss (0.1) go with them. 0 if there are no tokens.
    """
    mask_BT = mask_BT.bool()
    value_K, old_value_K, return_K = value_BT[mask_BT], old_value_BT[mask_BT], return_BT[mask_BT].detach()
    bounded_K = old_value_K.detach() + (value_K - old_value_K.detach()).clamp(-value_clip, value_clip)
    return _mean(torch.maximum((value_K - return_K) ** 2, (bounded_K - return_K) ** 2)) / 2


def _mean(x_K: Tensor) -> Tensor:
    """The mean; 0 with a gradient of 0 if there is nothing."""
    return x_K.sum() / max(len(x_K), 1)
