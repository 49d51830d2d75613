"""Trainers that learn from their own completions: ESO and its family, GRPO and PPO, against sums by hand."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import engine_calls
import numpy as np
import pytest
import torch
from prepared_trainers import (
    ONE_STEP,
    assert_equal_gradients,
    gradients,
    logprobs,
    prepared,
    prompt_ids,
    rows_of,
    sft_loss,
    weights,
    without_dropout,
)
from tiny_models import save_tiny
from training_runs import ON_POLICY, examples, share, task, tree

from evolign.commands.run import run
from evolign.config import ModelConfig
from evolign.config.recipe import parse
from evolign.engines import build_engine
from evolign.engines.transformers.log_probs import token_logprobs
from evolign.errors import ConfigError
from evolign.policy.base_model import BaseModel, load_base_model
from evolign.policy.restoring import on_one_gpu
from evolign.runs.directory import read_rows
from evolign.runs.progress import Silent
from evolign.seeding import key
from evolign.trainers.session import POLICY
from evolign.types import Example, Sampling


@pytest.fixture
def llama(base: Callable[[str], BaseModel]) -> BaseModel:
    return base("llama")


# ESO and its family.


def by_hand(trainer: Any, rows: Sequence[Example]) -> tuple[list[list[tuple[int, ...]]], np.ndarray]:
    """The responses to every row, one per temperature, by an engine of our own; and their rewards."""
    config, trainable = trainer.session.config, trainer.session.trainable
    with build_engine(config.engine, trainable.policy) as engine, trainable.inference():
        rollouts = [
            engine_calls.generate(
                engine, POLICY, [rows], Sampling(6, t, noise_seed=key(config.seed, "step", 0, n))
            )
            for n, t in enumerate(config.objective.temperatures)
        ]
    responses = [[r.token_ids_NPS[0, p, 0] for r in rollouts] for p in range(len(rows))]
    rewards = [
        share(
            [row.prompt] * len(rollouts), [r.text_NPS[0, p, 0] for r in rollouts], [row.columns["wanted"]] * 2
        )
        for p, row in enumerate(rows)
    ]
    return responses, np.array(rewards)


@pytest.mark.parametrize("architecture", ["llama", "opt"])
def test_the_first_step_of_eso_is_equation_10_on_the_engines_responses(
    architecture: str, tmp_path: Path
) -> None:
    """L = L_sft + lambda * mean_x sum_j (mean R - R_j) log pi(a_j | x), and its gradient, by autograd on
    log-probabilities of single rows."""
    rows, base = task(), without_dropout(architecture, tmp_path / "model")
    with prepared("eso", base, rows, tmp_path / "run", training=ONE_STEP) as trainer:
        model, start = trainer.model, weights(trainer)
        responses, reward_PJ = by_hand(trainer, rows.train)
        assert len({len(ids) for row in responses for ids in row}) > 1 and np.ptp(reward_PJ, axis=1).any()
        model.eval()
        loss_sft = sft_loss(model, trainer.session.trainable.base, rows.train)
        terms = [
            (reward_PJ[p].mean() - reward_PJ[p, j])
            * logprobs(model, prompt_ids(trainer, row), responses[p][j]).sum()
            for p, row in enumerate(rows.train)
            for j in range(2)
        ]
        objective = torch.stack(terms).sum() / len(rows.train)
        (loss_sft + 0.5 * objective).backward()
        expected = gradients(model)
        model.zero_grad()
        assert all(torch.equal(value, start[name]) for name, value in weights(trainer).items())
        trainer.train()
        [row] = rows_of(trainer)
        assert row["loss_sft"] == pytest.approx(loss_sft.item(), rel=1e-4)
        assert row["loss_objective"] == pytest.approx(objective.item(), rel=1e-3, abs=1e-4)
        assert row["reward_mean"] == pytest.approx(reward_PJ.mean())
        assert row["completions"] == 24
        assert_equal_gradients(trainer.watch.gradients[0], expected)


@pytest.mark.parametrize(("first", "steps"), [("last", [3]), (1, [1, 2, 3]), (2, [2, 3])])
def test_the_objective_joins_in_its_epoch(
    first: int | str, steps: list[int], llama: BaseModel, tmp_path: Path
) -> None:
    options = {"objective": {"from_epoch": first}, "evaluation": {"every": 9}}
    training = ONE_STEP | {"max_steps": None, "epochs": 3}
    with prepared("eso", llama, task(), tmp_path / "run", training=training, **options) as trainer:
        trainer.train()
        found = rows_of(trainer)
        assert [row["step"] for row in found if "loss_objective" in row] == steps
        assert trainer.session.state.completions == 24 * len(steps)


def test_an_objective_that_never_joins_is_refused(llama: BaseModel, tmp_path: Path) -> None:
    words = "from_epoch = 4 is after the last of 3 epochs, so the run would be plain supervised"
    late: dict[str, Any] = {"objective": {"from_epoch": 4}}
    with pytest.raises(ConfigError, match=words):
        parse({"method": "eso", "training": {"epochs": 2.5}, **late})
    for steps, refused in ((3, True), (4, False)):  # an epoch of the task is one step
        training = ONE_STEP | {"max_steps": steps}
        with (
            pytest.raises(ConfigError, match=words) if refused else nullcontext(),
            prepared("eso", llama, task(), tmp_path / str(steps), training=training, **late),
        ):
            pass


def test_eso_of_weight_zero_is_sft_bit_for_bit_and_samples_nothing(llama: BaseModel, tmp_path: Path) -> None:
    found = []
    for method, options in (("sft", {}), ("eso", {"objective": {"weight": 0}})):
        with prepared(method, llama, task(), tmp_path / method, **options) as trainer:
            trainer.train()
            found.append(weights(trainer))
            assert trainer.session.state.completions == 0
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("method", ON_POLICY)
def test_there_is_one_response_per_temperature_and_what_the_method_adds(
    method: str, llama: BaseModel, tmp_path: Path
) -> None:
    """RRHF ranks the reference with them; the self-critical baseline is the greedy response's reward."""
    rows = task()
    with prepared(method, llama, rows, tmp_path / "run") as trainer:
        sampled, reward_PJ = by_hand(trainer, rows.train)
        found = trainer._respond(rows.train)
        assert [ids[:2] for ids in found.token_ids_PJ] == sampled
        assert (found.reward_PJ[:, :2] == reward_PJ).all()
        references = [ids[2:] for ids in found.token_ids_PJ]
        if method == "rrhf":
            assert references == [
                [tuple(llama.encoder.encode_completion(row.completion))] for row in rows.train
            ]
            assert (found.reward_PJ[:, 2] == 1).all()
        else:
            assert references == [[]] * 12
        if method == "self_critical":
            engine, wanted = trainer.session._engine, [row.columns["wanted"] for row in rows.train]
            greedy = engine_calls.generate(engine, POLICY, [rows.train], Sampling(6, 0.0)).text_NPS[0, :, 0]
            assert found.baseline_P.tolist() == share([], list(greedy), wanted)
        assert (found.baseline_P is None) == (method != "self_critical")
        assert trainer.session.state.completions == (36 if method == "self_critical" else 24)


