"""The losses against arithmetic done by hand, equation 12 of ESO without autograd, and TRL."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evolign.trainers.losses import Reduction, eso, rrhf, self_critical, unlikelihood
from evolign.trainers.ppo_losses import gae, policy_loss, token_rewards, value_loss, whiten

LOGPROB = [
    [[-0.5, -0.5], [-1.5, -0.5], [-4.0, -9.0]],
    [[-1.0, -3.0], [-2.0, -2.0], [-7.0, -7.0]],
]
"""Log-probabilities -1, -2 and -4 of prompt 1's responses: the last one has one token."""
MASK = [[[1, 1], [1, 1], [1, 0]], [[1, 1], [1, 1], [1, 1]]]
REWARD = [[1.0, 0.0, 0.5], [0.3, 0.3, 0.3]]
"""Prompt 2's rewards are all equal: where that adds 0, it still halves what prompt 1 gives."""


def tensors(*values: Any) -> list[Tensor]:
    return [torch.tensor(np.array(value), dtype=torch.float64) for value in values]


@pytest.mark.parametrize(("how", "loss"), [("sum", -0.25), ("mean", -0.125)])
def test_eso_is_what_equation_10_says(how: Reduction, loss: float) -> None:
    # mean R = 0.5.  sum: -0.5 * -1 + 0.5 * -2 + 0 * -4 = -0.5.  mean: -0.5 * -0.5 + 0.5 * -1 = -0.25.
    assert eso(*tensors(LOGPROB, REWARD, MASK), log_probability=how).item() == pytest.approx(loss)


@pytest.mark.parametrize(("how", "loss"), [("sum", math.log(64 / 3) / 2), ("mean", math.log(128 / 3) / 4)])
def test_unlikelihood_is_minus_log_of_1_minus_p_averaged_over_the_negatives(
    how: Reduction, loss: float
) -> None:
    # mean R = 2: responses 2 and 3 are negatives. -log(1 - p): log 2 of one token; log 4 and log 8/3 of two.
    # sum: (log 2 + log 32/3) / 2.  mean: (log 2 + log(32/3) / 2) / 2 = (log 4 + log 32/3) / 4.
    probability = [[[0.9, 0.9], [1 / 2, 1 / 4], [3 / 4, 5 / 8]]]
    mask = [[[1, 1], [1, 0], [1, 1]]]
    arguments = tensors(np.log(probability), [[6.0, 0.0, 0.0]], mask)
    assert unlikelihood(*arguments, log_probability=how).item() == pytest.approx(loss)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "reward", [(0.9, 0.3, 0.6), (0.6, 0.3, 0.9), (1000.9, 1000.3, 1000.6), (-0.6, -1.2, -0.9)]
)
def test_a_response_as_good_as_the_mean_is_no_negative_of_unlikelihood(
    reward: tuple[float, ...], kind: torch.dtype
) -> None:
    # Only the worst is a negative: -log(1 - 1/2).  The middle one, of -log(0.1), is none.
    middle = sorted(range(3), key=lambda j: reward[j])[1]
    probability = [0.9 if j == middle else 0.5 for j in range(3)]
    logprob, mask = torch.tensor(probability, dtype=kind).log()[None, :, None], torch.ones(1, 3, 1)
    found = unlikelihood(logprob, torch.tensor([reward], dtype=kind), mask)
    assert found.item() == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.parametrize(("how", "loss"), [("sum", -0.05 / 6), ("mean", -0.525 / 6)])
def test_self_critical_weighs_log_probability_by_what_the_greedy_response_is_ahead(
    how: Reduction, loss: float
) -> None:
    # Leads 0.75 - (1, 0, 0.5) = -0.25, 0.75, 0.25.  Prompt 2: 0.2 - 0.3 = -0.1 for each.
    # sum: (0.25 - 1.5 - 1) / 3 = -2.25 / 3;       prompt 2: 0.1 * (4 + 4 + 14) / 3 = 2.2 / 3.
    # mean: (0.125 - 0.75 - 1) / 3 = -1.625 / 3;   prompt 2: 0.1 * (2 + 2 + 7) / 3 = 1.1 / 3.
    arguments = tensors(LOGPROB, REWARD, MASK)
    [greedy_P] = tensors([0.75, 0.2])
    found = self_critical(*arguments, baseline_P=greedy_P, log_probability=how)
    assert found.item() == pytest.approx(loss)


