"""What must not change a loss does not: order, padding, responses that do not count. Following one pays."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from evolign.trainers.losses import OBJECTIVES
from evolign.trainers.ppo_losses import gae, policy_loss, token_rewards, whiten

P, J, T = 4, 5, 6
RELATIVE = ["eso", "unlikelihood", "rrhf"]
"""Those that compare a response with its siblings."""
every_objective = pytest.mark.parametrize("name", OBJECTIVES)
both_reductions = pytest.mark.parametrize("how", ["sum", "mean"])


class Batch:
    """Random responses of random lengths, all rewards different; every field may be set."""

    def __init__(self, **fields: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        options: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
        self.logprob = -3 * torch.rand(P, J, T, **options)
        length = torch.randint(1, T + 1, (P, J), generator=generator)
        self.mask = torch.arange(T) < length[:, :, None]
        self.reward = torch.randperm(P * J, generator=generator).reshape(P, J).double() / 7
        self.baseline = torch.rand(P, **options)
        vars(self).update(fields)

    def loss(self, name: str, how: Any = "sum", **fields: Tensor) -> Tensor:
        it = {**vars(self), **fields}
        return OBJECTIVES[name].loss(
            it["logprob"], it["reward"], it["mask"], baseline_P=it["baseline"], log_probability=how
        )

    def gradient(self, name: str, how: Any = "sum", **fields: Tensor) -> Tensor:
        logprob = fields.pop("logprob", self.logprob).clone().requires_grad_()
        [found] = torch.autograd.grad(self.loss(name, how, logprob=logprob, **fields), logprob)
        return found


def same(found: Tensor, expected: Tensor | float) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=1e-10, atol=1e-12)


@every_objective
@both_reductions
def test_the_gradient_is_right(name: str, how: str) -> None:
    batch = Batch()
    assert batch.gradient(name, how).abs().max() > 1e-3
    assert torch.autograd.gradcheck(
        lambda logprob: batch.loss(name, how, logprob=logprob), batch.logprob.requires_grad_()
    )


@every_objective
@both_reductions
def test_adding_a_constant_to_all_rewards_changes_nothing(name: str, how: str) -> None:
    batch = Batch()
    moved = batch.loss(name, how, reward=batch.reward + 1000, baseline=batch.baseline + 1000)
    same(moved, batch.loss(name, how))


@pytest.mark.parametrize(
    ("name", "factor"), [("eso", 3), ("self_critical", 3), ("unlikelihood", 1), ("rrhf", 1)]
)
def test_scaling_the_rewards_scales_the_loss_or_leaves_it_where_only_order_counts(
    name: str, factor: int
) -> None:
    batch = Batch()
    scaled = batch.loss(name, reward=3 * batch.reward, baseline=3 * batch.baseline)
    same(scaled, factor * batch.loss(name))


@pytest.mark.parametrize(
    ("name", "factor"), [("eso", 2), ("self_critical", 1), ("unlikelihood", 1), ("rrhf", 4)]
)
def test_giving_every_response_twice_tells_sums_from_means(name: str, factor: int) -> None:
    batch = Batch()
    twice = {field: getattr(batch, field).repeat_interleave(2, 1) for field in ("logprob", "reward", "mask")}
    same(batch.loss(name, **twice), factor * batch.loss(name))


@every_objective
def test_the_order_of_responses_does_not_matter(name: str) -> None:
    batch, order = Batch(), torch.tensor([3, 1, 4, 0, 2])
    turned = {field: getattr(batch, field)[:, order] for field in ("logprob", "reward", "mask")}
    same(batch.loss(name, **turned), batch.loss(name))
    same(batch.gradient(name, **turned), batch.gradient(name)[:, order])


@every_objective
def test_a_batch_s_loss_is_the_mean_of_its_prompts(name: str) -> None:
    batch = Batch()
    alone = [batch.loss(name, **{f: x[p : p + 1] for f, x in vars(batch).items()}) for p in range(P)]
    same(batch.loss(name), torch.stack(alone).mean())


@every_objective
@both_reductions
@pytest.mark.parametrize("rubbish", [0.0, -math.inf, math.nan, 7.0])
def test_padding_does_not_matter_whatever_it_holds(name: str, how: str, rubbish: float) -> None:
    batch, more = Batch(), 3
    logprob = pad(batch.logprob.masked_fill(~batch.mask, rubbish), (0, more), value=rubbish)
    mask = pad(batch.mask, (0, more))
    same(batch.loss(name, how, logprob=logprob, mask=mask), batch.loss(name, how))
    gradient = batch.gradient(name, how, logprob=logprob, mask=mask)
    same(gradient[:, :, :T], batch.gradient(name, how))
    assert (gradient[~mask] == 0).all()


@every_objective
def test_the_mask_may_be_of_numbers(name: str) -> None:
    batch = Batch()
    same(batch.loss(name, mask=batch.mask.float()), batch.loss(name))
    same(batch.loss(name, mask=batch.mask.long()), batch.loss(name))


@every_objective
@both_reductions
@pytest.mark.parametrize("why", ["its reward does not apply", "it has no tokens"])
def test_a_response_is_left_out_as_if_it_had_not_been_sampled(name: str, how: str, why: str) -> None:
    batch = Batch()
    reward, mask, others = batch.reward.clone(), batch.mask.clone(), [0, 1, 3, 4]
    if why == "it has no tokens":
        mask[:, 2] = False
    else:
        reward[:, 2] = math.nan
    dropped = {field: getattr(batch, field)[:, others] for field in ("logprob", "reward", "mask")}
    same(batch.loss(name, how, reward=reward, mask=mask), batch.loss(name, how, **dropped))
    gradient = batch.gradient(name, how, reward=reward, mask=mask)
    same(gradient[:, others], batch.gradient(name, how, **dropped))
    assert (gradient[:, 2] == 0).all()


@pytest.mark.parametrize("name", RELATIVE)
@pytest.mark.parametrize(("kind", "reward"), [(torch.float32, 0.9), (torch.float64, 0.1)])
def test_equal_rewards_give_exactly_zero(name: str, kind: torch.dtype, reward: float) -> None:
    equal = torch.full((P, 3), reward, dtype=kind)
    assert (equal.sum(1) / 3 != equal[:, 0]).all(), "the mean, rounded, is another number"
    batch = Batch()
    three = {"logprob": batch.logprob[:, :3], "mask": batch.mask[:, :3], "reward": equal}
    assert batch.loss(name, **three) == 0
    assert (batch.gradient(name, **three) == 0).all()


@pytest.mark.parametrize("name", RELATIVE)
def test_one_response_gives_exactly_zero(name: str) -> None:
    batch = Batch()
    alone = {field: getattr(batch, field)[:, :1] for field in ("logprob", "reward", "mask")}
    assert batch.loss(name, **alone) == 0
    assert (batch.gradient(name, **alone) == 0).all()


@every_objective
def test_a_prompt_whose_rewards_do_not_apply_adds_zero_and_counts_in_the_mean(name: str) -> None:
    batch = Batch()
    reward = batch.reward.clone()
    reward[1:] = math.nan
    first = {field: x[:1] for field, x in vars(batch).items()}
    same(batch.loss(name, reward=reward), batch.loss(name, **first) / P)
    assert (batch.gradient(name, reward=reward)[1:] == 0).all()


def test_self_critical_is_zero_where_responses_are_as_good_as_the_greedy_one_or_that_has_no_reward() -> None:
    batch = Batch()
    equal = batch.baseline[:, None].expand(P, J)
    assert batch.loss("self_critical", reward=equal) == 0
    missing = batch.baseline.clone()
    missing[2] = math.nan
    gradient = batch.gradient("self_critical", baseline=missing)
    assert (gradient[2] == 0).all()
    same(gradient[[0, 1, 3]], batch.gradient("self_critical")[[0, 1, 3]])


def test_self_critical_says_that_it_needs_a_baseline() -> None:
    batch = Batch()
    with pytest.raises(
        ValueError, match="baseline_P is None; give the reward of each prompt's greedy response"
    ):
        OBJECTIVES["self_critical"].loss(batch.logprob, batch.reward, batch.mask)


@pytest.mark.parametrize("name", RELATIVE)
def test_the_others_do_not_look_at_the_baseline(name: str) -> None:
    batch = Batch()
    same(batch.loss(name, baseline=batch.baseline * math.nan), batch.loss(name))


@every_objective
def test_no_gradient_flows_into_rewards(name: str) -> None:
    batch = Batch()
    reward, baseline = batch.reward.requires_grad_(), batch.baseline.requires_grad_()
    logprob = batch.logprob.requires_grad_()
    batch.loss(name).backward()
    assert logprob.grad is not None and reward.grad is None and baseline.grad is None


@every_objective
@both_reductions
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_extreme_log_probabilities_have_finite_losses_and_gradients(name: str, how: str, kind: Any) -> None:
    extreme = torch.tensor([0.0, -1e-12, -1e-7, -1e-3, -100.0, -1e4]).repeat(P, J, 1).to(kind)
    batch = Batch(logprob=extreme, mask=torch.ones(P, J, T, dtype=torch.bool))
    assert batch.loss(name, how).isfinite()
    assert batch.gradient(name, how).isfinite().all()


def test_a_step_against_unlikelihood_moves_logits_by_no_more_than_the_probability() -> None:
    """-log(1 - p) goes to infinity with p, its gradient by the token's logit is p: at most 1."""
    for p in (1e-6, 0.1, 0.9, 0.999, 1 - 1e-5):
        logit = torch.tensor([math.log(p) - math.log1p(-p), 0.0], dtype=torch.float64, requires_grad=True)
        logprob = torch.stack([logit.log_softmax(0)[0], torch.tensor(-1.0)]).reshape(1, 2, 1)
        loss = OBJECTIVES["unlikelihood"].loss(logprob, torch.tensor([[0.0, 1.0]]), torch.ones(1, 2, 1))
        loss.backward()
        assert loss.item() == pytest.approx(-math.log1p(-p), rel=1e-9)
        assert logit.grad is not None and logit.grad[0].item() == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize("logprob", [-2e-6, -1e-5, -1e-3, -0.69, -0.7, -5.0, -30.0, -80.0])
