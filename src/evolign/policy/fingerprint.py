"""A short hash by which a run recognises its base model."""

import hashlib
from typing import Any

import torch

from evolign.policy.bytes import stored_tensors


def model_fingerprint(model: Any) -> str:
    """A hash of parameter names, shapes and 64 evenly spaced values of each, as they are stored."""
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in model.named_parameters():
        for stored in stored_tensors(parameter):
            flat = stored.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // 64)][:64]
            digest.update(f"{name}{tuple(stored.shape)}{stored.dtype}".encode())
            digest.update(sample.to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()
