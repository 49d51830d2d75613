"""`evolign.trl.EvolutionTrainer`: `evolign.evolve` in the shape of TRL's GRPOTrainer."""

import inspect
import math
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import (
    AutoTokenizer,
    DefaultFlowCallback,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_callback import CallbackHandler
from transformers.trainer_utils import TrainOutput

from evolign.commands.evaluate import evaluate_adapter
from evolign.commands.evolve import borrowed, evolve, prepare
from evolign.config import EvolutionConfig as RunConfig
from evolign.config.paths import CLASSIFIER
from evolign.config.recipe import parse
from evolign.errors import ConfigError, RunError, shown, unknown_name
from evolign.evaluation.evaluate import ranking
from evolign.policy.base_model import load_base_model
from evolign.rewards.weighted import weighted
from evolign.runs.progress import Terminal
from evolign.seeding import random_states_kept
from evolign.tasks.files import read_rows
from evolign.tasks.rows import Rows
from evolign.trl.arguments import REFUSED, reasons
from evolign.trl.config import EvolutionConfig, refuse
from evolign.trl.hub import Repository, complete_card
from evolign.trl.reporting import Reporter, evaluation_logs
from evolign.trl.sections import model_section, prompting_section, sections
from evolign.types import Reward

RowsGiven = Iterable[Mapping[str, Any]]


class EvolutionTrainer:
    """Evolve a LoRA adapter of a model on prompts and rewards; arguments and methods as of GRPOTrainer.

        trainer = EvolutionTrainer(
            model="Qwen/Qwen2.5-0.5B-Instruct", reward_funcs=reward, train_dataset=dataset,
            args=EvolutionConfig(output_dir="runs/mine", max_steps=50),
        )
        trainer.train()
        trainer.save_model("my-adapter")  # an ordinary PEFT adapter

    The run directory is `args.output_dir`. `model` stays as it was; the result is the PEFT adapter in the
    folder `adapter`. Raises ConfigError for arguments of GRPO that mean nothing here: docs/from_grpo.md.
    """

    def __init__(
        self,
        model: str | Path | PreTrainedModel,
        reward_funcs: Reward | Sequence[Reward],
        args: EvolutionConfig | None = None,
        train_dataset: RowsGiven | None = None,
        eval_dataset: RowsGiven | None = None,
        processing_class: Any = None,
        *,
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]] | None = None,
        peft_config: Any = None,
        **refused: Any,
    ) -> None:
        _refuse_arguments(refused)
        self.args = _checked_args(args, model)
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.reward_funcs = _rewards(reward_funcs)
        self.model, self.processing_class = _loaded(model, processing_class, self.args)
        rows = _rows(train_dataset, "train_dataset")
        self._validation = None if eval_dataset is None else _rows(eval_dataset, "eval_dataset")
        self._call: dict[str, Any] = {
            "model": self.model,
            "tokenizer": self.processing_class,
            "model_settings": prompting_section(self.args),
            "train": rows,
            "validation": self._validation,
            "reward": self.reward_funcs,
            "reward_weights": self.args.reward_weights,
            **sections(self.args, peft_config, len(rows), self._validation is not None),
        }
        config, self._task = prepare(**self._call)
        assert isinstance(config, RunConfig)
        self._config = config
        self._adapter: Path | None = None
        self.state, self.control = self._new_state(), TrainerControl()
        reporting = get_reporting_integration_callbacks(self.args.report_to)
        self.callback_handler = CallbackHandler(
            [DefaultFlowCallback, *reporting, *(callbacks or [])],
            self.model,
            self.processing_class,
            None,
            None,
        )
        self.control = self.callback_handler.on_init_end(self.args, self.state, self.control)

    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """See transformers.Trainer."""
        self.callback_handler.add_callback(callback)

    def pop_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> TrainerCallback | None:
        """See transformers.Trainer."""
        return self.callback_handler.pop_callback(callback)

    def remove_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """See transformers.Trainer."""
        self.callback_handler.remove_callback(callback)

    def train(self, resume_from_checkpoint: bool | str | None = None) -> TrainOutput:
        """Evolve, and return what GRPOTrainer returns; `training_loss` is NaN, since there is no loss.

        True, or the run directory or a file in it, resumes the run there. A run that a callback has stopped
        can be resumed, one that has reached a limit is finished. Raises EvolignError.
        """
        out = Path(self.args.output_dir)
        _check_resumption(out, resume_from_checkpoint)
        if self.args.push_to_hub:
            Repository(self.args)  # fail before the run, not after it
        self.state, started = self._new_state(), time.perf_counter()
        per_epoch = math.ceil(len(self._task.train) / self._config.evolution.prompts_per_generation)
        with Terminal(out / "log.txt") as terminal:
            reporter = Reporter(
                self.args,
                self.state,
                self.control,
                self.callback_handler,
                shown=terminal,
                best=self._selecting,
                per_epoch=per_epoch,
            )
            result = evolve(**self._call, out=out, progress=reporter)
        self._adapter = result.adapter
        seconds = time.perf_counter() - started
        prompts = self.state.global_step * self._config.evolution.prompts_per_generation
        metrics = {
            "train_runtime": seconds,
            "train_samples_per_second": prompts / seconds,
            "train_steps_per_second": self.state.global_step / seconds,
        }
        reporter.log(metrics)
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        if self.args.push_to_hub:
            self.push_to_hub()
        return TrainOutput(self.state.global_step, math.nan, metrics | {"epoch": self.state.epoch})

    def evaluate(
        self, eval_dataset: RowsGiven | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Metrics of the result, or of the starting model before `train`, on the evaluation rows.

        They are named `eval_reward_greedy` and the like; `eval_reward` is the one that selects.
        """
        task, split, started = self._task, "validation", time.perf_counter()
        if eval_dataset is not None:
            options = self._config.task.model_dump(
                include={"prompt", "completion", "system", "chat", "metric"}
            )
            rows = _rows(eval_dataset, "eval_dataset")
            reward = weighted(self.reward_funcs, self.args.reward_weights)
            task, split = Rows(test=rows, reward=reward, **options), "test"
        path = self._adapter or self._config.adapter.path
        adapter = self._config.adapter.model_copy(update={"path": None if path is None else str(path)})
        config = self._config.model_copy(update={"adapter": adapter})
        with random_states_kept(), borrowed(self.model, self.processing_class, config.model) as base:
            assert base is not None
            found = evaluate_adapter(config, task, split, base)
        metrics = evaluation_logs(found.metrics, self._selecting, metric_key_prefix)
        metrics[f"{metric_key_prefix}_runtime"] = time.perf_counter() - started
        self.state.log_history.append(metrics | {"step": self.state.global_step, "epoch": self.state.epoch})
        logs = dict(self.state.log_history[-1])
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs=logs)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def save_model(self, output_dir: str | Path | None = None, _internal_call: bool = False) -> None:
        """Write the PEFT adapter, its card and the tokenizer to `output_dir` (default: the run directory)."""
        folder = Path(output_dir or self.args.output_dir)
        shutil.copytree(self._result(), folder, dirs_exist_ok=True)
        self.processing_class.save_pretrained(str(folder))

    def push_to_hub(
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        *,
        dataset_name: str | Sequence[str] | None = None,
        tags: str | Sequence[str] | None = None,
    ) -> Any:
        """Upload what `save_model` writes; the CommitInfo, or a future of it where it does not block.

        The repository is `args.hub_model_id`, and private unless `args.hub_private_repo` is False.
        """
        self._result()
        repository = Repository(self.args, token)

        def push() -> Any:
            with tempfile.TemporaryDirectory() as folder:
                self.save_model(folder)
                complete_card(Path(folder) / "README.md", _listed(dataset_name), _listed(tags))
                return repository.upload(Path(folder), commit_message, revision)

        return push() if blocking else repository.later(push)

    @property
    def _selecting(self) -> str:
        """The metric that selects the result."""
        return ranking(self._config.evaluation, self._task.metric)[0]

    def _new_state(self) -> TrainerState:
        generations = self._config.evolution.generations
        state = TrainerState(max_steps=generations, num_train_epochs=math.ceil(self.args.num_train_epochs))
        state.compute_steps(self.args, generations)
        return state

    def _result(self) -> Path:
        if self._adapter is None:
            raise RunError("there is no result yet; call train() first")
        return self._adapter


def _refuse_arguments(given: Mapping[str, Any]) -> None:
    """Raise ConfigError for arguments of GRPOTrainer that are refused, and for those that nobody knows."""
    known = reasons(REFUSED)
    if unknown := [name for name in given if name not in known]:
        arguments = [*inspect.signature(EvolutionTrainer).parameters]
        raise unknown_name("argument of EvolutionTrainer", unknown[0], arguments)
    refuse(dict(given), {"optimizers": (None, None)})


def _checked_args(args: Any, model: Any) -> EvolutionConfig:
    if args is None:
        name = model if isinstance(model, str | Path) else model.name_or_path
        return EvolutionConfig(output_dir=f"{Path(name).name}-Evolution")
    if not isinstance(args, EvolutionConfig):
        raise ConfigError(
            f"args is a {type(args).__name__}; EvolutionTrainer takes an EvolutionConfig, which has the same "
            "arguments and tells which of them mean nothing here"
        )
    return args


def _rewards(given: Reward | Sequence[Reward]) -> list[Reward]:
    """The reward functions, or names of rewards; the folder of a classifier is one."""
    rewards = [given] if isinstance(given, str) or not isinstance(given, Sequence) else [*given]
    for reward in rewards:
        if isinstance(reward, PreTrainedModel) or not (isinstance(reward, str) or callable(reward)):
            raise ConfigError(
                f"reward_funcs: {shown(type(reward).__name__)}: must be a function, a name, or a list of "
                "them; save a reward model to a folder and give 'classifier:FOLDER'"
            )
    return [
        f"{CLASSIFIER}{reward}" if isinstance(reward, str) and Path(reward).is_dir() else reward
        for reward in rewards
    ]


def _loaded(model: Any, tokenizer: Any, args: EvolutionConfig) -> tuple[PreTrainedModel, Any]:
    """The model and its tokenizer, loaded where they are not given."""
    if isinstance(model, str | Path):
        config = parse({"model": model_section(args, str(model))}, source="EvolutionTrainer")
        base = load_base_model(config.model)
        return base.model, base.tokenizer if tokenizer is None else tokenizer
    if not isinstance(model, PreTrainedModel):
        raise ConfigError(
            f"model is a {type(model).__name__}; must be a model of transformers or the name of one. To "
            "start from an adapter, save it and give its folder: EvolutionConfig(adapter=...)"
        )
    return model, AutoTokenizer.from_pretrained(model.name_or_path) if tokenizer is None else tokenizer


def _rows(given: Any, field: str) -> list[dict[str, Any]]:
    """The rows of a data set, which must have an end."""
    if given is None or isinstance(given, Mapping) or not hasattr(given, "__len__"):
        raise ConfigError(
            f"{field} is a {type(given).__name__}; give one datasets.Dataset, a list of dicts or a file. Of "
            "several splits take one, and of a stream some rows: list(stream.take(1000))"
        )
    return read_rows(given, field, "train")


def _check_resumption(out: Path, wanted: bool | str | None) -> None:
    """Raise RunError where `out` holds a run and none was wanted, or the other way round."""
    holds_run = (out / "config.json").is_file()
    if holds_run and not wanted:
        raise RunError(
            f"output_dir = {str(out)!r} holds a run; continue it with train(resume_from_checkpoint=True), or "
            "give another output_dir"
        )
    if wanted and not holds_run:
        raise RunError(f"output_dir = {str(out)!r} holds no run to resume; call train()")
    if isinstance(wanted, str | Path) and not Path(wanted).resolve().is_relative_to(out.resolve()):
        raise RunError(
            f"resume_from_checkpoint = {str(wanted)!r}: a run is resumed in its own directory; set "
            "output_dir to it"
        )


def _listed(names: str | Sequence[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else [*(names or [])]
