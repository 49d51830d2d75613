"""ESO and its family: supervised fine-tuning plus a loss on responses that the policy samples.

    L = L_sft + lambda * L_objective        (equation 9 of Huang et al., COLING 2025, for ESO)

One trainer, on top of TRL's SFTTrainer. The methods differ only in their entry of `OBJECTIVES` (`losses.py`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evolign.config import EsoConfig, RrhfConfig, SelfCriticalConfig, UnlikelihoodConfig
from evolign.engines.transformers.log_probs import token_logprobs
from evolign.errors import ConfigError
from evolign.policy.base_model import BaseModel
from evolign.runs.directory import RunDir
from evolign.runs.progress import Progress
from evolign.seeding import key, stream
from evolign.tasks.base import Task
from evolign.trainers.course import train
from evolign.trainers.losses import OBJECTIVES
from evolign.trainers.session import PolicySession
from evolign.trainers.trl import Sft
from evolign.types import Example, Sampling

Summary = dict[str, Any]


def eso(config: EsoConfig, run: RunDir, task: Task, base: BaseModel, progress: Progress) -> Summary:
    """Evolution Strategy Optimization: responses weighed by reward minus mean (Huang et al. 2025)."""
    return train(config, run, task, base, progress, OnPolicy)


def unlikelihood(
    config: UnlikelihoodConfig, run: RunDir, task: Task, base: BaseModel, progress: Progress
) -> Summary:
    """Unlikelihood of responses below their prompt's mean reward (Welleck et al. 2019)."""
    return train(config, run, task, base, progress, OnPolicy)


def self_critical(
    config: SelfCriticalConfig, run: RunDir, task: Task, base: BaseModel, progress: Progress
) -> Summary:
    """Policy gradient whose baseline is the greedy response (DRL; Paulus et al. 2018)."""
    return train(config, run, task, base, progress, OnPolicy)


def rrhf(config: RrhfConfig, run: RunDir, task: Task, base: BaseModel, progress: Progress) -> Summary:
    """Responses and reference ranked by their reward (Yuan et al. 2023)."""
    return train(config, run, task, base, progress, OnPolicy)


@dataclass(frozen=True)
class Responses:
    """J responses to each of P prompts, as tokens, with their rewards."""

    token_ids_PJ: list[list[tuple[int, ...]]]
    reward_PJ: np.ndarray
    """float64; NaN where the reward does not apply."""
    baseline_P: np.ndarray | None
    """The greedy response's reward, for `self_critical`."""


