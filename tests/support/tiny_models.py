"""Tiny models with random weights for every architecture, saved as folders: no network, a few kilobytes."""

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]
CHARACTERS = string.digits + string.ascii_lowercase + " +-*/=().,:?!<>|\n#"
ENDS = [2, 9, 20, 31, 41, 52]
"""Tokens that end a completion: six of 64, so that a good part of the completions end within 16 tokens."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<bos>{{ message['role'] }}: {{ message['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant: {% endif %}"
)
SHARED: dict[str, Any] = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA_LIKE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    **SHARED,
}


def _gpt2() -> Any:
    from transformers import GPT2Config

    return GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, **SHARED)


def _opt() -> Any:
    from transformers import OPTConfig

    return OPTConfig(
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        **SHARED,
    )


def _gpt_neox() -> Any:
    from transformers import GPTNeoXConfig

    options = {name: value for name, value in LLAMA_LIKE.items() if name != "num_key_value_heads"}
    return GPTNeoXConfig(**options)


def _llama_like(name: str, **options: Any) -> Callable[[], Any]:
    def config() -> Any:
        import transformers

        return getattr(transformers, name)(**LLAMA_LIKE, **options)

    return config


CONFIGS: dict[str, Callable[[], Any]] = {
    "qwen2": _llama_like("Qwen2Config", tie_word_embeddings=True),
    "llama": _llama_like("LlamaConfig"),
    "mistral": _llama_like("MistralConfig", sliding_window=8),  # shorter than every sequence
    "gemma": _llama_like("GemmaConfig", head_dim=16),
    "gemma2": _llama_like("Gemma2Config", head_dim=16, sliding_window=8, tie_word_embeddings=False),
    "gpt2": _gpt2,
    "opt": _opt,
    "gpt_neox": _gpt_neox,
}

MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}
DELTA_NET = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_hidden_layers": 4,
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
HYBRIDS: dict[str, dict[str, Any]] = {
    "qwen3_next": {**DELTA_NET, **EXPERTS, "head_dim": 8},
    "qwen3_5_text": {**DELTA_NET, "head_dim": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 64},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "use_mamba_kernels": False},
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "falcon": {"alibi": False},
    "granite": {"logits_scaling": 4.0},
    "cohere": {"logit_scale": 0.25},
}
"""Architectures with layers of their own kind, beside attention or in its place."""


def save_tiny(architecture: str, folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write a model of `architecture` and its tokenizer to `folder`; `changes` to its configuration.

    The weights are wide enough apart that prompts and candidates get different greedy tokens.
    """
    config = CONFIGS[architecture]()
    config.update(changes)
    return _save(config, folder, seed)


def save_of_type(model_type: str, folder: Path, **options: Any) -> Path:
    """The same of any architecture of transformers, with `options` on top of Llama's."""
    from transformers import AutoConfig

    return _save(AutoConfig.for_model(model_type, **{**LLAMA_LIKE, **options}), folder, 0)


def _save(config: Any, folder: Path, seed: int) -> Path:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.25)
    model.generation_config.update(pad_token_id=0, bos_token_id=1, eos_token_id=ENDS)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def tiny_tokenizer(**special: str | None) -> Any:
    """One token per character. A byte-level BPE without merges is what every architecture's loader keeps."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    spelt = [{" ": "Ġ", "\n": "Ċ"}.get(character, character) for character in CHARACTERS]
    vocabulary = {token: i for i, token in enumerate(SPECIAL + spelt)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    names: dict[str, str | None] = {f"{token.strip('<>')}_token": token for token in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **{**names, **special})


def randomised(adapter: Any, *, seed: int = 0) -> Any:
    """`adapter` with a random B in place of zeros, as if it had been trained."""
    import torch

    from evolign.policy.adapter import Adapter, Lora

    generator = torch.Generator().manual_seed(seed)
    modules = {
        name: Lora(lora.A, 0.2 * torch.randn(lora.B.shape, generator=generator), lora.scaling)
        for name, lora in adapter.modules.items()
    }
    return Adapter(modules, adapter.config)
