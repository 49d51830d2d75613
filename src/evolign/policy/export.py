"""Export: a PEFT adapter or a model folder, with a model card."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from evolign import disk
from evolign.policy.adapter import Adapter

CARD = """\
---
{header}
---

# {method} on {task}

{what}

| metric | before | after |
|---|---|---|
{rows}

Mean of {num} held-out prompts, 95 % interval in brackets. Exported: {exported}. The run took {completions:,}
completions and {seconds:,.0f} seconds.

```python
{code}
```
"""
BY_EVOLUTION = (
    "A LoRA adapter found by evolution with evolign: only forward passes, no gradients after the warm start."
)
ADAPTER_CODE = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base!r}), "path/to/this/folder")"""
MODEL_CODE = """\
from transformers import {auto}

model = {auto}.from_pretrained("path/to/this/folder")"""
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
PIPELINES = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForSequenceClassification": "text-classification",
}


def write_adapter(adapter: Adapter, folder: Path, summary: Mapping[str, Any]) -> None:
    """Write `adapter` and a card that shows its `summary` (the contents of result.json)."""
    adapter.write(folder)
    base = adapter.config["base_model_name_or_path"]
    by_evolution = "exported_generation" in summary
    what = BY_EVOLUTION if by_evolution else f"A LoRA adapter trained by {summary['method']} with evolign."
    code = ADAPTER_CODE.format(base=_on_hub(base) or "path/to/the/base/model")
    tags = ["lora", *(["evolution-strategies"] if by_evolution else [])]
    disk.write(folder / "README.md", _card(summary, base, "peft", tags, what, code))


def write_model(model: Any, tokenizer: Any, base: str, folder: Path, summary: Mapping[str, Any]) -> None:
    """Write all weights of `model`, a language model or a classifier, its tokenizer, and a card."""
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    what = f"All weights trained by {summary['method']} with evolign."
    is_classifier = "ForSequenceClassification" in type(model).__name__
    auto = "AutoModelForSequenceClassification" if is_classifier else "AutoModelForCausalLM"
    code = MODEL_CODE.format(auto=auto)
    card = _card(summary, base, "transformers", [], what, code, PIPELINES[auto])
    disk.write(folder / "README.md", card)


def _card(
    summary: Mapping[str, Any],
    base: str,
    library: str,
    tags: list[str],
    what: str,
    code: str,
    pipeline: str = "text-generation",
) -> str:
    names = [name for name in summary["final"] if f"{name}_low" in summary["final"]]
    cells = [[_cell(summary[stage], name) for stage in ("baseline", "final")] for name in names]
    header = ModelCardData(
        base_model=_on_hub(base),
        library_name=library,
        pipeline_tag=pipeline,
        tags=["evolign", summary["method"], *tags],
    )
    return CARD.format(
        header=header.to_yaml(),
        method=summary["method"],
        task=summary["task"],
        what=what,
        rows="\n".join(
            f"| {name} | {before} | {after} |" for name, (before, after) in zip(names, cells, strict=True)
        ),
        num=summary["num_examples"],
        exported=_exported(summary),
        completions=summary["completions"],
        seconds=summary["seconds"],
        code=code,
    )


def _on_hub(base: str) -> str | None:
    """The name of `base` on the hub; None for a folder, whose path is nobody's business."""
    return base if HUB_NAME.fullmatch(base) and not Path(base).exists() else None


def _exported(summary: Mapping[str, Any]) -> str:
    if "exported_generation" in summary:
        return f"the mean of generation {summary['exported_generation']} of {summary['generations']}"
    return f"step {summary['exported_step']} of {summary['steps']}"


def _cell(metrics: Mapping[str, float], name: str) -> str:
    return f"{metrics[name]:.3f} [{metrics[name + '_low']:.3f}, {metrics[name + '_high']:.3f}]"