@pytest.mark.parametrize(("how", "loss"), [("mean", 1.5), ("sum", 1.0)])
def test_rrhf_sums_by_how_much_a_worse_response_is_likelier(how: Reduction, loss: float) -> None:
    # Worse, better: (2, 1), (2, 3), (3, 1).  mean: p = -0.5, -1, -4, violated by (2, 3): -1 + 4 = 3.
    # sum: p = -1, -2, -4, violated by (2, 3): -2 + 4 = 2.
    assert rrhf(*tensors(LOGPROB, REWARD, MASK), log_probability=how).item() == pytest.approx(loss)


def test_rewards_that_differ_by_rounding_are_not_ranked() -> None:
    logprob, mask = torch.tensor([[[-1.0], [-2.0]]], dtype=torch.float64), torch.ones(1, 2, 1)
    assert rrhf(logprob, torch.tensor([[0.3, 0.1 + 0.2]], dtype=torch.float64), mask) == 0


def test_token_rewards_are_the_kl_penalty_and_the_score_at_the_last_token() -> None:
    logprob, reference = tensors(
        [[-1.0, -2.0, 5.0], [-1.0, -1.0, -3.0]], [[-1.5, -1.0, 6.0], [-1.0, -2.0, -2.0]]
    )
    score, mask = tensors([2.0, -1.0], [[1, 1, 0], [0, 1, 1]])
    # Row 1: -0.1 * 0.5;  -0.1 * -1 + 2.  Row 2, from its second position on: -0.1 * 1;  -0.1 * -1 - 1.
    expected = [[-0.05, 2.1, 0.0], [0.0, -0.1, -0.9]]
    np.testing.assert_allclose(token_rewards(score, logprob, reference, mask, 0.1), expected, atol=1e-15)


def test_gae_of_two_tokens_by_hand() -> None:
    reward, value, mask = tensors([[1.0, 2.0, 9.0]], [[0.5, 1.0, 9.0]], [[1, 1, 0]])
    # delta_2 = 2 - 1 = 1;  delta_1 = 1 + 0.5 * 1 - 0.5 = 1;  A_1 = 1 + 0.5 * 0.5 * 1 = 1.25.
    advantage, target = gae(reward, value, mask, gamma=0.5, gae_lambda=0.5)
    assert advantage.tolist() == [[1.25, 1.0, 0.0]]
    assert target.tolist() == [[1.75, 2.0, 0.0]]


def test_gae_is_the_discounted_sum_of_equation_16() -> None:
    rng = np.random.default_rng(0)
    reward_BT, value_BT = rng.normal(size=(2, 5, 8))
    mask_BT = rng.random((5, 8)) < 0.6
    expected_BT = np.zeros((5, 8))
    for b in range(5):
        inside = np.flatnonzero(mask_BT[b])
        v = [*value_BT[b, inside], 0.0]
        delta = [reward_BT[b, t] + 0.9 * v[k + 1] - v[k] for k, t in enumerate(inside)]
        for k, t in enumerate(inside):
            expected_BT[b, t] = sum((0.9 * 0.7) ** n * d for n, d in enumerate(delta[k:]))
    reward, value, mask = tensors(reward_BT, value_BT, mask_BT)
    advantage, target = gae(reward, value, mask, 0.9, 0.7)
    np.testing.assert_allclose(advantage, expected_BT, rtol=1e-12)
    np.testing.assert_allclose(target, np.where(mask_BT, expected_BT + value_BT, 0), rtol=1e-12)


def test_whitening_takes_off_the_mean_and_divides_by_the_standard_deviation() -> None:
    x, mask = tensors([[1.0, 2.0], [3.0, 50.0]], [[1, 1], [1, 0]])  # mean 2, variance (1 + 0 + 1) / 2 = 1
    np.testing.assert_allclose(whiten(x, mask), [[-1, 0], [1, 0]], atol=1e-7)


