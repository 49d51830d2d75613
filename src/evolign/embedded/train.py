"""Train `embedded:arithmetic` from scratch: `python -m evolign.embedded.train --out FOLDER`.

The model first learns to work problems out (mostly careful solutions), then picks up a bad habit
(mostly sloppy ones): it keeps the skill but rarely uses it. Only problems of the train split are
seen, and the loss is on the solutions alone. One thread and a fixed seed make a run repeatable.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evolign.seeding import key, stream
from evolign.tasks.arithmetic import (
    MARKER,
    OPERATIONS,
    arithmetic_answer,
    distinct_problems,
    draw_problem,
)

SEED = 0
PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
WORD_PATTERN = r" ?[A-Za-z]+|[0-9]|\n| ?[^A-Za-z0-9 \n]+ ?| +"
IGNORED = -100  # the label of a token that the loss leaves out

STEPS, HABIT_STEPS = 2000, 400  # in all, and the last ones, in which sloppy solutions dominate
CAREFUL_SHARE_SKILL, CAREFUL_SHARE_HABIT = 0.8, 0.2
BATCH_SIZE = 128
PEAK_LEARNING_RATE, WARMUP_STEPS = 4e-3, 100
NUM_TEST, MAX_NEW_TOKENS = 500, 32


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that knows the task's words as single tokens, digits apart."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    problems = distinct_problems("train", OPERATIONS, 1000, SEED)
    texts = [text for p in problems for text in (p.prompt, p.careful, p.sloppy)]
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The model with random weights."""
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        **special,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.update(**special)
    return model


def training_batch(
    tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator, careful_share: float
) -> tuple[Tensor, Tensor]:
    """Token ids and labels, both (B, T), of new problems with one solution each.

    Rows are padded on the right. Labels are IGNORED outside of the solution and its end token.
    """
    prompts, solutions = [], []
    for i in range(BATCH_SIZE):
        problem = draw_problem(rng, "train", OPERATIONS[i % len(OPERATIONS)])
        careful = rng.random() < careful_share
        prompts.append(problem.prompt)
        solutions.append((problem.careful if careful else problem.sloppy) + EOS)
    prompt_ids = tokenizer(prompts)["input_ids"]
    solution_ids = tokenizer(solutions)["input_ids"]
    rows = list(zip(prompt_ids, solution_ids, strict=True))
    length = max(len(prompt) + len(solution) for prompt, solution in rows)
    tokens_BT = torch.full((BATCH_SIZE, length), tokenizer.pad_token_id)
    labels_BT = torch.full((BATCH_SIZE, length), IGNORED)
    for row, (prompt, solution) in enumerate(rows):
        end = len(prompt) + len(solution)
        tokens_BT[row, :end] = torch.tensor(prompt + solution)
        labels_BT[row, len(prompt) : end] = torch.tensor(solution)
    return tokens_BT, labels_BT


def learning_rate(step: int) -> float:
    """A linear warm-up, then a cosine decay to zero."""
    progress = max(0, step - WARMUP_STEPS) / (STEPS - WARMUP_STEPS)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return PEAK_LEARNING_RATE * min((step + 1) / WARMUP_STEPS, cosine)


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Train in place on an endless stream of problems."""
    rng = stream(SEED, "embedded", "arithmetic")
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.1)
    started = time.perf_counter()
    model.train()
    for step in range(STEPS):
        forming_habit = step >= STEPS - HABIT_STEPS
        careful_share = CAREFUL_SHARE_HABIT if forming_habit else CAREFUL_SHARE_SKILL
        tokens_BT, labels_BT = training_batch(tokenizer, rng, careful_share)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        loss = model(input_ids=tokens_BT, labels=labels_BT).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            seconds = time.perf_counter() - started
            print(f"step {step + 1:5d}  loss {loss.item():.4f}  {seconds:.0f} s", flush=True)
    model.eval()


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
            rest = complete(model, tokenizer, prompts, sample=decoding == "sampled")
            completions = [text + more for text, more in zip(given, rest, strict=True)]
            accuracy = np.mean(arithmetic_answer(prompts, completions, answers))
            print(f"accuracy  {mode:8s} {decoding:8s} {accuracy:.3f}")


@torch.inference_mode()
def complete(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[str],
    *,
    sample: bool,
) -> list[str]:
    """A completion of each prompt, sampled at temperature 1 or greedy."""
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    output_BT = model.generate(
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=sample,
        top_k=0 if sample else None,
    )
    new_BT = output_BT[:, inputs["input_ids"].shape[1] :]
    completions: list[str] = tokenizer.batch_decode(new_BT, skip_special_tokens=True)
    return completions


def main() -> None:
    """Train, measure and save."""
    parser = argparse.ArgumentParser(description="Train embedded:arithmetic from scratch.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    folder = parser.parse_args().out
    torch.set_num_threads(1)
    torch.manual_seed(key(SEED, "embedded", "weights"))
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    train(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    report(model, tokenizer)


if __name__ == "__main__":
    main()
