"""A reward model: a sequence classifier with one score, trained on pairs by TRL's RewardTrainer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

from evolign.config import RewardModelConfig
from evolign.evaluation.evaluate import Evaluation
from evolign.metrics import interval
from evolign.policy.base_model import BaseModel
from evolign.policy.export import write_model
from evolign.policy.restoring import quiet
from evolign.policy.targets import lora_config
from evolign.policy.threads import cpu_threads
from evolign.runs.directory import RunDir
from evolign.runs.progress import Progress
from evolign.seeding import key, random_states_kept
from evolign.tasks.base import Task
from evolign.tasks.needs import pairs
from evolign.trainers.course import follow
from evolign.trainers.dataset import ranked_row
from evolign.trainers.session import Session
from evolign.trainers.trainable import Trainable
from evolign.trainers.trainer import Resumable, arguments
from evolign.types import Example


def reward_model(
    config: RewardModelConfig, run: RunDir, task: Task, base: BaseModel, progress: Progress
) -> dict[str, Any]:
    """A sequence classifier trained on pairs, for use as a reward (Bradley and Terry 1952; TRL)."""
    with cpu_threads(base.model, config.engine.threads):
        session = PairSession(config, run, task, Classifier(config, base), progress)
        return follow(session, PairTrainer)


class Classifier(Trainable):
    """The base model under a new head with one score; all weights are trained, or an adapter and the head.

    The result is a whole model in either case: an adapter is merged into it.
    """

    is_adapter = False

    def __init__(self, config: RewardModelConfig, base: BaseModel) -> None:
        self.base = base
        self._use_cache = getattr(base.model.config, "use_cache", True)
        self._space = None
        with quiet(), random_states_kept():
            torch.manual_seed(key(config.seed, "score head"))
            self._whole = AutoModelForSequenceClassification.from_pretrained(
                base.name,
                num_labels=1,
                dtype=torch.float32,
                use_safetensors=True,
                revision=config.model.revision,
                trust_remote_code=config.model.trust_remote_code,
            ).to(base.model.device)
        self._whole.config.pad_token_id = base.tokenizer.pad_token_id
        self.model: Any = self._whole
        if config.adapter is not None:
            settings = lora_config(base.model, config.adapter)
            settings.task_type = "SEQ_CLS"  # PEFT then trains the head as well
            with quiet(), random_states_kept():
                torch.manual_seed(config.seed)
                self.model = get_peft_model(self._whole, settings)

    def export(self, folder: Path, summary: Mapping[str, Any]) -> None:
        """Write the classifier, as `AutoModelForSequenceClassification.from_pretrained` loads it."""
        model = self.model if self.model is self._whole else self.model.merge_and_unload()
        model.config.use_cache = self._use_cache
        write_model(model, self.base.tokenizer, self.base.name, folder, summary)

    def __str__(self) -> str:
        """See `Trainable.__str__`."""
        count = sum(p.numel() for p in self.parameters().values())
        part = "all" if self.model is self._whole else "a LoRA adapter and the head,"
        return f"{part} {count:,} weights of a classifier"

    @torch.inference_mode()
    def scores(self, rows: Sequence[list[int]]) -> np.ndarray:
        """The score of token sequences, (B,)."""
        longest = max(map(len, rows))
        ids_BT = torch.full((len(rows), longest), self.base.tokenizer.pad_token_id)
        mask_BT = torch.zeros_like(ids_BT)
        for number, row in enumerate(rows):
            ids_BT[number, : len(row)] = torch.tensor(row)
            mask_BT[number, : len(row)] = 1
        device = self.base.model.device
        logits_B1 = self.model(input_ids=ids_BT.to(device), attention_mask=mask_BT.to(device)).logits
        scores_B: np.ndarray = logits_B1[:, 0].double().cpu().numpy()
        return scores_B


class PairSession(Session):
    """The session of a reward model; its accuracy is the share of pairs that it ranks as given."""

    metric = "accuracy"
    ranking = ["accuracy", "margin"]  # noqa: RUF012
    trainable: Classifier

    def evaluate(self, split: str) -> Evaluation:
        """See `Session.evaluate`; a pair counts if the better completion has the higher score."""
        examples = pairs(getattr(self.task, split), self.config.method, split)
        size = self.config.training.batch_size
        with self.trainable.inference():
            margin_P = np.concatenate(
                [self._margins(examples[i : i + size]) for i in range(0, len(examples), size)]
            )
        right_P = (margin_P > 0).astype(float)
        low, high = interval(right_P, "accuracy")
        metrics = {
            "accuracy": float(right_P.mean()),
            "accuracy_low": low,
            "accuracy_high": high,
            "margin": float(margin_P.mean()),
        }
        samples = [
            {
                "id": example.id,
                "decoding": "pair",
                "prompt": example.prompt,
                "completion": example.completion,
                "rejected": example.rejected,
                "score": float(margin),
            }
            for example, margin in zip(examples, margin_P, strict=True)
        ]
        return Evaluation(metrics, samples)

    def _margins(self, examples: Sequence[Example]) -> np.ndarray:
        """Score of the better completion minus that of the worse one."""
        length = self.config.training.max_length
        rows = [ranked_row(self.trainable.base, example, length) for example in examples]
        chosen = self.trainable.scores([row["chosen_ids"] for row in rows])
        result: np.ndarray = chosen - self.trainable.scores([row["rejected_ids"] for row in rows])
        return result


class PairTrainer(Resumable, RewardTrainer):
    """TRL's RewardTrainer on rows that are token ids already."""

    steps_per_batch = 1

    def __init__(self, session: PairSession) -> None:
        self.session = session
        config, trainable = session.config, session.trainable
        rows = [
            ranked_row(trainable.base, example, config.training.max_length)
            for example in pairs(session.task.train, config.method)
        ]
        super().__init__(
            model=trainable.model,
            args=RewardConfig(**arguments(config, session, max_length=None)),
            train_dataset=Dataset.from_list(rows),
            processing_class=trainable.base.tokenizer,
        )
