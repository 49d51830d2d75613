"""How evolution spreads over workers: measured with 1, 2 and 3, simulated for up to 1,024.

    python benchmarks/scaling.py --json                       # ten minutes on two idle cores
    python benchmarks/scaling.py --simulate runs/scaling.json --figure docs/scaling.png

Measured: one generation of reward fitness on the embedded model, by the engine `ray` with one-thread workers
of one machine, beside two processes that know nothing of each other and do the same work: what they lose is
the machine's. Every piece is timed where it is worked on. The driver's time for a piece is processor time.

Simulated, event by event: pieces go in their order to whoever is free first; the driver hands them out one
after another; a worker that fails loses its piece and is back after `RESTART_SECONDS`. The seconds of a piece
are drawn from the measured ones and scaled to `PIECE_SECONDS`, those of a piece of a 7B model on a GPU. One
piece in a hundred takes `STRAGGLER` times as long, because of its worker. Efficiency is the work done over
workers x time.

GRPO beside it, on the same completions, is the synchronous kind: every worker writes its share at once, all
wait for the last, train on their share, add up gradients and load the new weights (`SYNC_BYTES`).
"""

import argparse
import heapq
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

WORKERS = [1, 4, 16, 32, 64, 128, 256, 512, 1024]
POPULATION, PROMPTS = 4096, 100
CANDIDATES = 48
"""Of the measured generation."""
PIECE_SECONDS = 12.0
"""Of 128 completions; smaller pieces take as much less, but no less than LEAST_SHARE of it."""
LEAST_SHARE = 0.1
"""What a batch of one row costs, over that of a full one: on a GPU the rows of a batch are nearly free."""
STRAGGLERS, STRAGGLER = 0.01, 5.0
FAILURES_PER_HOUR, RESTART_SECONDS = 0.1, 120.0
LATENCY_SECONDS = 0.002
LATE = 1.5
"""As in engines/ray/pool.py."""
TRAIN_OVER_WRITE = 1.0
"""Seconds of GRPO's forward and backward passes over those of writing the same tokens."""
SYNC_BYTES, BANDWIDTH = 14e9, 25e9
"""Weights of a 7B model in bfloat16, and bytes a second between nodes."""


@dataclass(frozen=True)
class Cluster:
    """What a simulation is about. Seconds of a piece are `times`, drawn at random."""

    workers: int
    times: np.ndarray
    driver_seconds: float
    """The driver's own time for a piece; it does one after another."""
    serial_seconds: float
    """Of a generation, beside its pieces: ask, tell, send the population."""
    failures_per_hour: float = 0.0
    restart_seconds: float = RESTART_SECONDS


def generation(cluster: Cluster, pieces: int, rng: np.random.Generator) -> tuple[float, float]:
    """Seconds of one generation of so many pieces, and how much of its workers' time was work.

    Once no piece is left to hand out, a free worker is asked for a copy of the oldest one that is late; the
    first answer counts.
    """
    work = rng.choice(cluster.times, pieces)
    late = LATE * float(np.median(cluster.times))
    free = [(cluster.serial_seconds, worker) for worker in range(cluster.workers)]
    todo, driver = list(range(pieces))[::-1], cluster.serial_seconds
    begun, finish = np.zeros(pieces), np.zeros(pieces)
    copied: set[int] = set()
    lost: list[tuple[float, int]] = []
    while free:
        moment, worker = heapq.heappop(free)
        while lost and (lost[0][0] <= moment or not todo):
            known, piece = heapq.heappop(lost)
            todo.append(piece)
            moment = max(moment, known)
        seconds = None
        if not todo:
            running = [p for p in np.flatnonzero(finish > moment).tolist() if p not in copied]
            oldest = min(running, key=lambda p: begun[p], default=None)
            if oldest is None:
                continue
            if begun[oldest] + late > moment:
                if begun[oldest] + late < finish[oldest]:
                    heapq.heappush(free, (begun[oldest] + late, worker))
                continue
            copied.add(oldest)
            todo.append(oldest)
            seconds = float(
                rng.choice(cluster.times)
            )  # a piece is late because of its worker, not of its text
        driver = max(driver, moment) + cluster.driver_seconds
        piece = todo.pop()
        seconds = work[piece] if seconds is None else seconds
        begin = driver + LATENCY_SECONDS
        fails = rng.exponential(3600 / cluster.failures_per_hour) if cluster.failures_per_hour else np.inf
        if fails < seconds:
            if piece not in copied:
                heapq.heappush(lost, (begin + fails, piece))
            heapq.heappush(free, (begin + fails + cluster.restart_seconds, worker))
            continue
        begun[piece] = begin
        finish[piece] = min(finish[piece], begin + seconds) if piece in copied else begin + seconds
        heapq.heappush(free, (begin + seconds, worker))
    end = float(finish.max())
    return end, float(work.sum() / (cluster.workers * end))


