"""The Ray cluster: connecting to it, and saying what is wrong with it."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evolign.config.engines import RayConfig
from evolign.engines.ray.worker import Introduction, end_process
from evolign.errors import ConfigError, EngineError, first_line

LOCAL_STORE_BYTES = 200 * 2**20
LINES_OF_STDERR = 8
ATTEMPTS = 3
CONNECT_SECONDS = 5.0
LATEST_CLUSTER = Path("/tmp/ray/ray_current_cluster")
"""Where `ray start` writes the address of its cluster."""


def import_ray() -> Any:
    """The package `ray`. Raises ConfigError with the command that installs it."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "engine.name = 'ray' needs the package ray; install it with: pip install 'evolign[ray]'"
        ) from error
    return ray


@contextmanager
def connected(config: RayConfig) -> Iterator[None]:
    """A connection to the cluster that `config.address` names; a cluster that is started here ends with it.

    A process that is connected already keeps its connection. Raises EngineError for an address that does not
    answer.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": "error", "configure_logging": False}
    address = _address(config.address)
    try:
        if address is None:
            _start_here(ray, **_local(config), **quiet)
        else:
            _check_answers(address)
            ray.init(address=address, **quiet)
    except Exception as error:  # Ray raises many kinds for one cause
        first = first_line(error, type(error).__name__)
        raise EngineError(
            f"engine.address = {config.address!r}: no Ray cluster answers there ({first:.200}); start one "
            "with `ray start --head`, or use engine.address = local"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _address(wanted: str) -> str | None:
    """The address of a running cluster; None: start one here.

    `auto` is that of RAY_ADDRESS or of `ray start` on this machine. What Ray has written down of the latter
    counts only if it still answers.
    """
    if wanted != "auto":
        return None if wanted == "local" else wanted
    if named := os.environ.get("RAY_ADDRESS"):
        return named
    try:
        latest = LATEST_CLUSTER.read_text().strip()
        _check_answers(latest)
    except (OSError, ValueError):
        return None
    return latest


def _check_answers(address: str) -> None:
    """Raise OSError or ValueError at once for an address that nobody listens at: Ray itself waits minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def _start_here(ray: Any, **settings: Any) -> None:
    """Start a cluster on this machine; a busy one may need another attempt, as Ray waits half a minute."""
    for attempt in range(ATTEMPTS):
        try:
            ray.init(address="local", **settings)
        except Exception:
            ray.shutdown()
            if attempt == ATTEMPTS - 1:
                raise
        else:
            return


def _local(config: RayConfig) -> dict[str, Any]:
    """A cluster of this machine alone: on the loopback interface, without a dashboard."""
    settings: dict[str, Any] = {
        "include_dashboard": False,
        "object_store_memory": LOCAL_STORE_BYTES,
        "_node_ip_address": "127.0.0.1",
    }
    if config.workers != "auto":
        settings["num_cpus"] = config.workers * config.cpus_per_worker
    return settings


def room(config: RayConfig) -> int:
    """How many workers the cluster has resources for, taken or not."""
    found = import_ray().cluster_resources()
    by_cpu = int(found.get("CPU", 0) // config.cpus_per_worker)
    if config.gpus_per_worker:
        return min(by_cpu, int(found.get("GPU", 0) / config.gpus_per_worker))
    return by_cpu


def diagnosis(config: RayConfig) -> str:
    """What is asked for, and what the cluster has."""
    ray = import_ray()
    total, free = ray.cluster_resources(), ray.available_resources()
    asked = f"{config.cpus_per_worker} CPU" + (
        f" and {config.gpus_per_worker:g} GPU" if config.gpus_per_worker else ""
    )
    nodes = sum(node["Alive"] for node in ray.nodes())
    kinds = ("CPU", "GPU") if config.gpus_per_worker else ("CPU",)
    has = ", ".join(f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind} free" for kind in kinds)
    return f"a worker asks for {asked}; the cluster has {nodes} nodes with {has}"


def end(who: Introduction) -> None:
    """End the process of a worker that does not answer: it would keep its processors for ever."""
    ray = import_ray()
    there = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(who.node_id, soft=False)
    ray.remote(end_process).options(num_cpus=0, scheduling_strategy=there).remote(who.pid)


def last_words(who: Introduction | None) -> str:
    """The last lines that a worker has written to its standard error, where its node is this one."""
    if who is None or not who.errors:
        return ""
    try:
        lines = Path(who.errors).read_text(errors="replace").splitlines()
    except OSError:
        return f"; its standard error is in {who.errors} on {who.node}"
    kept = [line.strip() for line in lines if line.strip() and not line.startswith(":")]
    return "; it wrote: " + " | ".join(kept[-LINES_OF_STDERR:]) if kept else ""
