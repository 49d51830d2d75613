"""A run that writes rows under the eyes of a tracker and is killed; and what the trackers then hold.

    python tracked.py RUN TRACKER FIRST LAST kill|finish

A process of its own, because trackers read their environment when they are imported, and to be killed.
"""

import json
import os
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evolign.runs.directory import RunDir
from evolign.runs.progress import Silent
from evolign.tracking.follower import Follower

PROJECT, NAME = "sums", "first"
RESULT = {"baseline": {"reward": 0.25}, "final": {"reward": 0.75}}


def row(step: int) -> dict[str, Any]:
    return {"generation": step, "fitness_mean": step / 8, "eval/reward": 1.0 + step}


def sample(step: int) -> dict[str, Any]:
    prompt = [{"role": "user", "content": f"ask | {step}"}]
    stamp = {"generation": step, "split": "validation", "id": "a"}
    return stamp | {"prompt": prompt, "completion": f"said {step}", "score": 0.5}


def follow(path: Path, tracker: str, first: int, last: int, end: str) -> None:
    """Write the rows of a few generations, then be killed or finish."""
    with RunDir.open(path) as run, Follower(run, [tracker], PROJECT, NAME, Silent()) as follower:
        for step in range(first, last + 1):
            run.append("samples.jsonl", [sample(step)])
            run.append("metrics.jsonl", [row(step)])
            follower.record(row(step))
        if end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        run.write_json("result.json", RESULT)
        follower.finish(RESULT, [path / "config.json", path / "result.json"])
    assert not follower.failed, follower.failed


def tensorboard(path: Path) -> dict[str, Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(path / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    texts = [e.tensor_proto.string_val[0].decode() for tag in tags["tensors"] for e in events.Tensors(tag)]
    return {
        "points": [[e.step, tag, e.value] for tag in tags["scalars"] for e in events.Scalars(tag)],
        "tables": "".join(texts),
        "files": [],
    }


def trackio(path: Path) -> dict[str, Any]:
    from trackio.sqlite_storage import SQLiteStorage

    [run] = SQLiteStorage.get_runs(PROJECT)
    logs = SQLiteStorage.get_logs(PROJECT, run)
    [artifact] = SQLiteStorage.get_artifacts(PROJECT)
    manifest: Any = SQLiteStorage.get_artifact_manifest(PROJECT, artifact["name"], None)
    return {
        "points": [
            [log["step"], tag, value]
            for log in logs
            for tag, value in log.items()
            if isinstance(value, float)
        ],
        "tables": json.dumps([value for log in logs for tag, value in log.items() if "samples" in tag]),
        "files": [entry["path"] for entry in manifest["manifest"]],
    }


def records(data: bytes, block: int = 32768, head: int = 7) -> Iterator[bytes]:
    """The records of LevelDB's log format, behind a file header of 7 bytes."""
    at, whole = head, b""
    while at + head <= len(data):
        if block - at % block < head:
            at += block - at % block
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + head])
        whole += data[at + head : at + head + size]
        at += head + size
        if kind in (1, 4):  # a full record, or the last part of one
            yield whole
            whole = b""


def wandb(path: Path) -> dict[str, Any]:
    from wandb import teardown
    from wandb.proto import wandb_internal_pb2

    teardown()  # its service ends, and has written everything
    points, files = [], []
    for file in sorted(path.parent.glob("wandb/offline-run-*/*.wandb"))[-1:]:  # of the last session
        for data in records(file.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            found = {tag: json.loads(value) for tag, value in items.items()}
            points += [
                [record.history.step.num, tag, value]
                for tag, value in found.items()
                if isinstance(value, int | float) and tag[0] != "_"
            ]
            files += [entry.path for entry in record.request.log_artifact.artifact.manifest.contents]
            files += [entry.path for entry in record.artifact.manifest.contents]
    tables = "".join(table.read_text() for table in sorted(path.parent.rglob("*.table.json")))
    return {"points": points, "tables": tables, "files": files}


READERS = {"tensorboard": tensorboard, "trackio": trackio, "wandb": wandb}

if __name__ == "__main__":
    path, tracker, first, last, end = sys.argv[1:]
    follow(Path(path), tracker, int(first), int(last), end)
    print(json.dumps(READERS[tracker](Path(path))))