def piece_times(measured: Sequence[float], rows: int) -> np.ndarray:
    """Seconds of pieces of so many completions on a GPU: spread as measured, with stragglers."""
    spread = np.asarray(measured) / np.mean(measured)
    mean = PIECE_SECONDS * max(LEAST_SHARE, LEAST_SHARE + (1 - LEAST_SHARE) * rows / 128)
    return np.concatenate([np.repeat(spread, 99), spread * STRAGGLER]) * mean


def grpo_seconds(workers: int, times: np.ndarray, pieces: int, rng: np.random.Generator) -> float:
    """Seconds of one synchronous step on the same completions: writing, training, gradients and weights."""
    share = pieces / workers
    whole = int(np.ceil(share))
    written = rng.choice(times, (workers, whole)).sum(axis=1) * (share / whole)
    exchange = 2 * SYNC_BYTES / BANDWIDTH * (workers > 1) + SYNC_BYTES / BANDWIDTH
    return float(written.max() + TRAIN_OVER_WRITE * written.mean() + exchange)


def simulate(measured: dict[str, Any]) -> dict[str, Any]:
    """Efficiencies by workers, piece and trouble; and GRPO beside evolution on 16 to 128 GPUs."""
    rng = np.random.default_rng(0)
    curves: dict[str, list[float]] = {}
    completions = POPULATION * PROMPTS
    for rows in (16, 32, 128):
        for name, failures in (("", 0.0), (", failures", FAILURES_PER_HOUR)):
            label = f"pieces of {rows}{name}"
            curves[label] = []
            for workers in WORKERS:
                cluster = Cluster(
                    workers,
                    piece_times(measured["piece_seconds"], rows),
                    measured["driver_seconds_per_piece"],
                    measured["serial_seconds"],
                    failures,
                )
                found = [generation(cluster, completions // rows, rng)[1] for _ in range(3)]
                curves[label].append(float(np.mean(found)))
    small = {
        population: generation(
            Cluster(
                1024, piece_times(measured["piece_seconds"], 16), measured["driver_seconds_per_piece"], 0.0
            ),
            population * PROMPTS // 16,
            rng,
        )[1]
        for population in (256, 1024, 4096)
    }
    beside = []
    times = piece_times(measured["piece_seconds"], 32)
    base = Cluster(16, times, measured["driver_seconds_per_piece"], measured["serial_seconds"])
    for workers in (16, 32, 64, 128):
        pieces = 512 * PROMPTS // 32
        ours = np.mean([generation(replace(base, workers=workers), pieces, rng)[0] for _ in range(5)])
        theirs = np.mean([grpo_seconds(workers, times, pieces, rng) for _ in range(5)])
        beside.append({"workers": workers, "evolution_seconds": float(ours), "grpo_seconds": float(theirs)})
    return {"workers": WORKERS, "efficiency": curves, "efficiency_by_population": small, "grpo": beside}


@contextmanager
def prepared() -> Iterator[tuple[Any, list[Any], Callable[[Any, int], float]]]:
    """A policy, its examples, and the seconds that an engine takes for the generation with a noise seed."""
    from evolign.config.recipe import load
    from evolign.policy.base_model import load_base_model
    from evolign.policy.policy import load_policy
    from evolign.tasks import build_task
    from evolign.tasks.base import ids
    from evolign.types import Population, Sampling

    config: Any = load("recipes/embedded/essa.yaml", ["adapter.warm_start=null"])
    task = build_task(config.task)
    names = ids(task.train[:128])
    with tempfile.TemporaryDirectory() as folder:
        policy = load_policy(config, load_base_model(config.model), [], Path(folder) / "start")
        population = Population(
            0.3 * np.random.default_rng(0).standard_normal((CANDIDATES, policy.space.dim))
        )

        def generate(engine: Any, seed: int) -> float:
            sampling = Sampling(28, noise_seed=seed, temperature=1.0)
            started = time.perf_counter()
            engine.generate(population, [names] * CANDIDATES, sampling)
            return time.perf_counter() - started

        yield policy, task.train, generate


def measure(repeats: int) -> dict[str, Any]:
    """Seconds of a generation with 1, 2 and 3 workers, of its pieces, and of everything beside them."""
    from evolign.config import RayConfig
    from evolign.engines import build_engine

    seconds: dict[int, float] = {}
    piece_seconds: dict[int, list[float]] = {}
    bytes_per_step = 0.0
    with prepared() as (policy, examples, generate):
        for workers in (1, 2, 3):
            with build_engine(RayConfig(workers=workers, address="local"), policy, examples) as engine:
                pool: Any = engine
                deadline = time.monotonic() + 120
                while len(pool.workers) < workers and time.monotonic() < deadline:
                    generate(pool, 0)
                pool.report()
                piece_seconds[workers], found = [], []
                for repeat in range(repeats):
                    found.append(generate(pool, repeat))
                    piece_seconds[workers] += pool.piece_seconds
                seconds[workers] = float(np.median(found))
                bytes_per_step = pool.report()["bytes_numbers"] / repeats / workers
        small = RayConfig(workers=2, address="local", piece_rows=16)
        with build_engine(small, policy, examples) as engine:
            generate(engine, 0)
            processor = time.process_time()
            generate(engine, 1)
            driver = (time.process_time() - processor) / len(cast(Any, engine).piece_seconds)
        coordinates = CANDIDATES * policy.space.dim
    return {
        "seconds": seconds,
        "piece_seconds": piece_seconds[1],
        "piece_seconds_by_workers": {w: float(np.mean(found)) for w, found in piece_seconds.items()},
        "pieces": len(piece_seconds[1]) / repeats,
        "driver_seconds_per_piece": driver,
        "serial_seconds": 0.05,
        "bytes_per_step": bytes_per_step,
        "bound_bytes": 16 * coordinates + 4096,
        "two_workers_speedup": seconds[1] / seconds[2],
        "two_processes_speedup": processes_speedup(repeats),
    }


def processes_speedup(repeats: int) -> float:
    """What two processes that share nothing gain over one: no pool can gain more on this machine."""
    seconds = {}
    for count in (1, 2):
        command = [sys.executable, __file__, "--process", "--repeats", str(repeats)]
        children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
        seconds[count] = float(np.mean([float(child.communicate()[0].split()[-1]) for child in children]))
    return 2 * seconds[1] / seconds[2]


def one_process(repeats: int) -> float:
    """Median seconds of the same generation by the engine in this process, with one thread."""
    from evolign.config import TransformersConfig
    from evolign.engines import build_engine

    with (
        prepared() as (policy, examples, generate),
        build_engine(TransformersConfig(threads=1), policy, examples) as engine,
    ):
        return float(np.median([generate(engine, repeat) for repeat in range(repeats + 1)][1:]))


def predicted(measured: dict[str, Any]) -> dict[str, float]:
    """Simulated over measured seconds of a generation with 1, 2 and 3 workers of the measured machine."""
    rng = np.random.default_rng(1)
    found = {}
    for workers, seconds in measured["seconds"].items():
        mean = measured["piece_seconds_by_workers"][workers]
        times = np.asarray(measured["piece_seconds"])
        cluster = Cluster(
            int(workers), times * mean / times.mean(), measured["driver_seconds_per_piece"], 0.0
        )
        simulated = np.mean([generation(cluster, int(measured["pieces"]), rng)[0] for _ in range(20)])
        found[str(workers)] = float(simulated) / seconds
    return found


def draw(result: dict[str, Any], path: Path) -> None:
    """Efficiency against workers, and evolution beside GRPO."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    colours = {"16": "#1b6ca8", "32": "#2a9d8f", "128": "#b5651d"}
    for label, values in result["efficiency"].items():
        rows = label.split()[2].rstrip(",")
        dashed = "--" if "failures" in label else "-"
        left.plot(result["workers"], [100 * v for v in values], dashed, color=colours[rows], label=label)
    left.axhline(90, color="grey", linewidth=0.8, linestyle=":")
    left.set(xscale="log", xlabel="workers", ylabel="efficiency, %", ylim=(0, 102))
    left.set_title(f"{POPULATION:,} candidates x {PROMPTS} prompts", fontsize=10)
    left.set_xticks([1, 4, 16, 64, 256, 1024], ["1", "4", "16", "64", "256", "1,024"])
    left.minorticks_off()
    left.legend(fontsize=8)
    workers = [row["workers"] for row in result["grpo"]]
    for name, label, colour in (
        ("evolution_seconds", "evolution", "#1b6ca8"),
        ("grpo_seconds", "GRPO, synchronous", "#b5651d"),
    ):
        right.plot(workers, [row[name] for row in result["grpo"]], "o-", color=colour, label=label)
    right.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="seconds for the same completions")
    right.set_title(f"512 candidates x {PROMPTS} prompts", fontsize=10)
    right.set_xticks(workers, [str(w) for w in workers])
    right.minorticks_off()
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--simulate", type=Path, help="use the measurements in this file")
    parser.add_argument("--out", type=Path, help="write measurements here, for --simulate")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    parser.add_argument("--process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        print(one_process(options.repeats))
        return
    if options.simulate:
        measured = json.loads(options.simulate.read_text())
        for name in ("seconds", "piece_seconds_by_workers"):
            measured[name] = {int(workers): value for workers, value in measured[name].items()}
    else:
        measured = measure(options.repeats)
    if options.out:
        options.out.write_text(json.dumps(measured))
    result = simulate(measured)
    if options.figure:
        draw(result, options.figure)
    summary = {
        "two_workers_speedup": measured["two_workers_speedup"],
        "two_processes_speedup": measured["two_processes_speedup"],
        "bytes_per_step": measured["bytes_per_step"],
        "bound_bytes": measured["bound_bytes"],
        "efficiency_at_1024": result["efficiency"]["pieces of 16"][-1],
        "predicted_over_measured": predicted(measured),
        "seconds": measured["seconds"],
        "driver_seconds_per_piece": measured["driver_seconds_per_piece"],
        **result,
    }
    if options.json:
        print(json.dumps(summary))
        return
    for name, value in summary.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
