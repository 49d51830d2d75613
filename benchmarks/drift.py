"""How far runs have moved from their warm start where they were not asked to: study B's, once it has run.

    python benchmarks/drift.py runs/study/B --json

KL(warm start || result) in nats per token, over the whole vocabulary, on the task's test prompts with their
worked solutions and on text of another kind (the summaries of the other model in the package). And a habit
that no reward asked for: made to begin with the marker, the pretrained model writes an answer at once,
without its carry, so mostly wrong; counted is how often the result still writes the same, greedily. Mean over
seeds, lowest to highest.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from evolign.config import ModelConfig
from evolign.config.recipe import load
from evolign.engines.transformers.engine import TransformersEngine
from evolign.policy.base_model import BaseModel, load_base_model
from evolign.policy.policy import fixed_policy
from evolign.policy.restoring import quiet
from evolign.tasks.arithmetic import MARKER, OPERATIONS, distinct_problems
from evolign.tasks.summaries import distinct_stories
from evolign.types import Example, Population, Sampling

COUNT = 200
PROBLEMS = distinct_problems("test", OPERATIONS, COUNT, seed=1)
TEXTS = {
    "task": [problem.prompt + problem.careful for problem in PROBLEMS],
    "other text": [
        story.prompt + story.summary for story in distinct_stories("test", "plain", COUNT, seed=1)
    ],
}


@torch.no_grad()
def log_probabilities(base: BaseModel, adapter: Path, texts: list[str]) -> list[torch.Tensor]:
    """Per text, (T, V): of the next token at every place."""
    with quiet():
        model = PeftModel.from_pretrained(base.model, str(adapter)).eval()
    limit = base.encoder.context_length or 10**9
    rows = [torch.tensor([base.tokenizer(text)["input_ids"][:limit]]) for text in texts]
    found = [model(input_ids=ids).logits[0].float().log_softmax(-1) for ids in rows]
    model.unload()
    return found


def divergence(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    """KL(before || after) in nats per token."""
    nats = [(p.exp() * (p - q)).sum(-1) for p, q in zip(before, after, strict=True)]
    return float(torch.cat(nats).mean())


def habit(base: BaseModel, adapter: Path) -> float:
    """Share of the problems on which the model, made to answer at once, still forgets the carry."""
    beginning = f"{MARKER} "
    examples = [Example(id=str(i), prompt=p.prompt + beginning) for i, p in enumerate(PROBLEMS)]
    policy = fixed_policy(base, adapter)
    with TransformersEngine(policy) as engine:
        engine.add_prompts(examples)
        names = [example.id for example in examples]
        rollouts = engine.generate(Population.of_mean(), [names], Sampling(8, 0.0))
    written = [beginning + text for text in rollouts.text_NPS[0, :, 0]]
    return statistics.fmean(text == p.sloppy for text, p in zip(written, PROBLEMS, strict=True))


def measure(run: Path) -> dict[str, float]:
    base = load_base_model(ModelConfig(name=load(run / "config.json").model.name))
    found = {}
    for name, texts in TEXTS.items():
        before = log_probabilities(base, run / "warm_start", texts)
        found[name] = divergence(before, log_probabilities(base, run / "adapter", texts))
    found["habit before"] = habit(base, run / "warm_start")
    found["habit after"] = habit(base, run / "adapter")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, Any] = {}
    for entry in sorted(options.study.iterdir()):
        runs = sorted(path for path in entry.glob("seed*") if (path / "adapter").is_dir())
        if not runs:
            continue
        found = [measure(run) for run in runs]
        table[entry.name] = {
            name: [statistics.mean(values), min(values), max(values)]
            for name in found[0]
            for values in [[each[name] for each in found]]
        }
        cells = (
            f"{name} {m:.3f} ({low:.3f} to {high:.3f})" for name, (m, low, high) in table[entry.name].items()
        )
        print(f"{entry.name:28} {'  '.join(cells)}", flush=True)
    if options.json:
        print(json.dumps(table))


if __name__ == "__main__":
    main()
