"""The result as others load it: a PEFT adapter folder with a model card, or merged weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolign.policy.adapter import Adapter
from evolign.policy.base_model import BaseModel

CARD = """\
---
base_model: {base}
library_name: peft
pipeline_tag: text-generation
tags: [evolign, {method}, lora, evolution-strategies]
---

# {method} on {task}

A LoRA adapter found by evolution with evolign: forward passes alone, no gradients after the warm start.

| metric | before | after |
|---|---|---|
{rows}

Mean of {num} held-out prompts, 95 % interval in brackets. Exported: the mean of generation {generation} of
{generations}. The run took {completions:,} completions and {seconds:,.0f} seconds.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base!r}), "path/to/this/folder")
```
"""


def write_adapter(adapter: Adapter, folder: Path, summary: Mapping[str, Any]) -> None:
    """Write `adapter` and a card that tells its `summary` (the contents of result.json)."""
    adapter.write(folder)
    (folder / "README.md").write_text(model_card(adapter, summary))


def model_card(adapter: Adapter, summary: Mapping[str, Any]) -> str:
    """The README.md of an exported adapter."""
    names = [name for name in summary["final"] if f"{name}_low" in summary["final"]]
    cells = [[_cell(summary[stage], name) for stage in ("baseline", "final")] for name in names]
    return CARD.format(
        base=adapter.config["base_model_name_or_path"],
        method=summary["method"],
        task=summary["task"],
        rows="\n".join(
            f"| {name} | {before} | {after} |" for name, (before, after) in zip(names, cells, strict=True)
        ),
        num=summary["num_examples"],
        generation=summary["exported_generation"],
        generations=summary["generations"],
        completions=summary["completions"],
        seconds=summary["seconds"],
    )


def merge(base: BaseModel, adapter: Path, out: Path) -> None:
    """Write the base model with the adapter folded into its weights, and its tokenizer."""
    from peft import PeftModel

    merged = PeftModel.from_pretrained(base.model, str(adapter)).merge_and_unload()
    merged.save_pretrained(str(out))
    base.tokenizer.save_pretrained(str(out))


def _cell(metrics: Mapping[str, float], name: str) -> str:
    return f"{metrics[name]:.3f} [{metrics[name + '_low']:.3f}, {metrics[name + '_high']:.3f}]"