def test_unlikelihood_keeps_its_digits_in_float32(logprob: float) -> None:
    given = torch.tensor([logprob, -1.0]).reshape(1, 2, 1)
    loss = OBJECTIVES["unlikelihood"].loss(given, torch.tensor([[0.0, 1.0]]), torch.ones(1, 2, 1))
    exact = -math.log1p(-math.exp(logprob)) if logprob < -0.7 else -math.log(-math.expm1(logprob))
    assert loss.item() == pytest.approx(exact, rel=3e-7, abs=0)


ARM_REWARD = torch.tensor([0.0, 0.5, 1.0])


@pytest.mark.parametrize("name", [*OBJECTIVES, "ppo"])
def test_following_the_loss_pays_on_a_bandit_with_three_arms(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    logit = torch.tensor([1.0, 0.0, -1.0], requires_grad=True)  # the worst arm is the likeliest
    start = logit.detach().softmax(0)
    for _ in range(150):
        p = logit.detach().softmax(0)
        arm = torch.multinomial(p, 8 * 4, replacement=True, generator=generator).reshape(8, 4)
        logprob, reward, mask = logit.log_softmax(0)[arm][:, :, None], ARM_REWARD[arm], torch.ones(8, 4, 1)
        if name == "ppo":
            flat = logprob.reshape(32, 1)
            ones = torch.ones(32, 1)
            given = token_rewards(reward.flatten(), flat, flat, ones, 0.1)
            advantage, _ = gae(given, (p @ ARM_REWARD).expand(32, 1), ones, 1.0, 0.95)
            loss, _ = policy_loss(flat, flat.detach(), whiten(advantage, ones), ones, 0.2)
        else:
            baseline = ARM_REWARD[p.argmax()].expand(8)
            loss = OBJECTIVES[name].loss(logprob, reward, mask, baseline_P=baseline)
        loss.backward()
        with torch.no_grad():
            assert logit.grad is not None
            logit -= 0.1 * logit.grad
            logit.grad = None
    end = logit.detach().softmax(0)
    assert end @ ARM_REWARD > start @ ARM_REWARD + 0.2
    assert end[0] < start[0] / 2
