"""Train `embedded:arithmetic` as a GPT-NeoX, Pythia's architecture; the embedded model is a Llama.

    python benchmarks/architecture.py --out runs/study/D/model        # about ten minutes

Data, size, steps and tokenizer are those of `tools/embedded/train.py`. Study D evolves it.
"""

import sys
from pathlib import Path

from evolign.seeding import key, stream

sys.path.append(str(Path(__file__).parents[1] / "tools" / "embedded"))

import train as llama
from pretraining import build_tokenizer, output_folder, special_ids, train


def main() -> None:
    folder = output_folder("arithmetic")
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    tokenizer = build_tokenizer(llama.tokenizer_texts(), word_pattern=llama.WORD_PATTERN)
    special = special_ids(tokenizer)
    torch.manual_seed(key(llama.SEED, "architecture", "weights") % 2**32)
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=288,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            **special,
        )
    )
    model.generation_config.update(**special)
    print(f"{model.num_parameters():,} parameters", flush=True)
    rng = stream(llama.SEED, "architecture", "arithmetic")
    train(model, tokenizer, llama.draw_row, rng, steps=llama.STEPS, batch_size=llama.BATCH_SIZE)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    llama.report(model, tokenizer)


if __name__ == "__main__":
    main()
