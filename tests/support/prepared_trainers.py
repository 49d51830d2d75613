"""Trainers that are ready to train, in this process, and what their steps should be by the plainest ways."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from configs import parse_as
from tiny_models import save_tiny
from training_runs import ON_POLICY, tree
from transformers import TrainerCallback

from evolign.config import GradientConfig, ModelConfig
from evolign.config.recipe import dump
from evolign.engines import build_engine
from evolign.policy.base_model import BaseModel, load_base_model
from evolign.policy.restoring import given_back, quiet
from evolign.rewards.scores import Scores
from evolign.rewards.scoring import Scoring
from evolign.runs.directory import RunDir, read_rows
from evolign.runs.progress import Silent
from evolign.tasks.base import examples
from evolign.trainers.eso import OnPolicy
from evolign.trainers.ppo import Ppo
from evolign.trainers.session import PolicySession
from evolign.trainers.trainable import Trainable
from evolign.trainers.trainer import Recorder
from evolign.trainers.trl import Dpo, Grpo, Sft
from evolign.types import Example

TRAINERS = {**dict.fromkeys(ON_POLICY, OnPolicy), "sft": Sft, "dpo": Dpo, "grpo": Grpo, "ppo": Ppo}
ONE_STEP = {"max_steps": 1, "batch_size": 12, "scheduler": "constant", "max_grad_norm": 1e6}
"""A step on all rows of the task, whatever their order."""
EOS = 2


class Lookup(Scoring):
    """A scorer whose reward is called in this process."""

    def __init__(self, reward: Callable[..., Any]) -> None:
        self._reward = reward

    def score(self, rows: Sequence[Example], texts: Sequence[str], token_ids: object = None) -> Scores:
        names = {name for row in rows for name in row.columns}
        columns = {name: [row.columns.get(name) for row in rows] for name in names}
        values = self._reward([row.prompt for row in rows], list(texts), **columns)
        scores = np.array([np.nan if value is None else float(value) for value in values])
        return Scores(scores)


class Watch(TrainerCallback):
    """Keeps the gradients of every step."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, *args: Any, model: Any, **kwargs: Any) -> None:
        self.gradients.append(gradients(model))


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.session.trainable.parameters().items()}


@contextmanager
def prepared(method: str, base: BaseModel, rows: Any, folder: Path, **sections: Any) -> Iterator[Any]:
    """The Trainer of a run, ready to train, its adapter's B random; as `training.train` makes it."""
    config = parse_as(GradientConfig, tree(method, **sections))
    with RunDir.create(folder, dump(config)) as run_dir, given_back(base.model), quiet():
        trainable = Trainable(config, base, rows.warmup, run_dir.warm_start)
        for seed, (name, parameter) in enumerate(trainable.parameters().items()):
            if "lora_B" in name:
                generator = torch.Generator().manual_seed(seed)
                parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
        known = examples(rows)
        with closing(trainable), build_engine(config.engine, trainable.policy, known) as engine:
            scorer: Any = Lookup(rows.reward)
            session = PolicySession(config, run_dir, rows, trainable, Silent(), engine=engine, scorer=scorer)
            with torch.random.fork_rng(devices=[]):
                trainer: Any = TRAINERS[method](session)
                trainable.restrict()
                trainer.add_callback(Recorder(session, trainer.steps_per_batch))
                trainer.watch = Watch()
                trainer.add_callback(trainer.watch)
                yield trainer


def rows_of(trainer: Any) -> list[dict[str, Any]]:
    return read_rows(trainer.session.run.path / "metrics.jsonl")[1:]


def logprobs(model: Any, prompt: Sequence[int], completion: Sequence[int]) -> torch.Tensor:
    """log pi(token) of a completion by the plainest of ways: one row, no padding, no cache."""
    ids = torch.tensor([[*prompt, *completion]])
    logp = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    return torch.stack([logp[len(prompt) + t - 1, token] for t, token in enumerate(completion)])


def sft_loss(model: Any, base: BaseModel, rows: Sequence[Example]) -> torch.Tensor:
    """The mean over all tokens of all completions, the end-of-sequence token included."""
    total = [
        logprobs(
            model,
            base.tokenizer(row.prompt)["input_ids"],
            [*base.tokenizer(row.completion, add_special_tokens=False)["input_ids"], EOS],
        )
        for row in rows
    ]
    return -torch.cat(total).mean()


def assert_equal_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    found = {name: value for name, value in found.items() if value.any() or name in expected}
    assert found.keys() == expected.keys() and found
    largest = max(value.abs().max() for value in expected.values())
    assert largest > 1e-4
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5 * float(largest), msg=name)


def prompt_ids(trainer: Any, row: Example) -> list[int]:
    return list(trainer.session.trainable.base.tokenizer(row.prompt)["input_ids"])


def without_dropout(architecture: str, folder: Path) -> BaseModel:
    """A tiny model of a kind that has dropout, without it."""
    off: dict[str, dict[str, Any]]
    off = {"gpt2": dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0), "opt": {"dropout": 0.0}}
    save_tiny(architecture, folder, **off.get(architecture, {}))
    return load_base_model(ModelConfig(name=str(folder), device="cpu"))
