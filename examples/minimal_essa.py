"""ESSA in one file, without evolign. It takes five minutes to read and one minute to run.

    python examples/minimal_essa.py path/to/model

The method is that of arXiv 2507.04453. A short supervised fine-tuning gives the model a LoRA adapter.
CMA-ES then searches for better singular values of its factors A and B, by generating answers and
counting the correct ones. The model must know the notation of `careful` below, as evolign's embedded
model does.

This file shares only the idea with the package. The package adds support for any architecture, common
random numbers, a calibrated step size, validation, resuming, rewards that can be killed, and export.
"""

import sys
from typing import Any

import cma
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM, AutoTokenizer

RANK, POPULATION, PROMPTS, GENERATIONS, SIGMA = 8, 16, 32, 15, 0.4


def problem(rng: np.random.Generator) -> tuple[str, str, str]:
    """Draw a two-digit addition; return prompt, careful solution and answer."""
    x, y = rng.integers(11, 100, 2)
    ones = x % 10 + y % 10
    carry = "+1" if ones >= 10 else ""
    tens = x // 10 + y // 10 + (ones >= 10)
    careful = f"{x % 10}+{y % 10}={ones}, {x // 10}+{y // 10}{carry}={tens} #### {x + y}"
    return f"{x} + {y} = ?\n", careful, str(x + y)


def warm_start(model: Any, tokenizer: Any, rng: np.random.Generator, steps: int = 4, rows: int = 16) -> None:
    """Fine-tune a new LoRA adapter on careful solutions, with a loss on the completion only."""
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    for _ in range(steps):
        loss = torch.tensor(0.0)
        for prompt, careful, _ in (problem(rng) for _ in range(rows)):
            start = tokenizer(prompt)["input_ids"]
            rest = tokenizer(careful, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
            labels = torch.tensor([[-100] * len(start) + rest])
            loss = loss + model(torch.tensor([start + rest]), labels=labels).loss / rows
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class SingularValues:
    """Hooks that give every row of a batch its own singular values: theta, (rows, layers * 2 * RANK)."""

    theta: torch.Tensor

    def __init__(self, peft_model: torch.nn.Module) -> None:
        self.dim = 0
        module: Any
        for module in list(peft_model.modules()):
            if hasattr(module, "lora_A"):
                A, B = module.lora_A["default"].weight.data, module.lora_B["default"].weight.data
                u_a, s_a, v_a = torch.linalg.svd(A, full_matrices=False)  # A = U_A S_A V_A^T
                u_b, s_b, v_b = torch.linalg.svd(B, full_matrices=False)  # B = U_B S_B V_B^T
                factors = (v_a, s_a, v_b @ u_a, s_b, u_b * module.scaling["default"])
                module.base_layer.register_forward_hook(self.hook(factors, self.dim))
                module.scaling["default"] = 0.0  # the hook replaces PEFT's own update
                self.dim += 2 * RANK

    def hook(self, factors: tuple[torch.Tensor, ...], start: int) -> Any:
        v_a, s_a, core, s_b, u_b = factors

        def add_update(_: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            offsets = self.theta[:, None, start : start + 2 * RANK]
            x = linear(inputs[0], v_a) * (s_a + offsets[..., :RANK])
            return output + linear(linear(x, core) * (s_b + offsets[..., RANK:]), u_b)

        return add_update


@torch.inference_mode()
def accuracy(
    model: Any, tokenizer: Any, space: SingularValues, theta_ND: Any, problems: list[Any], sample: bool
) -> np.ndarray:
    """Return the accuracy of every candidate; all candidates and problems form one batch."""
    prompts = [prompt for prompt, _, _ in problems]
    batch = tokenizer(prompts * len(theta_ND), return_tensors="pt", padding=True, padding_side="left")
    batch.pop("token_type_ids", None)
    space.theta = torch.tensor(np.array(theta_ND), dtype=torch.float32).repeat_interleave(len(prompts), 0)
    sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0} if sample else {"do_sample": False}
    tokens = model.generate(**batch, max_new_tokens=24, **sampling)
    texts = tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    answers = [answer for _, _, answer in problems] * len(theta_ND)
    right = [text.split("####")[-1].strip() == answer for text, answer in zip(texts, answers, strict=True)]
    return np.asarray(np.reshape(right, (len(theta_ND), -1)).mean(1))


def main(folder: str) -> list[float]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(folder)
    model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"))
    warm_start(model, tokenizer, rng)
    space = SingularValues(model.eval())
    held_out = [problem(rng) for _ in range(100)]
    es = cma.CMAEvolutionStrategy(
        np.zeros(space.dim),
        SIGMA,
        {"popsize": POPULATION, "CMA_diagonal": True, "seed": 1, "verbose": -9},
    )
    for generation in range(GENERATIONS + 1):
        if generation % 5 == 0:
            scores = [
                float(accuracy(model, tokenizer, space, [es.mean], held_out, s)[0]) for s in (False, True)
            ]
            print(f"generation {generation:>2}: greedy {scores[0]:.2f}, sampled {scores[1]:.2f}")
        theta_ND = es.ask()
        problems = [problem(rng) for _ in range(PROMPTS)]  # the same for every candidate
        es.tell(theta_ND, -accuracy(model, tokenizer, space, theta_ND, problems, sample=True))
    return scores


if __name__ == "__main__":
    main(sys.argv[1])
