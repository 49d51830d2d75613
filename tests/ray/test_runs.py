"""Whole runs on Ray: the adapter is that of one process, whatever dies meanwhile."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from ray_pool import RECIPES, descendants, digest, on_ray, processes, workers_of_ray

from evolign.commands.run import run
from evolign.config.recipe import load
from evolign.runs.progress import Silent

ROOT = Path(__file__).parents[2]
EVOLIGN = [sys.executable, "-c", "from evolign.cli.app import main; main()"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The hash of the adapter that a recipe gives in one process."""
    known: dict[str, str] = {}

    def found(recipe: str) -> str:
        if recipe not in known:
            out = tmp_path_factory.mktemp("alone") / "run"
            run(load(ROOT / recipe, RECIPES[recipe]), out, progress=Silent())
            known[recipe] = digest(out)
        return known[recipe]

    return found


@contextmanager
def killing(seconds: float, progress: Silent) -> Iterator[list[int]]:
    """Kill a worker at random, again and again, while two are ready; the list holds the dead."""
    stop = threading.Event()
    dead: list[int] = []
    choose = random.Random(0)

    def ready() -> int:
        return sum(" is ready" in text for text in progress.said) - len(dead)

    def kill() -> None:
        while not stop.wait(seconds):
            if ready() >= 2 and (pids := workers_of_ray()):
                dead.append(choose.choice(sorted(pids)))
                with suppress(ProcessLookupError):
                    os.kill(dead[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield dead
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_on_two_workers_gives_the_adapter_of_one_process(
    cluster: Any, alone: Callable[[str], str], recipe: str, tmp_path: Path
) -> None:
    config = load(ROOT / recipe, RECIPES[recipe] + on_ray(2))
    run(config, tmp_path / "run", progress=Silent())
    assert digest(tmp_path / "run") == alone(recipe)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_worker_dies_every_few_seconds_and_the_adapter_is_the_same(
    cluster: Any, alone: Callable[[str], str], recipe: str, tmp_path: Path
) -> None:
    progress = Silent()
    config = load(ROOT / recipe, RECIPES[recipe] + on_ray(3))
    with killing(2.0, progress) as dead:
        run(config, tmp_path / "run", progress=progress)
    assert digest(tmp_path / "run") == alone(recipe)
    assert dead and any("is lost" in text for text in progress.said)


def test_a_driver_that_is_killed_leaves_nothing_behind_and_its_run_resumes(
    alone: Callable[[str], str], tmp_path: Path
) -> None:
    recipe = "recipes/embedded/essa.yaml"
    out = tmp_path / "run"
    settings = [*RECIPES[recipe], *on_ray(2, address="local")]
    driver = subprocess.Popen([*EVOLIGN, "run", recipe, *settings, "--out", str(out)], cwd=ROOT)
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 3:
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    started = descendants(driver.pid)
    assert len(started) > 3, "Ray's daemons and the workers"
    driver.kill()
    driver.wait()
    assert not (out / "result.json").exists()
    for _ in range(600):
        left = started & {pid for pid, command in processes() if command}
        if not left:
            break
        time.sleep(0.1)
    assert not left, "Ray's processes outlive the driver"
    subprocess.run([*EVOLIGN, "resume", str(out)], cwd=ROOT, check=True, timeout=300)
    assert digest(out) == alone(recipe)


NODES = """
import json, sys
from pathlib import Path
from ray.cluster_utils import Cluster
from evolign.commands.run import run
from evolign.config.recipe import load
from evolign.errors import EngineError
from evolign.runs.progress import Silent

recipe, settings, out, what = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=2)]
cluster.wait_for_nodes()

class Disturbing(Silent):
    def record(self, *row):  # in the main thread: Ray starts nodes nowhere else
        if nodes:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            if what == "replaced":
                cluster.add_node(num_cpus=2)
        return super().record(*row)

progress = Disturbing()
try:
    run(load(recipe, [*settings, f"engine.address={cluster.address}"]), out, progress=progress)
except EngineError as error:
    print(f"stopped: {error}")
print("\\n".join(progress.said))
"""


@pytest.mark.parametrize("what", ["replaced", "gone"])
def test_a_node_is_lost_in_the_middle_of_a_run(
    alone: Callable[[str], str], what: str, tmp_path: Path
) -> None:
    recipe, out = "recipes/embedded/essa.yaml", tmp_path / "run"
    settings = [*RECIPES[recipe], *on_ray(2)]
    if what == "gone":
        settings.append("engine.start_seconds=60")
    command = [sys.executable, "-c", NODES, recipe, json.dumps(settings), str(out), what]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    if what == "replaced":
        assert digest(out) == alone(recipe), answer
        assert "is lost" in answer.stdout
        return
    assert "stopped: no worker was ready within engine.start_seconds = 60" in answer.stdout, answer
    assert "with 0 of 0 CPU free" in answer.stdout and "resume the run" in answer.stdout
    assert (out / "checkpoints").is_dir() and not (out / "result.json").exists()
