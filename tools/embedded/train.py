"""Train `embedded:arithmetic` from scratch: `python tools/embedded/train.py --out FOLDER`.

The model first learns to work problems out (mostly careful solutions), then picks up a bad habit
(mostly sloppy ones): it keeps the skill but rarely uses it. Only problems of the train split are
seen, and the loss is on the solutions alone.
"""

import numpy as np
from pretraining import build_model, build_tokenizer, complete, output_folder, train
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from evolign.rewards.named import arithmetic_answer
from evolign.seeding import key, stream
from evolign.tasks.arithmetic import (
    MARKER,
    OPERATIONS,
    distinct_problems,
    draw_problem,
)

SEED = 0
WORD_PATTERN = r" ?[A-Za-z]+|[0-9]|\n| ?[^A-Za-z0-9 \n]+ ?| +"
STEPS, HABIT_STEPS, BATCH_SIZE = (
    2000,
    400,
    128,
)  # of the steps the last ones, in which sloppy solutions dominate
CAREFUL_SHARE_SKILL, CAREFUL_SHARE_HABIT = 0.8, 0.2
NUM_TEST, MAX_NEW_TOKENS = 500, 32


def draw_row(rng: np.random.Generator, step: int, row: int) -> tuple[str, str]:
    """A new problem of the train split with one of its solutions."""
    forming_habit = step >= STEPS - HABIT_STEPS
    careful_share = CAREFUL_SHARE_HABIT if forming_habit else CAREFUL_SHARE_SKILL
    problem = draw_problem(rng, "train", OPERATIONS[row % len(OPERATIONS)])
    return problem.prompt, problem.careful if rng.random() < careful_share else problem.sloppy


def tokenizer_texts() -> list[str]:
    """Problems of the train split with both solutions."""
    problems = distinct_problems("train", OPERATIONS, 1000, SEED)
    return [text for p in problems for text in (p.prompt, p.careful, p.sloppy)]


def report(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Print the accuracy on test problems: as it comes, and with the first token given."""
    problems = distinct_problems("test", OPERATIONS, NUM_TEST, SEED)
    answers = [problem.answer for problem in problems]
    beginnings = {
        "free": [""] * NUM_TEST,
        "careful": [problem.careful[0] for problem in problems],
        "sloppy": [f"{MARKER} "] * NUM_TEST,
    }
    for mode, given in beginnings.items():
        prompts = [problem.prompt + text for problem, text in zip(problems, given, strict=True)]
        for decoding in ("sampled", "greedy"):
            rest = complete(
                model, tokenizer, prompts, sample=decoding == "sampled", max_new_tokens=MAX_NEW_TOKENS
            )
            completions = [text + more for text, more in zip(given, rest, strict=True)]
            scores = np.array(arithmetic_answer(prompts, completions, answers), dtype=float)
            accuracy = scores.mean()
            print(f"accuracy  {mode:8s} {decoding:8s} {accuracy:.3f}")


def main() -> None:
    """Train, measure and save."""
    folder = output_folder("arithmetic")
    tokenizer = build_tokenizer(tokenizer_texts(), word_pattern=WORD_PATTERN)
    model = build_model(tokenizer, width=96, layers=4, seed=key(SEED, "embedded", "weights"))
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    rng = stream(SEED, "embedded", "arithmetic")
    train(model, tokenizer, draw_row, rng, steps=STEPS, batch_size=BATCH_SIZE)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    report(model, tokenizer)


if __name__ == "__main__":
    main()
