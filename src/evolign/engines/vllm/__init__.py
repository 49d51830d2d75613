"""The engine `vllm`: candidates are LoRA adapters of a vLLM in this process, or of servers that run."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evolign.engines.base import Engine
    from evolign.policy.policy import Policy


def make(policy: "Policy", **settings: Any) -> "Engine":
    """The engine `vllm`: candidates are LoRA adapters of a vLLM in this process, or of servers at `url`."""
    if settings.get("url") is None:
        from evolign.engines.vllm.engine import VllmEngine

        return VllmEngine(policy, **settings)
    from evolign.engines.vllm.served import ServedEngine

    return ServedEngine(policy, **settings)
