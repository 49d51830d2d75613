"""The live model that gradients change: all weights, a LoRA adapter, or an adapter's singular values."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from evolign.config import GradientConfig
from evolign.config.policy import values_that_move
from evolign.policy.adapter import Adapter, adapter_settings, collect, read_adapter
from evolign.policy.base_model import BaseModel
from evolign.policy.export import write_adapter, write_model
from evolign.policy.policy import Policy, fixed_policy, starting_adapter
from evolign.policy.restoring import quiet
from evolign.policy.targets import check_trainable
from evolign.runs.progress import Progress
from evolign.types import Example

VALUE_HEAD = "value_head"
"""The name of the value head, which training may add to a model and its export leaves out."""
REFERENCE = "reference"


class Trainable:
    """A model with weights that require gradients, and the policy by which the engine samples from it.

    The starting adapter lies in `folder` afterwards, as in a run of evolution; `rows` are for its warm start.
    """

    def __init__(
        self,
        config: GradientConfig,
        base: BaseModel,
        rows: Sequence[Example],
        folder: Path,
        progress: Progress | None = None,
    ) -> None:
        self.base = base
        self._use_cache = getattr(base.model.config, "use_cache", True)
        self.policy: Policy = fixed_policy(base)
        self._folder = folder
        self._space = config.space
        if config.adapter is None:
            self.model: Any = base.model.float().requires_grad_(True)
            return
        starting_adapter(config, config.adapter, base, rows, folder, progress)
        check_trainable(base.model, read_adapter(base.model, folder).modules)
        with quiet():
            self.model = PeftModel.from_pretrained(base.model, str(folder), is_trainable=True)

    @property
    def is_adapter(self) -> bool:
        return isinstance(self.model, PeftModel)

    def restrict(self) -> None:
        """Leave only the singular values of the adapter's factors free, where `space` asks for it.

        Every factor becomes U diag(s) V^T with U and V frozen: what ESSA searches, by gradients (SVD-GRPO of
        arXiv 2507.04453v3). To be called once the trainer is built: TRL copies adapters by name.
        """
        if self._space is None:
            return
        for module in self.model.modules():
            if isinstance(module, LoraLayer):
                for linear in (module.lora_A["default"], module.lora_B["default"]):
                    u, s, v = torch.linalg.svd(linear.weight.detach().float(), full_matrices=False)
                    kept = values_that_move(self._space.alpha, len(s))
                    parametrize.register_parametrization(
                        linear, "weight", SingularValues(u, s, v, kept), unsafe=True
                    )

    def copy(self) -> Any:
        """The model as it stands, frozen."""
        return copy.deepcopy(self.model).eval().requires_grad_(False)

    def keep_reference(self) -> None:
        """Keep the model as it stands for `reference`: a copy of the adapter, or of all weights."""
        if not self.is_adapter:
            self._reference = self.copy()
            return
        self.model.add_adapter(REFERENCE, self.model.peft_config["default"])
        for name, parameter in self.model.named_parameters():
            if ".default." in name:
                twin = self.model.get_parameter(name.replace(".default.", f".{REFERENCE}."))
                twin.data.copy_(parameter.data)
                twin.requires_grad_(False)

    @contextmanager
    def reference(self) -> Iterator[Any]:
        """The model that was kept, frozen and without dropout."""
        if not self.is_adapter:
            yield self._reference
            return
        with self.inference():
            self.model.set_adapter(REFERENCE, inference_mode=True)
            try:
                yield self.base.model
            finally:
                self.model.set_adapter("default")

    def parameters(self) -> dict[str, Tensor]:
        """The trained weights by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def save(self, path: Path) -> None:
        """Write the trained weights to a safetensors file."""
        save_file({name: p.detach().contiguous() for name, p in self.parameters().items()}, path)

    def load(self, path: Path) -> None:
        """Load the trained weights from a safetensors file."""
        saved = load_file(path, device=str(self.base.model.device))
        with torch.no_grad():
            for name, parameter in self.parameters().items():
                parameter.copy_(saved[name])

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Switch dropout off while the engine samples."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)

    def export(self, folder: Path, summary: Mapping[str, Any]) -> None:
        """Write the model as PEFT or transformers load it, with a card that shows `summary`."""
        if hasattr(self.model, VALUE_HEAD):
            delattr(self.model, VALUE_HEAD)
        if self.is_adapter:
            write_adapter(Adapter(collect(self.model), adapter_settings(self._folder)), folder, summary)
        else:
            self.model.config.use_cache = self._use_cache  # trainers turn it off
            write_model(self.model, self.base.tokenizer, self.base.name, folder, summary)

    def __str__(self) -> str:
        """What is trained, in words."""
        count = sum(p.numel() for p in self.parameters().values())
        if not self.is_adapter:
            return f"all {count:,} weights"
        values = "the singular values of " if self._space is not None else ""
        return f"{values}a LoRA adapter ({count:,} parameters)"

    def close(self) -> None:
        """Take the adapter out of the base model."""
        if self.is_adapter:
            self.model.unload()


class SingularValues(nn.Module):
    """The parametrisation U diag(s) V^T of a matrix, of which the first `kept` values of s are free."""

    def __init__(self, u: Tensor, s: Tensor, v: Tensor, kept: int) -> None:
        super().__init__()
        self.register_buffer("u", u)
        self.register_buffer("v", v)
        self.register_buffer("fixed", s[kept:].clone())
        self._start = s[:kept].clone()

    def forward(self, free: Tensor) -> Tensor:
        return (self.u * torch.cat([free, self.fixed])) @ self.v  # type: ignore[operator, list-item]

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The free singular values of the starting matrix."""
        return self._start