def test_the_policy_loss_is_the_clipped_surrogate_of_equation_7() -> None:
    ratio, advantage = [[1.5, 0.5, 0.5], [1.5, 1.0, 7.0]], [[1.0, -1.0, 1.0], [-1.0, 2.0, 7.0]]
    logprob, old, mask = tensors(np.log(ratio), np.zeros((2, 3)), [[1, 1, 1], [1, 1, 0]])
    # min: (1.5, 1.2), (-0.5, -0.8), (0.5, 0.8), (-1.5, -1.2), 2.  The clip holds the first two of five.
    loss, share = policy_loss(logprob, old, tensors(advantage)[0], mask, 0.2)
    assert loss.item() == pytest.approx(-(1.2 - 0.8 + 0.5 - 1.5 + 2) / 5)
    assert share.item() == pytest.approx(2 / 5)


def test_the_value_loss_is_half_the_larger_of_the_two_squares() -> None:
    value, old, target, mask = tensors([[1.0, 0.0, 9.0]], [[0.0, 0.0, 0.0]], [[1.0, 2.0, 0.0]], [[1, 1, 0]])
    # Squares (1 - 1)^2 and (0.2 - 1)^2 = 0.64;  (0 - 2)^2 twice.
    assert value_loss(value, old, target, mask, 0.2).item() == pytest.approx((0.64 + 4) / 2 / 2)


VOCABULARY, LENGTHS = 5, [[4, 1, 3], [2, 5, 5]]


class Bigrams:
    """A softmax policy over the token before, and two prompts' three responses to it; numpy alone."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self.weight_VV = rng.normal(size=(VOCABULARY, VOCABULARY))
        self.token_PJT = rng.integers(VOCABULARY, size=(2, 3, 6))
        self.reward_PJ = rng.random((2, 3))
        self.mask_PJT = np.arange(5) < np.array(LENGTHS)[:, :, None]

    def loss(self, weight_VV: Tensor) -> Tensor:
        before, token = torch.tensor(self.token_PJT[:, :, :-1]), torch.tensor(self.token_PJT[:, :, 1:])
        logprob_PJT = weight_VV.log_softmax(1)[before, token]
        return eso(logprob_PJT, torch.tensor(self.reward_PJ), torch.tensor(self.mask_PJT))

    def gradient(self) -> np.ndarray:
        weight_VV = torch.tensor(self.weight_VV, requires_grad=True)
        self.loss(weight_VV).backward()
        assert weight_VV.grad is not None
        return weight_VV.grad.numpy()


def test_the_gradient_of_eso_is_equation_12() -> None:
    """sum_j (mean R - R_j) grad log pi(a_j), where d log p(v | u) / dW[u, w] = [w = v] - p(w | u)."""
    it = Bigrams()
    p_VV = np.exp(it.weight_VV) / np.exp(it.weight_VV).sum(1, keepdims=True)
    expected_VV = np.zeros_like(p_VV)
    for p in range(2):
        for j in range(3):
            fitness = it.reward_PJ[p].mean() - it.reward_PJ[p, j]
            for t in range(LENGTHS[p][j]):
                before, token = it.token_PJT[p, j, t : t + 2]
                expected_VV[before] += fitness * (np.eye(VOCABULARY)[token] - p_VV[before]) / 2
    assert np.abs(expected_VV).max() > 0.1
    np.testing.assert_allclose(it.gradient(), expected_VV, rtol=1e-10, atol=1e-12)


def test_the_gradient_of_eso_is_what_finite_differences_find() -> None:
    it = Bigrams()
    found_VV, step = np.zeros((VOCABULARY, VOCABULARY)), 1e-5
    for u, w in np.ndindex(found_VV.shape):
        change_VV = torch.zeros(VOCABULARY, VOCABULARY, dtype=torch.float64)
        change_VV[u, w] = step
        here_VV = torch.tensor(it.weight_VV)
        found_VV[u, w] = float(it.loss(here_VV + change_VV) - it.loss(here_VV - change_VV)) / (2 * step)
    np.testing.assert_allclose(it.gradient(), found_VV, rtol=1e-6, atol=1e-8)


P, J, T = 3, 4, 5


@pytest.fixture
def trl_trainer(tiny: Callable[[str], Path], tmp_path: Path) -> Callable[..., Any]:
    """`trl_trainer(name, **options)` is TRL's trainer of that name on a tiny model, in evaluation mode."""
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def make(name: str, **options: Any) -> Any:
        folder = tiny("gpt2")
        trainer = getattr(trl, f"{name}Trainer")(
            model=AutoModelForCausalLM.from_pretrained(folder),
            processing_class=AutoTokenizer.from_pretrained(folder),
            reward_funcs=lambda completions, **columns: [0.0] * len(completions),
            train_dataset=Dataset.from_dict({"prompt": ["1+1="]}),
            args=getattr(trl, f"{name}Config")(
                output_dir=str(tmp_path),
                per_device_train_batch_size=J,
                num_generations=J,
                beta=0.0,
                use_cpu=True,
                bf16=False,
                report_to="none",
                **options,
            ),
        )
        trainer.model.eval()
        return trainer

    return make


