"""Training a small model from scratch: what the programs of the embedded models share.

One thread and a fixed seed make a training repeatable on one kind of processor.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
IGNORED = -100  # the label of a token that the loss leaves out
PEAK_LEARNING_RATE, WARMUP_STEPS = 4e-3, 100

DrawRow = Callable[[np.random.Generator, int, int], tuple[str, str]]
"""The prompt and the completion of a row, from a generator, the training step and the row's number."""


def build_tokenizer(
    texts: Iterable[str], *, word_pattern: str, vocabulary: int = 512
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `texts`, of which no token crosses a word of `word_pattern`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(word_pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
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


def special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """What a model's configuration says of padding, beginning and end."""
    return {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def build_model(
    tokenizer: PreTrainedTokenizerFast, *, width: int, layers: int, seed: int
) -> LlamaForCausalLM:
    """A Llama with random weights: 4 heads, an MLP of twice the width, a context of 256 tokens."""
    special = special_ids(tokenizer)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        **special,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    model.generation_config.update(**special)
    return model


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    draw_row: DrawRow,
    rng: np.random.Generator,
    *,
    steps: int,
    batch_size: int,
) -> None:
    """Train in place on an endless stream of rows; the loss is on the completions alone."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.1)
    started = time.perf_counter()
    model.train()
    for step in range(steps):
        rows = [draw_row(rng, step, i) for i in range(batch_size)]
        tokens_BT, labels_BT = padded_batch(tokenizer, rows)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        loss = model(input_ids=tokens_BT, labels=labels_BT).loss  # causal: nothing sees the padding behind it
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            seconds = time.perf_counter() - started
            print(f"step {step + 1:5d}  loss {loss.item():.4f}  {seconds:.0f} s", flush=True)
    model.eval()


def padded_batch(
    tokenizer: PreTrainedTokenizerFast, rows: Sequence[tuple[str, str]]
) -> tuple[Tensor, Tensor]:
    """Token ids and labels, both (B, T), padded on the right; labels are of the completion and its end."""
    prompt_ids = tokenizer([prompt for prompt, _ in rows])["input_ids"]
    completion_ids = tokenizer([completion + EOS for _, completion in rows])["input_ids"]
    length = max(len(p) + len(c) for p, c in zip(prompt_ids, completion_ids, strict=True))
    tokens_BT = torch.full((len(rows), length), tokenizer.pad_token_id)
    labels_BT = torch.full((len(rows), length), IGNORED)
    for row, (prompt, completion) in enumerate(zip(prompt_ids, completion_ids, strict=True)):
        end = len(prompt) + len(completion)
        tokens_BT[row, :end] = torch.tensor(prompt + completion)
        labels_BT[row, len(prompt) : end] = torch.tensor(completion)
    return tokens_BT, labels_BT


def learning_rate(step: int, steps: int) -> float:
    """A linear warm-up, then a cosine decay to zero."""
    progress = max(0, step - WARMUP_STEPS) / (steps - WARMUP_STEPS)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return PEAK_LEARNING_RATE * min((step + 1) / WARMUP_STEPS, cosine)


@torch.inference_mode()
def complete(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[str],
    *,
    sample: bool,
    max_new_tokens: int,
) -> list[str]:
    """A completion of each prompt, sampled at temperature 1 or greedy."""
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    output_BT = model.generate(
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=max_new_tokens,
        do_sample=sample,
        top_k=0 if sample else None,
    )
    new_BT = output_BT[:, inputs["input_ids"].shape[1] :]
    completions: list[str] = tokenizer.batch_decode(new_BT, skip_special_tokens=True)
    return completions


def output_folder(model: str) -> Path:
    """The folder of `--out`; from here on torch runs on one thread."""
    parser = argparse.ArgumentParser(description=f"Train embedded:{model} from scratch.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    folder: Path = parser.parse_args().out
    torch.set_num_threads(1)
    return folder
