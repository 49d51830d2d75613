"""Evolve a model that you hold in your hands, on rows and a reward that you hold in your hands.

    python examples/python_api.py

Everything the command line does is one Python call; this is the one for live objects.
"""

import tempfile
from pathlib import Path

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import evolign
from evolign import embedded

ROWS = [{"question": f"{x} + {y} = ?\n", "sum": x + y} for x in range(11, 27) for y in range(12, 16)]


def reward(prompts, completions, sum, **columns):
    """1 where the completion ends in the sum."""
    return [float(text.strip().endswith(str(value))) for text, value in zip(completions, sum, strict=True)]


def main():
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
