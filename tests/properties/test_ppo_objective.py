"""PPO's advantages and losses: what lambda means, what does not count, and which tokens the clip holds."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from evolign.trainers.ppo_losses import gae, policy_loss, token_rewards, value_loss, whiten

B, T = 4, 6


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-10, atol=1e-12)


def rows() -> dict[str, Tensor]:
    """A batch for PPO's functions, by argument."""
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    length = torch.tensor([6, 1, 3, 4])
    return {
        "mask": torch.arange(T) < length[:, None],
        "score": normal(B),
        "reward": normal(B, T),
        "value": normal(B, T),
        "logprob": -normal(B, T).abs(),
        "old": -normal(B, T).abs(),
    }


def test_without_lambda_the_advantage_is_one_step_s_surprise() -> None:
    it = rows()
    advantage, _ = gae(it["reward"], it["value"], it["mask"], 0.9, 0.0)
    inside = it["value"].masked_fill(~it["mask"], 0)
    following = pad(inside[:, 1:], (0, 1))
    same(advantage, (it["reward"] + 0.9 * following - inside).masked_fill(~it["mask"], 0))


def test_with_lambda_1_the_return_is_the_discounted_reward_to_come_whatever_the_values() -> None:
    it = rows()
    to_come = torch.zeros(B, T, dtype=torch.float64)
    for b, t in it["mask"].nonzero().tolist():
        to_come[b, t] = sum(0.9 ** (s - t) * it["reward"][b, s] for s in range(t, int(it["mask"][b].sum())))
    advantage, target = gae(it["reward"], it["value"], it["mask"], 0.9, 1.0)
    same(target, to_come)
    same(advantage, (to_come - it["value"]).masked_fill(~it["mask"], 0))


def test_perfect_values_leave_no_advantage_at_any_lambda() -> None:
    it = rows()
    _, exact = gae(it["reward"], it["value"], it["mask"], 0.9, 1.0)
    for gae_lambda in (0.0, 0.5, 1.0):
        advantage, _ = gae(it["reward"], exact, it["mask"], 0.9, gae_lambda)
        same(advantage, torch.zeros(B, T))


@pytest.mark.parametrize("rubbish", [math.nan, math.inf, -math.inf, 1e9])
def test_ppo_ignores_positions_before_and_after_the_response(rubbish: float) -> None:
    def everything(it: dict[str, Tensor]) -> list[Tensor]:
        reward = token_rewards(it["score"], it["logprob"], it["old"], it["mask"], 0.3)
        advantage, target = gae(reward, it["value"], it["mask"], 0.9, 0.7)
        white = whiten(advantage, it["mask"])
        logprob, value = it["logprob"].clone().requires_grad_(), it["value"].clone().requires_grad_()
        loss, share = policy_loss(logprob, it["old"], white, it["mask"], 0.2)
        error = value_loss(value, it["old"], target, it["mask"], 0.2)
        (loss + error).backward()
        assert logprob.grad is not None and value.grad is not None
        return [loss, share, error, reward, advantage, target, white, logprob.grad, value.grad]

    it, before, after = rows(), 2, 3
    padded = {
        name: pad(x.masked_fill(~it["mask"], rubbish), (before, after), value=rubbish)
        for name, x in it.items()
        if name not in ("score", "mask")
    }
    mask = pad(it["mask"], (before, after))
    found = everything(padded | {"mask": mask, "score": it["score"]})
    for plain, moved in zip(everything(it), found, strict=True):
        if plain.ndim == 0:
            same(moved, plain)
        else:
            assert (moved[~mask] == 0).all()
            same(moved[mask], plain[it["mask"]])


def test_a_response_with_an_empty_mask_counts_nowhere_even_if_its_score_is_nan() -> None:
    it = rows()
    mask, score = it["mask"].clone(), it["score"].clone()
    mask[1], score[1] = False, math.nan
    others = [0, 2, 3]
    reward = token_rewards(score, it["logprob"], it["old"], mask, 0.3)
    assert (reward[1] == 0).all()
    advantage, _ = gae(reward, it["value"], mask, 0.9, 0.7)
    white = whiten(advantage, mask)
    same(white[others], whiten(advantage[others], mask[others]))
    loss, share = policy_loss(it["logprob"], it["old"], white, mask, 0.2)
    logprob, old, fewer, tokens = (x[others] for x in (it["logprob"], it["old"], white, mask))
    alone, alone_share = policy_loss(logprob, old, fewer, tokens, 0.2)
    same(loss, alone)
    same(share, alone_share)


