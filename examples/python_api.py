"""Evolve a model that is already loaded, with rows and a reward defined in Python.

    python examples/python_api.py

Every command of the command line is also one Python call.
`evolign.evolve` is the call for objects that already exist in Python.
"""

import tempfile
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import evolign
from evolign import embedded

ROWS = [{"question": f"{x} + {y} = ?\n", "sum": x + y} for x in range(11, 27) for y in range(12, 16)]


def reward(prompts: list[str], completions: list[str], sum: list[int], **columns: Any) -> list[float]:
    """Return 1 if the completion ends in the sum."""
    return [float(text.strip().endswith(str(value))) for text, value in zip(completions, sum, strict=True)]


def main() -> evolign.Result:
    folder = embedded.path("arithmetic")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as runs:
        result = evolign.evolve(
            model=model,
            tokenizer=tokenizer,
            train=ROWS,
            reward=reward,
            out=Path(runs) / "sums",
            task={"prompt": "question", "num_validation": 16, "metric": "accuracy"},
            adapter={"warm_start": None, "target_modules": "all-linear", "rank": 4},
            sampling={"max_new_tokens": 24},
            strategy={"name": "snes", "population": 8},
            evolution={"generations": 4, "prompts_per_generation": 16},
            evaluation={"every": 2},
        )
        tuned = PeftModel.from_pretrained(model, result.adapter)  # an ordinary PEFT adapter
        inputs = tokenizer("17 + 15 = ?\n", return_tensors="pt", return_token_type_ids=False)
        print(tokenizer.decode(tuned.generate(**inputs, max_new_tokens=24)[0], skip_special_tokens=True))
    return result


if __name__ == "__main__":
    main()
