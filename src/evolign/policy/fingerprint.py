"""A short hash by which a run recognises its base model."""

import hashlib
from typing import Any

import torch

from evolign.policy.bytes import stored_tensors

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def model_fingerprint(model: Any, dtype: torch.dtype | None = None) -> str:
    """A hash of parameter names, shapes and 64 evenly spaced values of each, as they are stored, or as they
    would be in `dtype`.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in model.named_parameters():
        for stored in stored_tensors(parameter):
            flat = stored.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // 64)][:64].to(dtype or flat.dtype)
            digest.update(f"{name}{tuple(stored.shape)}{sample.dtype}".encode())
            digest.update(sample.to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()


def could_be(model: Any, fingerprint: str) -> bool:
    """Whether `model` has this fingerprint in some dtype; True too where its dtype is too coarse to tell."""
    return model.dtype != torch.float32 or any(model_fingerprint(model, d) == fingerprint for d in DTYPES)