class Responses:
    """Responses as TRL's losses take them, and their log-probabilities under a model."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.prompt_B2 = torch.randint(4, 60, (P, 2), generator=generator).repeat_interleave(J, 0)
        self.token_BT = torch.randint(4, 60, (P * J, T), generator=generator)
        length_B = torch.randint(1, T + 1, (P * J,), generator=generator)
        self.mask_BT = (torch.arange(T) < length_B[:, None]).long()
        self.noise_BT = torch.randn(P * J, T, generator=generator)
        self.reward_PJ = torch.rand(P, J, generator=generator)

    def logprob_BT(self, model: Any) -> Tensor:
        logits = model(torch.cat([self.prompt_B2, self.token_BT], 1)).logits[:, 1:-1]
        logprob_BT1: Tensor = logits.log_softmax(2).gather(2, self.token_BT[:, :, None])
        return logprob_BT1[:, :, 0]

    def inputs(self, **more: Tensor) -> dict[str, Tensor]:
        return {
            "prompt_ids": self.prompt_B2,
            "prompt_mask": torch.ones_like(self.prompt_B2),
            "completion_ids": self.token_BT,
            "completion_mask": self.mask_BT,
        } | more


def gradient(loss: Tensor, model: Any) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")
def test_the_gradient_of_eso_is_that_of_trl_s_rloo_times_j_minus_1(trl_trainer: Callable[..., Any]) -> None:
    """RLOO's baseline is the mean of the other responses, its loss the mean over responses."""
    trainer, batch = trl_trainer("RLOO"), Responses()
    others_PJ = torch.stack(
        [batch.reward_PJ[:, [i for i in range(J) if i != j]].mean(1) for j in range(J)], dim=1
    )
    logprob_BT = batch.logprob_BT(trainer.model)
    inputs = batch.inputs(
        advantages=(batch.reward_PJ - others_PJ).flatten(),
        old_logps=(logprob_BT * batch.mask_BT).sum(1).detach(),
    )
    theirs = gradient(trainer._compute_loss(trainer.model, inputs), trainer.model)
    loss = eso(logprob_BT.reshape(P, J, T), batch.reward_PJ, batch.mask_BT.reshape(P, J, T))
    ours = gradient(loss, trainer.model)
    assert theirs.abs().max() > 1e-3
    torch.testing.assert_close(ours, (J - 1) * theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")
def test_the_policy_loss_of_ppo_is_trl_s_loss_over_all_tokens(trl_trainer: Callable[..., Any]) -> None:
    """TRL's `bnpo` is the clipped surrogate averaged over a batch's tokens, for any advantages."""
    trainer, batch = trl_trainer("GRPO", loss_type="bnpo", epsilon=0.2), Responses()
    logprob_BT = batch.logprob_BT(trainer.model)
    old_BT = (logprob_BT + 0.3 * batch.noise_BT).detach()
    advantage_BT = batch.noise_BT.roll(1, 0)
    theirs = trainer._compute_loss(
        trainer.model, batch.inputs(advantages=advantage_BT, old_per_token_logps=old_BT)
    )
    ours, share = policy_loss(logprob_BT, old_BT, advantage_BT, batch.mask_BT, 0.2)
    [their_share] = trainer._metrics["eval"]["clip_ratio/region_mean"]
    torch.testing.assert_close(ours, theirs)
    assert 0.1 < share.item() < 0.9
    assert share.item() == pytest.approx(their_share)
    expected = gradient(theirs, trainer.model)
    torch.testing.assert_close(gradient(ours, trainer.model), expected, rtol=1e-4, atol=1e-6)