def test_token_rewards_sum_to_the_score_minus_the_weighted_log_ratio() -> None:
    it = rows()
    reward = token_rewards(it["score"], it["logprob"], it["old"], it["mask"], 0.3)
    ratio = (it["logprob"] - it["old"]).masked_fill(~it["mask"], 0).sum(1)
    same(reward.sum(1), it["score"] - 0.3 * ratio)


def test_whitened_tokens_have_mean_0_and_deviation_1_wherever_they_came_from() -> None:
    it = rows()
    white = whiten(it["reward"], it["mask"])
    assert abs(white[it["mask"]].mean()) < 1e-12
    assert abs(white[it["mask"]].std() - 1) < 1e-6
    torch.testing.assert_close(whiten(5 * it["reward"] + 3, it["mask"]), white, rtol=1e-6, atol=1e-6)


def test_whitening_equal_values_or_one_or_none_gives_exactly_zero() -> None:
    equal = torch.full((B, T), 0.1)
    assert (whiten(equal, rows()["mask"]) == 0).all()
    one = torch.zeros(B, T, dtype=torch.bool)
    assert (whiten(rows()["reward"], one) == 0).all()
    one[2, 3] = True
    assert (whiten(rows()["reward"], one) == 0).all()


def test_at_the_policy_that_sampled_the_gradient_is_minus_the_advantage() -> None:
    it = rows()
    logprob = it["logprob"].clone().requires_grad_()
    loss, share = policy_loss(logprob, it["logprob"], it["reward"], it["mask"], 0.2)
    loss.backward()
    count = it["mask"].sum()
    same(loss, -it["reward"][it["mask"]].mean())
    assert logprob.grad is not None
    same(logprob.grad, (-it["reward"] / count).masked_fill(~it["mask"], 0))
    assert share == 0


def test_a_token_that_the_clip_holds_gets_no_gradient_and_one_that_must_come_back_does() -> None:
    ratio = torch.tensor([[1.5, 0.5, 1.5, 0.5]])
    advantage, mask = torch.tensor([[1.0, -1.0, -1.0, 1.0]]), torch.ones(1, 4)
    logprob = ratio.log().requires_grad_()
    loss, share = policy_loss(logprob, torch.zeros(1, 4), advantage, mask, 0.2)
    loss.backward()
    assert share == 0.5
    assert logprob.grad is not None
    assert (logprob.grad == 0).tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("gap", [-1e4, 1e4])
def test_a_ratio_beyond_all_bounds_leaves_loss_and_gradient_finite(gap: float) -> None:
    logprob = torch.full((1, 2), -1.0).requires_grad_()
    loss, _ = policy_loss(logprob, logprob.detach() - gap, torch.tensor([[1.0, -1.0]]), torch.ones(1, 2), 0.2)
    loss.backward()
    assert loss.isfinite()
    assert logprob.grad is not None and logprob.grad.isfinite().all()


def test_without_tokens_the_losses_are_zero_and_so_are_their_gradients() -> None:
    it = rows()
    nothing = torch.zeros(B, T)
    logprob, value = it["logprob"].clone().requires_grad_(), it["value"].clone().requires_grad_()
    loss, share = policy_loss(logprob, it["old"], it["reward"], nothing, 0.2)
    error = value_loss(value, it["old"], it["reward"], nothing, 0.2)
    (loss + error).backward()
    assert loss == share == error == 0
    assert logprob.grad is not None and value.grad is not None
    assert (logprob.grad == 0).all() and (value.grad == 0).all()


def test_values_that_moved_little_have_the_plain_squared_error() -> None:
    it = rows()
    plain = ((it["value"] - it["reward"])[it["mask"]] ** 2).mean() / 2
    old = it["value"] + 0.1 * torch.sign(it["reward"])
    same(value_loss(it["value"], old, it["reward"], it["mask"], 0.2), plain)
    assert value_loss(it["value"], it["old"], it["reward"], it["mask"], 0.2) > plain
