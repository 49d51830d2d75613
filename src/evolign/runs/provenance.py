"""Where figures come from: versions, hardware, code revision, fingerprints, and peak memory."""

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evolign.types import Example

PACKAGES = (
    "evolign", "torch", "transformers", "peft", "trl", "accelerate", "datasets", "cma", "numpy",
    "safetensors", "math-verify", "torchao", "bitsandbytes",
)  # fmt: skip

CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Of control groups, version 2 and 1."""


def provenance() -> dict[str, Any]:
    """What this process runs on, as JSON-able values."""
    return {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "revision": _git_revision(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": _gpus(),
        "command": sys.argv,
    }


def data_fingerprint(examples: Iterable[Example]) -> str:
    """A hash of ids, prompts, completions, columns and, where there are any, rejected completions."""
    digest = hashlib.blake2b(digest_size=16)
    for example in examples:
        row = [example.id, example.prompt, example.completion, dict(example.columns)]
        if example.rejected is not None:
            row.append(example.rejected)
        digest.update(json.dumps(row, sort_keys=True, default=_told).encode())
    return digest.hexdigest()


def _told(value: Any) -> Any:
    """A value that is not JSON, as text that is the same in every process."""
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    plain = getattr(type(value), "__repr__", None) is object.__repr__
    return type(value).__qualname__ if plain else str(value)


def peak_memory_bytes() -> int:
    """The most memory this process has held: on the GPU if it used one, else resident."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        result: int = torch.cuda.max_memory_allocated()
        return result
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_limit_bytes() -> int:
    """What `peak_memory_bytes` can become at most: the GPU's memory, else the container's or machine's."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        total: int = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        return total
    return machine_memory_bytes()


def machine_memory_bytes() -> int:
    """The machine's memory, or what its container leaves of it."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # there is none, or it is "max"
            limits.append(int(Path(path).read_text()))
    return min(limits)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """The commit of the checkout this code lies in, with a mark if it was changed; None elsewhere."""
    folder = Path(__file__).resolve().parent
    command = [
        "git",
        "-C",
        str(folder),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _gpus() -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
