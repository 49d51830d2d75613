"""Train the embedded arithmetic model from scratch: `python -m evolign.embedded.train --out DIR`.

The model first learns to work problems out (mostly careful solutions), then picks up a bad habit
(mostly sloppy ones): it keeps the skill but rarely uses it. One thread and one fixed seed make
the run reproducible.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evolign.tasks.arithmetic import (
    OPERATIONS,
    Problem,
    arithmetic_answer,
    distinct_problems,
    draw_problem,
)

SEED = 0
PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
WORD_PATTERN = r" ?[A-Za-z]+|[0-9]|\n| ?[^A-Za-z0-9 \n]+ ?| +"

STEPS = 2400
BATCH_SIZE = 128
PEAK_LEARNING_RATE = 4e-3
WARMUP_STEPS = 100
HABIT_STEPS = 500  # the last steps, in which sloppy solutions dominate
CAREFUL_SHARE_SKILL, CAREFUL_SHARE_HABIT = 0.8, 0.2
MAX_NEW_TOKENS = 32


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer: words are single tokens, digits stay apart."""
    texts = [
        text
        for problem in distinct_problems("train", OPERATIONS, 1000, SEED)
        for text in (problem.prompt, problem.careful, problem.sloppy)
    ]
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
    """Return the randomly initialised model."""
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            **special,
        )
    )
    model.generation_config.update(**special)
    return model


def training_batch(
    tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator, careful_share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw problems and one solution each; return token ids and labels, both (batch, length).

    Rows are padded on the right; labels are -100 outside of the solution and its end token.
    """
    problems = [draw_problem(rng, "train", OPERATIONS[i % len(OPERATIONS)]) for i in range(BATCH_SIZE)]
    solutions = [problem.careful if rng.random() < careful_share else problem.sloppy for problem in problems]
    prompts = tokenizer([problem.prompt for problem in problems])["input_ids"]
    completions = tokenizer([solution + EOS for solution in solutions])["input_ids"]
    length = max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
    tokens = torch.full((BATCH_SIZE, length), tokenizer.pad_token_id)
    labels = torch.full((BATCH_SIZE, length), -100)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        end = len(prompt) + len(completion)
        tokens[row, :end] = torch.tensor(prompt + completion)
        labels[row, len(prompt) : end] = torch.tensor(completion)
    return tokens, labels


def learning_rate(step: int) -> float:
    """Return the linear warm-up followed by a cosine decay to zero."""
    progress = max(0, step - WARMUP_STEPS) / (STEPS - WARMUP_STEPS)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return PEAK_LEARNING_RATE * min((step + 1) / WARMUP_STEPS, cosine)


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Train in place on an endless stream of problems of the train split."""
    rng = np.random.default_rng(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.1)
    start = time.perf_counter()
    model.train()
    for step in range(STEPS):
        habit = step >= STEPS - HABIT_STEPS
        careful_share = CAREFUL_SHARE_HABIT if habit else CAREFUL_SHARE_SKILL
        tokens, labels = training_batch(tokenizer, rng, careful_share)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        loss = model(input_ids=tokens, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 99:
            seconds = time.perf_counter() - start
            print(f"step {step + 1:5d}  loss {loss.item():.4f}  {seconds:.0f} s", flush=True)
    model.eval()


@torch.no_grad()
def complete(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[str],
    *,
    sample: bool,
) -> list[str]:
    """Complete each prompt, sampled at temperature 1 or greedily."""
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0} if sample else {"do_sample": False}
    output = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=MAX_NEW_TOKENS,
        **options,
    )
    new_tokens = output[:, inputs["input_ids"].shape[1] :]
    return tokenizer.batch_decode(new_tokens, skip_special_tokens=True)


def accuracy(problems: list[Problem], completions: list[str]) -> float:
    """Return the share of right final answers."""
    answers = [problem.answer for problem in problems]
    return float(np.mean(arithmetic_answer([], completions, answers)))


def report(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Print accuracies on unseen problems: as the model is, and forced into the careful mode."""
    problems = distinct_problems("test", OPERATIONS, 400, SEED)
    prompts = [problem.prompt for problem in problems]
    forced = [problem.prompt + problem.careful[0] for problem in problems]
    for name, sample in (("sampled", True), ("greedy", False)):
        free = complete(model, tokenizer, prompts, sample=sample)
        careful = complete(model, tokenizer, forced, sample=sample)
        print(
            f"{name:8s} accuracy {accuracy(problems, free):.3f}, "
            f"after a careful first token {accuracy(problems, careful):.3f}"
        )


def main() -> None:
    """Train, measure and save the model folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    folder = parser.parse_args().out
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")
    train(model, tokenizer)
    report(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
