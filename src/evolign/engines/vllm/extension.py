"""What runs inside vLLM's worker: LoRA adapters from memory, in place of files.

vLLM has no public call for this. What is used of its insides is in this file alone, and was tested with the
versions that `engine.TESTED` names.
"""

from typing import Any


class AdaptersInMemory:
    """vLLM's `worker_extension_cls`: its methods are called by `LLM.collective_rpc`."""

    model_runner: Any

    def add_adapter_bytes(self, number: int, tensors: bytes, config: dict[str, Any]) -> bool:
        """Make an adapter of PEFT's tensors and settings known as `number`, in the place of an older one."""
        from safetensors.torch import load
        from vllm.lora.lora_model import LoRAModel
        from vllm.lora.peft_helper import PEFTHelper

        manager = self.model_runner.lora_manager
        adapters = manager._adapter_manager
        context = {"vllm_max_position_embeddings": manager.max_position_embeddings}
        peft = PEFTHelper.from_dict(config | context)
        peft.validate_legal(manager.lora_config)
        mapper = getattr(adapters.model, "hf_to_vllm_mapper", None)
        adapter = LoRAModel.from_lora_tensors(
            number,
            load(tensors),
            peft,
            device="cpu",
            dtype=manager.lora_config.lora_dtype,
            model_vocab_size=manager.vocab_size,
            weights_mapper=mapper.get_rename_mapper() if mapper is not None else None,
        )
        adapters.remove_adapter(number)
        if len(adapters) + 1 > adapters.capacity:
            adapters.remove_oldest_adapter()
        added: bool = adapters.add_adapter(adapter)
        return added

    def missing_parts(self) -> list[str]:
        """What of vLLM's insides is needed here and is not there."""
        missing = []
        manager = getattr(self.model_runner, "lora_manager", None)
        for name in ("_adapter_manager", "max_position_embeddings", "lora_config", "vocab_size"):
            if not hasattr(manager, name):
                missing.append(f"lora_manager.{name}")
        try:
            from vllm.lora.lora_model import LoRAModel

            if not hasattr(LoRAModel, "from_lora_tensors"):
                missing.append("LoRAModel.from_lora_tensors")
        except ImportError:
            missing.append("vllm.lora.lora_model")
        return missing

    def take_adapter(self, number: int) -> bool:
        """Forget an adapter."""
        removed: bool = self.model_runner.lora_manager._adapter_manager.remove_adapter(number)
        return removed
