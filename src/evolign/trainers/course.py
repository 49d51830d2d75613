"""The course of a training run, which all methods that train by gradients share."""

import contextlib
from collections.abc import Callable
from typing import Any

from transformers import PrinterCallback

from evolign.config import GradientConfig
from evolign.engines import build_engine
from evolign.policy.base_model import BaseModel
from evolign.policy.restoring import given_back, quiet
from evolign.rewards.scoring import Scorer
from evolign.runs.directory import RunDir
from evolign.runs.progress import Progress
from evolign.seeding import random_states_kept
from evolign.tasks.base import Task, examples
from evolign.trainers.session import PolicySession, Session
from evolign.trainers.trainable import Trainable
from evolign.trainers.trainer import Recorder


def train(
    config: GradientConfig,
    run: RunDir,
    task: Task,
    base: BaseModel,
    progress: Progress,
    build: Callable[[PolicySession], Any],
) -> dict[str, Any]:
    """Run or resume the method whose Trainer `build` makes; returns what result.json holds.

    A LoRA adapter is taken out of `base` again at the end; where `adapter` is null, `base` itself is trained.
    """
    with (
        Scorer(task.reward, **config.scoring.model_dump(), progress=progress) as scorer,
        given_back(base.model),
    ):
        scorer.start()  # fail early if the reward cannot be loaded
        trainable = Trainable(config, base, task.warmup, run.warm_start, progress)
        run.record_warm_start()
        rows = examples(task)
        with (
            contextlib.closing(trainable),
            build_engine(config.engine, trainable.policy, rows, progress) as engine,
        ):
            session = PolicySession(config, run, task, trainable, progress, engine=engine, scorer=scorer)
            return follow(session, build)


def follow(session: Session, build: Callable[[Any], Any]) -> dict[str, Any]:
    """Train from the newest checkpoint to a limit, evaluate, export, and write result.json.

    A run that was asked to stop gets no result.json, since it can be resumed.
    """
    run, trainable = session.run, session.trainable
    with quiet(), random_states_kept():
        trainer = build(session)
        trainable.restrict()
        session.progress.say(f"Training {trainable} with {session.config.method}.")
        session.resume()
        if not session.state.stopped:
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(Recorder(session, trainer.steps_per_batch))
            newest = str(session.checkpoint) if session.checkpoint else None
            with session.progress.phase("training"):
                trainer.train(resume_from_checkpoint=newest)
        summary = session.finish()
        with run.replacing(run.adapter if trainable.is_adapter else run.model) as folder:
            trainable.export(folder, summary)
    return run.finish(summary) if session.state.stopped else summary