class OnPolicy(Sft):
    """SFTTrainer with an on-policy objective added to its loss.

    The prompts are those of the rows that the supervised loss is on. Where training prompts have no reference
    completions (and the supervised loss is on warm-up rows), as many training prompts are drawn instead.
    """

    def __init__(self, session: PolicySession) -> None:
        super().__init__(session, remove_unused_columns=False)
        self._collate: Any = self.data_collator
        self.data_collator: Any = self._with_index
        self._options = session.config.objective  # type: ignore[attr-defined]
        self._objective = OBJECTIVES[session.config.method]
        self._check_epochs()
        self._paired = any(example.completion is not None for example in session.task.train)
        self._taken: tuple[int, int] = (-1, 0)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The supervised loss, plus lambda times the objective from its first epoch on."""
        index = inputs.pop("index")
        loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        if self._options.weight == 0 or not self._has_come():
            return loss
        examples = self._prompts(index)
        micro_batches = self.current_gradient_accumulation_steps
        divided = num_items_in_batch is None  # by the Trainer, by the micro-batches of the step
        part_sft = loss / micro_batches if divided else loss
        part = self._objective_loss(examples, self._respond(examples)) / micro_batches
        self.session.add(loss_sft=float(part_sft.detach()), loss_objective=float(part.detach()))
        both = part_sft + self._options.weight * part
        return both * micro_batches if divided else both

    def _with_index(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The batch with the numbers of its rows."""
        plain = [{name: value for name, value in row.items() if name != "index"} for row in rows]
        return dict(self._collate(plain)) | {"index": [row["index"] for row in rows]}

    def _check_epochs(self) -> None:
        """Raise ConfigError where `training.max_steps` ends before the objective joins."""
        arguments = self.args
        batches = math.ceil(len(self.examples) / arguments.per_device_train_batch_size)
        steps_per_epoch = math.ceil(batches / arguments.gradient_accumulation_steps)
        if arguments.max_steps > 0:
            try:
                self._options.check_epochs(arguments.max_steps / steps_per_epoch)
            except ValueError as error:
                raise ConfigError(f"training.max_steps = {arguments.max_steps}: {error}") from error

    def _has_come(self) -> bool:
        """Whether the objective is part of the loss in this epoch."""
        epoch = int(self.state.epoch or 0) + 1
        first = self._options.from_epoch
        result: bool = epoch >= (self.state.num_train_epochs if first == "last" else first)
        return result

    def _prompts(self, index: list[int]) -> list[Example]:
        if self._paired:
            return [self.examples[i] for i in index]
        train, step = self.session.task.train, self.state.global_step
        order = stream(self.session.config.seed, "prompts", step).permutation(len(train))
        first = self._taken[1] if self._taken[0] == step else 0  # micro-batches share a step's draw
        self._taken = (step, first + len(index))
        return [train[order[i % len(train)]] for i in range(first, first + len(index))]

    def _respond(self, examples: list[Example]) -> Responses:
        """One response per temperature, for RRHF the reference too; all of them scored."""
        base = self.session.trainable.base
        by_temperature = [self._sampled(examples, t, n) for n, t in enumerate(self._options.temperatures)]
        token_ids_PJ = [list(ids) for ids in zip(*(ids for ids, _ in by_temperature), strict=True)]
        text_PJ = [list(texts) for texts in zip(*(texts for _, texts in by_temperature), strict=True)]
        if self._objective.wants_reference and all(e.completion is not None for e in examples):
            for example, ids, texts in zip(examples, token_ids_PJ, text_PJ, strict=True):
                ids.append(tuple(base.encoder.encode_completion(example.completion or "")))
                texts.append(example.completion or "")
        repeated = [example for example, texts in zip(examples, text_PJ, strict=True) for _ in texts]
        reward = self.session.score(
            repeated,
            [text for texts in text_PJ for text in texts],
            [ids for row in token_ids_PJ for ids in row],
        )
        baseline_P = None
        if self._objective.wants_greedy:
            greedy_ids, greedy_texts = self._sampled(examples, 0.0, -1)
            baseline_P = self.session.score(examples, greedy_texts, greedy_ids)
        return Responses(token_ids_PJ, reward.reshape(len(examples), -1), baseline_P)

    def _sampled(
        self, examples: list[Example], temperature: float, number: int
    ) -> tuple[list[tuple[int, ...]], list[str]]:
        """One response to every example, as tokens and as text."""
        config = self.session.config
        noise = key(config.seed, "step", self.state.global_step, number)
        rollouts = self.session.sample(
            examples, Sampling(config.sampling.max_new_tokens, temperature, noise_seed=noise)
        )
        return list(rollouts.token_ids_NPS[0, :, 0]), list(rollouts.text_NPS[0, :, 0])

    def _objective_loss(self, examples: list[Example], responses: Responses) -> Tensor:
        """The objective on the log-probabilities of all responses, in one pass with gradients."""
        base = self.session.trainable.base
        prompts = [base.encoder.encode(example.prompt) for example in examples]
        shape = responses.reward_PJ.shape
        responses_B = [ids for row in responses.token_ids_PJ for ids in row]
        prompts_B = [prompt for prompt in prompts for _ in range(shape[1])]
        with self.accelerator.autocast():
            logprob_BT = token_logprobs(base.model, prompts_B, responses_B, 1.0)
        device = logprob_BT.device
        length_B = torch.tensor([len(ids) for ids in responses_B], device=device)
        mask_BT = torch.arange(logprob_BT.shape[1], device=device) < length_B[:, None]
        baseline_P = responses.baseline_P
        loss: Tensor = self._objective.loss(
            logprob_BT.reshape(*shape, -1),
            torch.tensor(responses.reward_PJ, dtype=logprob_BT.dtype, device=device),
            mask_BT.reshape(*shape, -1),
            baseline_P=None
            if baseline_P is None
            else torch.tensor(baseline_P, dtype=logprob_BT.dtype, device=device),
            log_probability=self._options.log_probability,
        )
        return loss