def test_where_training_rows_have_no_completion_prompts_are_drawn_and_the_supervised_loss_is_on_warm_up_rows(
    llama: BaseModel, tmp_path: Path
) -> None:
    rows = task(train=examples("train", 12, solved=False), warmup=examples("warmup", 4))
    found = []
    for micro in (None, 2):
        training = ONE_STEP | {"batch_size": 4, "micro_batch_size": micro}
        with prepared("eso", llama, rows, tmp_path / str(micro), training=training) as trainer:
            loss_sft = sft_loss(trainer.model, llama, rows.warmup).item()
            seen: list[str] = []
            respond = trainer._respond
            trainer._respond = lambda drawn, respond=respond, seen=seen: (
                seen.extend(e.id for e in drawn) or respond(drawn)
            )
            trainer.train()
            [row] = rows_of(trainer)
            assert row["loss_sft"] == pytest.approx(loss_sft, rel=1e-4)
            assert row["loss"] == pytest.approx(loss_sft + 0.5 * row["loss_objective"], abs=2e-3)
            assert len(set(seen)) == 4 and set(seen) <= {row.id for row in rows.train}
            found.append((sorted(seen), trainer.watch.gradients[0]))
    assert found[0][0] == found[1][0]
    assert_equal_gradients(found[1][1], found[0][1])


