"""Proximal policy optimisation: completions from our engine, a value head on the policy, clipped updates.

    sample -> score -> values and reference -> advantages -> `epochs` x `mini_batches` optimiser steps

Schulman et al. 2017 with the per-token KL of Ziegler et al. 2019. The value head reads the policy's last
hidden state and begins at zero; policy and values share their weights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments

from evolign.config import PpoConfig
from evolign.engines.transformers.log_probs import token_logprobs
from evolign.policy.base_model import BaseModel
from evolign.runs.directory import RunDir
from evolign.runs.progress import Progress
from evolign.seeding import key, stream
from evolign.tasks.base import Task
from evolign.trainers.course import train
from evolign.trainers.ppo_losses import gae, policy_loss, token_rewards, value_loss, whiten
from evolign.trainers.session import PolicySession
from evolign.trainers.trainable import VALUE_HEAD
from evolign.trainers.trainer import Resumable, arguments
from evolign.types import Example, Sampling


def ppo(config: PpoConfig, run: RunDir, task: Task, base: BaseModel, progress: Progress) -> dict[str, Any]:
    """Proximal policy optimisation with a value head (Schulman et al. 2017)."""
    return train(config, run, task, base, progress, Ppo)


@dataclass(frozen=True)
class Batch:
    """B completions and the tensors for the updates on them: float, (B, T), zero beyond an end."""

    prompts: list[list[int]]
    token_ids: list[tuple[int, ...]]
    mask_BT: Tensor
    logprob_BT: Tensor
    value_BT: Tensor
    advantage_BT: Tensor
    return_BT: Tensor


class Ppo(Resumable, Trainer):
    """A Trainer whose data set has one row per optimiser step: the number of a mini-batch and its batch."""

    def __init__(self, session: PolicySession) -> None:
        self.session: PolicySession = session
        config = session.config
        assert isinstance(config, PpoConfig)
        self._config, self._options = config, config.objective
        self.steps_per_batch = self._options.epochs * self._options.mini_batches
        self._batch: Batch | None = None
        self._batch_number = -1
        trainable = session.trainable
        if self._options.kl_weight:
            trainable.keep_reference()
        width = trainable.base.model.get_output_embeddings().weight.shape[1]
        head = nn.Linear(width, 1, device=trainable.base.model.device)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        setattr(trainable.model, VALUE_HEAD, head)
        self._head = head
        steps = config.training.max_steps or self._batches_in_all() * self.steps_per_batch
        per_step = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "max_steps": steps}
        super().__init__(
            model=trainable.model,
            args=TrainingArguments(**arguments(config, session, remove_unused_columns=False, **per_step)),
            train_dataset=Dataset.from_dict({"step": range(steps)}),
            data_collator=lambda rows: {"step": rows[0]["step"]},
        )

    def _batches_in_all(self) -> int:
        training = self._config.training
        return math.ceil(training.epochs * len(self.session.task.train) / training.batch_size)

    def _get_train_sampler(self, dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One optimiser step's gradients, in micro-batches; returns its loss."""
        number, part = divmod(inputs["step"], self.steps_per_batch)
        if number != self._batch_number:
            self._batch, self._batch_number = self._sample_batch(number), number
        assert self._batch is not None
        model.train()
        rows = self._rows_of(number, part, len(self._batch.token_ids))
        size = self._config.training.micro_batch_size or len(rows)
        tokens = int(self._batch.mask_BT[rows].sum())
        total = torch.zeros((), device=self._batch.mask_BT.device)
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            share = int(self._batch.mask_BT[chunk].sum()) / max(tokens, 1)
            loss = self._loss(self._batch, chunk, share)
            self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _rows_of(self, number: int, part: int, count: int) -> list[int]:
        """The completions of one mini-batch. Each pass over the batch has its own order."""
        epoch, piece = divmod(part, self._options.mini_batches)
        order = stream(self._config.seed, "mini-batches", number, epoch).permutation(count)
        return [int(i) for i in np.array_split(order, self._options.mini_batches)[piece]]

    def _loss(self, batch: Batch, rows: list[int], share: float) -> Tensor:
        """Loss of a micro-batch, weighed by its share of the mini-batch's tokens."""
        options = self._options
        prompts, token_ids = [batch.prompts[i] for i in rows], [batch.token_ids[i] for i in rows]
        logprob_BT, value_BT = self._read(prompts, token_ids)
        here = (rows, slice(logprob_BT.shape[1]))
        policy, clipped = policy_loss(
            logprob_BT, batch.logprob_BT[here], batch.advantage_BT[here], batch.mask_BT[here], options.clip
        )
        value = value_loss(
            value_BT, batch.value_BT[here], batch.return_BT[here], batch.mask_BT[here], options.value_clip
        )
        self.session.add(
            loss_policy=share * float(policy.detach()),
            loss_value=share * float(value.detach()),
            clipped=share * float(clipped),
        )
        return share * (policy + options.value_weight * value)

    def _sample_batch(self, number: int) -> Batch:
        """Completions of one batch of prompts, their rewards, values and advantages."""
        config, session = self._config, self.session
        examples = self._draw(number)
        sampling = config.sampling
        rollouts = session.sample(
            examples,
            Sampling(
                sampling.max_new_tokens,
                sampling.temperature,
                sampling.samples_per_prompt,
                key(config.seed, "batch", number),
            ),
        )
        repeated = [example for example in examples for _ in range(sampling.samples_per_prompt)]
        token_ids = list(rollouts.token_ids_NPS[0].flat)
        score_B = session.score(repeated, list(rollouts.text_NPS[0].flat), token_ids)
        base = session.trainable.base
        prompts = [base.encoder.encode(example.prompt) for example in repeated]
        return self._with_advantages(prompts, token_ids, score_B)

    def _draw(self, number: int) -> list[Example]:
        """The prompts of a batch: every prompt is drawn once, in random order, before any is drawn again."""
        train, size = self.session.task.train, self._config.training.batch_size
        drawn = []
        for position in range(number * size, (number + 1) * size):
            epoch, place = divmod(position, len(train))
            drawn.append(train[stream(self._config.seed, "order", epoch).permutation(len(train))[place]])
        return drawn

    @torch.no_grad()
    def _with_advantages(
        self, prompts: list[list[int]], token_ids: list[tuple[int, ...]], score_B: np.ndarray
    ) -> Batch:
        """Values, advantages and returns; a completion to which the reward does not apply is masked."""
        options = self._options
        with self.session.trainable.inference():
            logprob_BT, value_BT = self._read(prompts, token_ids)
        reference_BT = logprob_BT
        if options.kl_weight:
            with self.session.trainable.reference() as model:
                reference_BT = token_logprobs(model, prompts, token_ids, self._config.sampling.temperature)
        device = logprob_BT.device
        length_B = torch.tensor([len(ids) for ids in token_ids], device=device)
        applies_B = torch.tensor(~np.isnan(score_B), device=device)
        mask_BT = torch.arange(logprob_BT.shape[1], device=device) < length_B[:, None]
        mask_BT = mask_BT & applies_B[:, None]
        if options.kl_weight:
            kl_B = ((logprob_BT - reference_BT) * mask_BT).sum(1)[applies_B]
            self.session.note(kl=float(kl_B.mean()) if len(kl_B) else 0.0)
        reward_BT = token_rewards(
            torch.tensor(np.nan_to_num(score_B), dtype=logprob_BT.dtype, device=device),
            logprob_BT,
            reference_BT,
            mask_BT,
            options.kl_weight,
        )
        advantage_BT, return_BT = gae(reward_BT, value_BT, mask_BT, options.gamma, options.gae_lambda)
        if options.whiten:
            advantage_BT = whiten(advantage_BT, mask_BT)
        return Batch(prompts, token_ids, mask_BT, logprob_BT, value_BT, advantage_BT, return_BT)

    def _read(
        self, prompts: Sequence[Sequence[int]], token_ids: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of every token, and the value before it; both float32, (B, T).

        The value head reads what the output embedding reads.
        """
        model = self.session.trainable.base.model
        states: list[Tensor] = []
        hook = model.get_output_embeddings().register_forward_pre_hook(
            lambda module, given: states.append(given[0])
        )
        try:
            with self.accelerator.autocast():
                logprob_BT = token_logprobs(model, prompts, token_ids, self._config.sampling.temperature)
        finally:
            hook.remove()
        length = logprob_BT.shape[1]
        value_BT = self._head(states[0][:, -length - 1 : -1].float())[:, :, 0]
        return logprob_BT, value_BT
