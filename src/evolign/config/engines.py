"""The engines, and what each of them can do."""

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from evolign.config.paths import FolderOrName
from evolign.config.section import AtMost, Auto, Batch, Section, Share
from evolign.types import Abilities

CORES = AtMost(1024, "no machine has more cores, and more threads than cores only wait for each other")
LARGEST = AtMost(10**6, "no machine has a petabyte of memory")
POOL = AtMost(100_000, "no cluster has room for more workers")
GPUS = AtMost(64, "no machine has more GPUs")
WEEK = AtMost(604_800, "nobody waits for longer than a week")
THREADS = AtMost(4096, "each of them is a thread of this process")


def _address(url: str) -> str:
    """`url`, if it is that of a server."""
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise ValueError("must be the address of a server, such as http://localhost:8000")
    return url


Url = Annotated[str, AfterValidator(_address)]


class TransformersConfig(Section):
    """Inference by transformers in this process."""

    name: Literal["transformers"] = "transformers"
    micro_batch_size: Batch | Auto = "auto"
    """Rows generated at once; auto: as many as `memory_gb` holds."""
    memory_gb: Annotated[float, Field(gt=0), LARGEST] | Auto = "auto"
    """Memory for key/value cache and logits; auto: half of what the device has in all, after the
    model (at most 4 GB on a CPU)."""
    threads: Annotated[int, Field(ge=1), CORES] | Auto = "auto"
    """CPU threads; auto: 1 for models under 50M parameters (more make them slower), else all
    cores."""

    @property
    def abilities(self) -> Abilities:
        """What the engine can do."""
        return Abilities(exact=True, reads=True, live_weights=True)


class VllmConfig(Section):
    """Writing by vLLM, with one adapter per candidate, and reading by transformers beside it; needs
    `pip install 'evolign[vllm]'`, or servers that run already."""

    name: Literal["vllm"] = "vllm"
    url: Url | Annotated[list[Url], Field(min_length=1)] | None = None
    """One or several `vllm serve` that run already, such as http://localhost:8000; null: vLLM runs in
    this process. Servers write and cannot read."""
    max_loras: Batch = 16
    """Candidates in one call, and on one server at a time; larger populations go in waves."""
    adapters: FolderOrName | None = None
    """Folder for adapters that servers load, which they see under the same path; null: a temporary
    one."""
    requests: Annotated[int, Field(ge=1), THREADS] = 64
    """Requests that one server is sent at once."""
    request_seconds: Annotated[float, Field(gt=0), WEEK] = 600.0
    """A server that takes longer for a request ends the run."""
    tensor_parallel: Annotated[int, Field(ge=1), GPUS] = 1
    """GPUs over which vLLM spreads one model."""
    gpu_memory: Share = 0.5
    """Share of the GPU's memory that vLLM takes; transformers holds the model a second time."""
    threads: Annotated[int, Field(ge=1), CORES] | Auto = "auto"
    """CPU threads of what transformers does; vLLM has its own settings."""
    options: dict[str, Any] = {}
    """Further arguments of `vllm.LLM`, such as max_model_len or quantization."""

    @model_validator(mode="after")
    def _servers_have_their_own_settings(self) -> "VllmConfig":
        for name in ("tensor_parallel", "gpu_memory", "options"):
            if self.url is not None and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"engine.{name} is for vLLM in this process, and engine.url names servers; leave one of "
                    "them out, and start the servers with it"
                )
        return self

    @property
    def urls(self) -> list[str]:
        """The servers that are asked."""
        return [] if self.url is None else [self.url] if isinstance(self.url, str) else self.url

    @property
    def abilities(self) -> Abilities:
        """What the engine can do."""
        return Abilities(exact=False, reads=self.url is None, live_weights=False)


WorkerConfig = Annotated[TransformersConfig | VllmConfig, Field(discriminator="name")]
"""The engines that a worker of `RayConfig` can run."""


class RayConfig(Section):
    """A pool of engines, one in each of many Ray workers; needs `pip install 'evolign[ray]'`."""

    name: Literal["ray"] = "ray"
    workers: Annotated[int, Field(ge=1), POOL] | Auto = "auto"
    """Workers; auto: as many as the cluster has processors or GPUs for, and more when nodes join."""
    address: str = "auto"
    """auto: the cluster that RAY_ADDRESS or `ray start` names, else a new one on this machine;
    local: a new one on this machine; or host:port, or ray://host:port."""
    cpus_per_worker: Annotated[int, Field(ge=1), CORES] = 1
    """Processors, and CPU threads, of a worker."""
    gpus_per_worker: Annotated[float, Field(ge=0), GPUS] = 0.0
    """GPUs of a worker; several workers share one below 1."""
    worker: WorkerConfig = TransformersConfig()
    """The engine that a worker runs."""
    piece_rows: Batch = 128
    """Completions that a worker is asked to write at a time."""
    start_seconds: Annotated[float, Field(gt=0), WEEK] = 300.0
    """Time for a worker to load the policy and answer the probe. The run waits as long for a worker
    before it stops where none is left."""
    piece_seconds: Annotated[float, Field(gt=0), WEEK] | Auto = "auto"
    """A worker that takes longer for a piece is replaced; auto: 10 times the slowest piece so far, but
    at least a minute, and half an hour for the first."""

    @model_validator(mode="after")
    def _workers_hold_a_model(self) -> "RayConfig":
        if isinstance(self.worker, VllmConfig) and self.worker.url is not None:
            raise ValueError(
                "engine.worker.url: servers that run already need no workers; use engine.name = vllm with "
                "engine.url, which may name several"
            )
        return self

    @property
    def abilities(self) -> Abilities:
        """What the engine can do: what its workers can, on weights that no trainer changes."""
        inside = self.worker.abilities
        return Abilities(exact=inside.exact, reads=inside.reads, live_weights=False)

    @property
    def threads(self) -> int | Auto:
        """CPU threads of this process, for the warm start."""
        return "auto"


EngineConfig = Annotated[TransformersConfig | VllmConfig | RayConfig, Field(discriminator="name")]
"""The engines that a recipe can name."""