def test_one_training_row_without_a_completion_changes_nothing_for_the_others(
    llama: BaseModel, tmp_path: Path
) -> None:
    """Prompts are those of the rows that the supervised loss is on, wherever they are in the split."""
    rows = task(train=[*examples("other", 1, solved=False), *examples("train", 4)])
    training = ONE_STEP | {"batch_size": 4}
    with prepared("eso", llama, rows, tmp_path / "run", training=training) as trainer:
        assert trainer._prompts([3, 0]) == [rows.train[4], rows.train[1]]


# GRPO.


def test_the_first_step_of_grpo_is_the_policy_gradient_on_the_engines_completions(
    llama: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At ratio 1: - sum_j A_j sum_t grad log pi / number of tokens, A over the group. TRL's generation is
    not used."""

    def generate(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("TRL's own generation was used")

    monkeypatch.setattr(llama.model, "generate", generate)
    rows = task(train=examples("train", 4))
    training = ONE_STEP | {"batch_size": 4}
    with prepared("grpo", llama, rows, tmp_path / "run", training=training) as trainer:
        session, model = trainer.session, trainer.model
        noise = key(session.config.seed, "step", 0)
        rollouts = engine_calls.generate(session._engine, POLICY, [rows.train], Sampling(6, 1.0, 3, noise))
        reward_PS = np.array(
            [
                share([], list(rollouts.text_NPS[0, p]), [e.columns["wanted"]] * 3)
                for p, e in enumerate(rows.train)
            ]
        )
        spread = reward_PS.std(axis=1, ddof=1, keepdims=True)
        advantage_PS = (reward_PS - reward_PS.mean(axis=1, keepdims=True)) / (spread + 1e-4)
        model.eval()
        terms = [
            advantage_PS[p, s]
            * logprobs(model, prompt_ids(trainer, row), rollouts.token_ids_NPS[0, p, s]).sum()
            for p, row in enumerate(rows.train)
            for s in range(3)
        ]
        (-torch.stack(terms).sum() / rollouts.cost.tokens).backward()
        expected = gradients(model)
        model.zero_grad()
        trainer.train()
        assert_equal_gradients(trainer.watch.gradients[0], expected)
        [row] = rows_of(trainer)
        assert (row["completions"], row["generated_tokens"]) == (12, rollouts.cost.tokens)
        assert row["reward_mean"] == pytest.approx(reward_PS.mean())


def flat(prompts: Any, completions: Any, **columns: Any) -> list[float]:
    return [0.7] * len(prompts)


def said(trainer: Any) -> list[str]:
    progress: Silent = trainer.session.progress
    return progress.said


def silent_on_train(prompts: Any, completions: Any, wanted: Any, **columns: Any) -> list[float | None]:
    """A reward that applies to held-out prompts alone."""
    found = share(prompts, completions, wanted)
    return [None if p.startswith("train") else r for p, r in zip(prompts, found, strict=True)]


@pytest.mark.parametrize(
    ("method", "reward"),
    [("eso", flat), ("grpo", flat), *((name, silent_on_train) for name in ("eso", "grpo", "ppo"))],
)
def test_completions_that_say_nothing_change_nothing_and_are_counted(
    method: str, reward: Any, llama: BaseModel, tmp_path: Path
) -> None:
    training = {"max_steps": 2, "weight_decay": 0.0}
    sections = {"objective": {"value_weight": 0, "kl_weight": 0, "epochs": 1}} if method == "ppo" else {}
    with prepared(
        method, llama, task(reward=reward), tmp_path / "run", training=training, **sections
    ) as trainer:
        before = weights(trainer)
        trainer.train()
        found = rows_of(trainer)
        assert [("reward_mean" in row) for row in found] == [reward is flat] * 2
        assert trainer.session.state.completions == 2 * {"grpo": 12, "ppo": 4, "eso": 8}[method]
        told = [line for line in said(trainer) if line.startswith("Warning: all")]
        assert len(told) == (reward is flat) == len(trainer.session.state.costs()["warnings"])
        if method == "eso":
            assert [row["loss_objective"] for row in found] == [0, 0]
        else:
            assert all(torch.equal(value, before[name]) for name, value in weights(trainer).items())


def test_grpo_takes_several_steps_on_the_same_completions(llama: BaseModel, tmp_path: Path) -> None:
    options = {"objective": {"iterations": 2}, "training": {"max_steps": 4}}
    with prepared("grpo", llama, task(), tmp_path / "run", **options) as trainer:
        trainer.train()
        assert [row["completions"] for row in rows_of(trainer)] == [12, 12, 24, 24]


# PPO.


@pytest.mark.parametrize(
    "options", [{}, {"adapter": None}, {"space": {"alpha": 1.0}}], ids=["LoRA", "all weights", "singular"]
)
def test_the_reference_of_ppo_stays_the_starting_policy(options: Any, tiny: Any, tmp_path: Path) -> None:
    base = load_base_model(ModelConfig(name=str(tiny("llama")), device="cpu"))
    rows = task()
    with prepared("ppo", base, rows, tmp_path / "run", **options) as trainer:
        trainable = trainer.session.trainable
        prompts = [base.encoder.encode(row.prompt) for row in rows.train]
        completions = [tuple(base.encoder.encode_completion(row.completion)) for row in rows.train]

        def read(model: Any) -> torch.Tensor:
            with torch.no_grad():
                return token_logprobs(model, prompts, completions, 1.0)

        start = read(base.model)
        trainer.train()
        with trainable.inference():
            assert (read(base.model) - start).abs().max() > 1e-3
        with trainable.reference() as model:
            torch.testing.assert_close(read(model), start)
        kl = [row["kl"] for row in rows_of(trainer) if "kl" in row]
        assert len(kl) == 2 and kl[0] == pytest.approx(0, abs=1e-5) and abs(kl[1]) > 1e-3


def test_without_a_kl_there_is_no_reference_and_no_word_of_it(llama: BaseModel, tmp_path: Path) -> None:
    with prepared("ppo", llama, task(), tmp_path / "run", objective={"kl_weight": 0}) as trainer:
        trainer.train()
        assert not any("kl" in row for row in rows_of(trainer))
        assert "reference" not in trainer.model.peft_config


def test_grpo_takes_messages_of_different_keys(llama: BaseModel, tmp_path: Path) -> None:
    """Arrow would give all of them all keys, and they would not be found again."""
    rows = task(train=examples("train", 4))
    chats = [[{"role": "user", "content": row.prompt}] for row in rows.train]
    chats[0][0]["name"] = "x"
    rows = task(train=[replace(row, prompt=chat) for row, chat in zip(rows.train, chats, strict=True)])
    with prepared("grpo", llama, rows, tmp_path / "run", training=ONE_STEP | {"batch_size": 4}) as trainer:
        trainer.train()
        assert rows_of(trainer)[0]["completions"] == 12


def test_all_of_a_batch_goes_to_one_gpu(llama: BaseModel, tmp_path: Path) -> None:
    with prepared("sft", llama, task(), tmp_path / "run") as trainer:
        arguments = trainer.args
        arguments._n_gpu = 2
        assert arguments.train_batch_size == 2 * arguments.per_device_train_batch_size
        on_one_gpu(arguments, torch.device("cuda:0"))
        assert arguments.train_batch_size == arguments.per_device_train_batch_size
    with pytest.raises(ConfigError, match=r"model\.device = 'cuda:1': .* CUDA_VISIBLE_DEVICES=1"):
        on_one_gpu(arguments, torch.device("cuda:1"))


def test_mini_batches_cover_every_completion_once_in_every_epoch(llama: BaseModel, tmp_path: Path) -> None:
    options = {"objective": {"epochs": 3, "mini_batches": 3}, "sampling": {"samples_per_prompt": 2}}
    with prepared("ppo", llama, task(), tmp_path / "run", training={"max_steps": 10}, **options) as trainer:
        passes = [[trainer._rows_of(0, 3 * e + piece, 8) for piece in range(3)] for e in range(3)]
        assert all(sorted(np.concatenate(one)) == list(range(8)) for one in passes)
        assert len({str(one) for one in passes}) == 3
        trainer.train()
        assert [row["completions"] for row in rows_of(trainer)] == [8] * 9 + [16]


def test_the_batches_of_ppo_see_all_prompts_before_any_comes_again(llama: BaseModel, tmp_path: Path) -> None:
    with prepared("ppo", llama, task(), tmp_path / "run", training={"batch_size": 5}) as trainer:
        drawn = [example.id for number in range(5) for example in trainer._draw(number)]
        every = sorted(row.id for row in trainer.session.task.train)
        assert sorted(drawn[:12]) == sorted(drawn[12:24]) == every and drawn[:12] != drawn[12:24]


def test_a_completion_to_which_the_reward_does_not_apply_is_masked(llama: BaseModel, tmp_path: Path) -> None:
    def picky(prompts: Any, completions: Any, wanted: Any, **columns: Any) -> list[float | None]:
        found = share(prompts, completions, wanted)
        return [None if i % 3 == 0 else r for i, r in enumerate(found)]

    training = {"batch_size": 12, "max_steps": 1}
    with prepared("ppo", llama, task(reward=picky), tmp_path / "run", training=training) as trainer:
        batch = trainer._sample_batch(0)
        counts = batch.mask_BT.sum(1).tolist()
        assert [count > 0 for count in counts] == [i % 3 != 0 for i in range(12)]
        assert not batch.advantage_BT[::3].any() and not batch.return_BT[::3].any()
        others = [i for i in range(12) if i % 3]
        trainer._batch, trainer._batch_number = batch, 0
        model = trainer.model
        trainer._loss(batch, list(range(12)), 1.0).backward()
        found = gradients(model)
        model.zero_grad()
        trainer._loss(batch, others, 1.0).backward()
        assert_equal_gradients(found, gradients(model))


def test_the_value_head_learns_and_is_not_exported(tiny: Any, tmp_path: Path) -> None:
    """All weights of an OPT whose output reads fewer numbers than its layers have, as in OPT-350m."""
    from safetensors.torch import load_file

    folder = save_tiny("opt", tmp_path / "opt", word_embed_proj_dim=16)
    for adapter in (None, {"rank": 2}):
        base = load_base_model(ModelConfig(name=str(folder), device="cpu"))
        path = tmp_path / f"run-{adapter is None}"
        result = run(parse(tree("ppo", adapter=adapter)), path, task=task(), base=base, progress=Silent())
        saved = load_file(next(result.weights.glob("*.safetensors")))
        head = load_file(path / "checkpoints" / "checkpoint-4" / "trainable.safetensors")
        assert {"value_head.weight", "value_head.bias"} <= head.keys()
        assert not any("value_head" in name or "reference" in name for name in saved)
        assert not hasattr(base.model, "value_head")
        losses = [row["loss_value"] for row in read_rows(path / "metrics.jsonl")[1:]]
        assert losses[1] < losses[0] and all(loss > 0 for loss in losses)
