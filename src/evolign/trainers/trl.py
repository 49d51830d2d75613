"""SFT, DPO and GRPO by TRL's trainers, on our rows, rewards and engine."""

from typing import Any

import numpy as np
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from evolign.config import DpoConfig, GradientConfig, GrpoConfig
from evolign.policy.base_model import BaseModel
from evolign.policy.warm_start import sft_row
from evolign.runs.directory import RunDir
from evolign.runs.progress import Progress
from evolign.seeding import key
from evolign.tasks.base import Task
from evolign.tasks.needs import pairs, solved_rows
from evolign.trainers.course import train
from evolign.trainers.dataset import dpo_row, with_target_tokens
from evolign.trainers.session import PolicySession
from evolign.trainers.trainer import Resumable, arguments
from evolign.types import Sampling

Summary = dict[str, Any]


def sft(config: GradientConfig, run: RunDir, task: Task, base: BaseModel, progress: Progress) -> Summary:
    """Supervised fine-tuning on reference completions (TRL)."""
    return train(config, run, task, base, progress, Sft)


def dpo(config: DpoConfig, run: RunDir, task: Task, base: BaseModel, progress: Progress) -> Summary:
    """Direct preference optimisation on pairs (Rafailov et al. 2023; TRL)."""
    return train(config, run, task, base, progress, Dpo)


def grpo(config: GrpoConfig, run: RunDir, task: Task, base: BaseModel, progress: Progress) -> Summary:
    """Group relative policy optimisation (Shao et al. 2024; TRL)."""
    return train(config, run, task, base, progress, Grpo)


class Sft(Resumable, SFTTrainer):
    """TRL's SFTTrainer on rows that are token ids already; the loss is on completions only."""

    steps_per_batch = 1

    def __init__(self, session: PolicySession, **more: Any) -> None:
        self.session: PolicySession = session
        config, trainable = session.config, session.trainable
        self.examples = solved_rows(session.task, config.method)
        rows = [
            sft_row(trainable.base, example, config.training.max_length) | {"index": i}
            for i, example in enumerate(self.examples)
        ]
        limit = config.training.max_length
        rows = with_target_tokens(rows, "completion_mask", limit, session.progress)
        fixed = {"max_length": None, "completion_only_loss": True}
        super().__init__(
            model=trainable.model,
            args=SFTConfig(**arguments(config, session, **fixed, **more)),
            train_dataset=Dataset.from_list(rows),
            processing_class=trainable.base.tokenizer,
        )


class Dpo(Resumable, DPOTrainer):
    """TRL's DPOTrainer on rows that are token ids already; the reference is the policy at the start."""

    steps_per_batch = 1

    def __init__(self, session: PolicySession) -> None:
        self.session: PolicySession = session
        config, trainable = session.config, session.trainable
        assert isinstance(config, DpoConfig)
        rows = [
            dpo_row(trainable.base, example, config.training.max_length)
            for example in pairs(session.task.train, config.method)
        ]
        rows = with_target_tokens(rows, "chosen_ids", config.training.max_length, session.progress)
        options = {"beta": config.objective.beta, "loss_type": [config.objective.loss], "max_length": None}
        super().__init__(
            model=trainable.model,
            ref_model=None if trainable.is_adapter else trainable.copy(),
            args=DPOConfig(**arguments(config, session, **options)),
            train_dataset=Dataset.from_list(rows),
            processing_class=trainable.base.tokenizer,
        )

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset  # TRL would tokenise text


class Grpo(Resumable, GRPOTrainer):
    """TRL's GRPOTrainer; completions come from our engine, rewards from our worker processes."""

    def __init__(self, session: PolicySession) -> None:
        self.session: PolicySession = session
        config = session.config
        assert isinstance(config, GrpoConfig)
        self.steps_per_batch = config.objective.iterations
        task = session.task
        self._by_id = {example.id: example for example in task.train}
        super().__init__(
            model=session.trainable.model,
            reward_funcs=self._reward,
            rollout_func=self._rollout,
            args=GRPOConfig(**_grpo_arguments(config, session)),
            train_dataset=Dataset.from_list([{"prompt": example.id} for example in task.train]),
            processing_class=session.trainable.base.tokenizer,
        )

    def _rollout(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        """Completions of the batch; TRL repeats each prompt as often as it has completions."""
        sampling = self.session.config.sampling
        group = sampling.samples_per_prompt  # type: ignore[attr-defined]
        examples = [self._by_id[name] for name in prompts[::group]]
        noise = key(self.session.config.seed, "step", self.state.global_step)
        rollouts = self.session.sample(
            examples,
            Sampling(sampling.max_new_tokens, sampling.temperature, group, noise),  # type: ignore[attr-defined]
        )
        encoded = [self.session.trainable.base.encoder.encode(example.prompt) for example in examples]
        return {
            "prompt_ids": [ids for ids in encoded for _ in range(group)],
            "completion_ids": [list(ids) for ids in rollouts.token_ids_NPS[0].flat],
            "logprobs": None,
        }

    def _reward(
        self, prompts: list[str], completion_ids: list[list[int]], **columns: Any
    ) -> list[float | None]:
        examples = [self._by_id[name] for name in prompts]
        base = self.session.trainable.base
        texts = [base.encoder.decode(tuple(ids)) for ids in completion_ids]
        scores = self.session.score(examples, texts, completion_ids)
        return [None if np.isnan(score) else float(score) for score in scores]


def _grpo_arguments(config: GrpoConfig, session: PolicySession) -> dict[str, Any]:
    """TRL's arguments: it counts completions where our settings count prompts."""
    group, training = config.sampling.samples_per_prompt, config.training
    completions = config.rows_per_step
    at_once = training.micro_batch_size or completions
    return arguments(
        config,
        session,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=completions // at_once,
        generation_batch_size=completions,
        num_generations=group,
        num_iterations=config.objective.iterations,
        max_completion_length=config.sampling.max_new_tokens,
        temperature=config.sampling.temperature,
        beta=config.objective.beta,
        epsilon=config.objective.epsilon,
        loss_type=config.objective.loss,
        scale_rewards=config.objective.scale_rewards,
    )
