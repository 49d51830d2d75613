"""An adapter folded into the weights of its base model, and the folder held against the two."""

from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from evolign.config import ModelConfig
from evolign.errors import ConfigError, RunError
from evolign.policy.adapter import putting_in, read_adapter
from evolign.policy.base_model import load_base_model
from evolign.policy.fingerprint import could_be
from evolign.policy.quantization import is_quantised

TEXT = "The quick brown fox: 1 + 2 = 3, and 12 + 30 = 42.\n"
TOLERANCE = 1e-3
LOW_PRECISION = 0.1
"""Root mean square of what merging may change, in standard deviations of the logits; in 16 bits every merged
weight is rounded once more."""


def merge(config: ModelConfig, adapter: Path, out: Path, fingerprint: str | None = None) -> float:
    """Write the base model that `config` names with the adapter folded into its weights, and its tokenizer.

    The folder is read again and held against base model and adapter. Returns the root mean square by which
    their logits differ, in standard deviations of the logits; where it is more than rounding, this is a
    RunError, as it is where `fingerprint` tells that the base model is another.
    Raises ConfigError for quantised weights, which cannot take an adapter in without being rounded again.
    """
    base = load_base_model(config)
    if is_quantised(base.model):
        raise ConfigError(
            f"model.name = {config.name!r} is quantised, so an adapter cannot be merged into its weights; "
            "export without --merge"
        )
    if fingerprint is not None and not could_be(base.model, fingerprint):
        raise RunError(
            f"model.name = {config.name!r} has other weights than the model of the run; give the folder "
            "where that one lies now: model.name=FOLDER"
        )
    adapted = read_adapter(base.model, adapter).modules
    ids = base.encoder.encode(TEXT)[: base.encoder.context_length]
    with putting_in():
        peft_model = PeftModel.from_pretrained(base.model, str(adapter)).eval()
    before_TV = _logits(peft_model, ids)
    _untie(base.model, adapted)
    with putting_in():
        merged: Any = peft_model.merge_and_unload()
    as_it_was = {"dtype": str(merged.dtype).removeprefix("torch."), "revision": None}
    merged.save_pretrained(str(out))
    base.tokenizer.save_pretrained(str(out))
    del base, peft_model, merged  # the memory is needed again
    again = load_base_model(config.model_copy(update={"name": str(out), **as_it_was})).model
    difference = float(((_logits(again, ids) - before_TV) / before_TV.std()).square().mean().sqrt())
    if not difference <= (TOLERANCE if again.dtype == torch.float32 else LOW_PRECISION):
        raise RunError(
            f"the merged model is not {config.name!r} with the adapter {str(adapter)!r}: their logits "
            f"differ by {difference:.2g} standard deviations; nothing is kept; export without --merge"
        )
    return difference


def _untie(model: Any, adapted: Container[str]) -> None:
    """Give an adapted output layer weights of its own, where it shares those of the embeddings."""
    for name, module in model.named_modules():
        if module is model.get_output_embeddings() and isinstance(module, LoraLayer) and name in adapted:
            layer: Any = module.get_base_layer()
            layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
            for config in (model.config, model.config.get_text_config()):
                config.tie_word_embeddings = False


@torch.inference_mode()
def _logits(model: Any, ids: list[int]) -> Tensor:
    return model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0].double().cpu()  # type: ignore[no-any-return]
