"""What a run depends on, by size and hash: written down when it is made, compared before it is used.

    provenance.json   the run's id, the configuration that it was started with, fingerprints of model, data
                      and reward, and the files of warm_start/
    checkpoints       the hash of provenance.json, and size and hash of the files that grow
    result.json       the files of the result
    raised.json       limits that a resumed run was given, where there are any

So a run is what its record says, or it is refused with what has changed.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from pydantic import TypeAdapter, ValidationError

from evolign import disk, untrusted
from evolign.config.run import FORMAT
from evolign.errors import RunError, quoted
from evolign.runs.access import read_json

CHUNK = 2**20
PROVENANCE = "provenance.json"
RAISED = "raised.json"
LIMITS = {
    "evolution.generations", "evolution.max_completions", "evolution.max_minutes", "evolution.target",
    "training.max_completions", "training.max_minutes", "training.target",
}  # fmt: skip
"""Settings that only say when a run ends. `training.epochs` and `max_steps` also shape the learning rate."""
T = TypeVar("T")


class Fingerprint(TypedDict):
    """A file by its bytes."""

    size: int
    hash: str


def fingerprint(path: Path, size: int | None = None) -> Fingerprint:
    """Of a file, or of its first `size` bytes. Raises OSError."""
    digest, left = hashlib.blake2b(digest_size=16), float("inf") if size is None else size
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(int(min(CHUNK, left)))):
            digest.update(chunk)
            left -= len(chunk)
        return {"size": file.tell(), "hash": digest.hexdigest()}


class Growing:
    """Size and hash of a file that only grows, without reading it again."""

    def __init__(self, data: bytes) -> None:
        self._digest, self._size = hashlib.blake2b(digest_size=16), 0
        self.add(data)

    def add(self, data: bytes) -> None:
        self._digest.update(data)
        self._size += len(data)

    def fingerprint(self) -> Fingerprint:
        return {"size": self._size, "hash": self._digest.hexdigest()}


def fingerprints(root: Path, files: Iterable[Path]) -> dict[str, Fingerprint]:
    """Of several files, by their names in `root`."""
    return {str(path.relative_to(root)): fingerprint(path) for path in sorted(files)}


def difference(root: Path, recorded: Mapping[str, Any]) -> str:
    """What has become of the files in `root` that were recorded: a clause for a message, empty if nothing.

    Files that grow may be longer than they were.
    """
    for name, before in recorded.items():
        path = root / name
        if not before["size"]:
            continue
        if path.is_symlink() or not path.is_file():
            return f"{name} is missing"
        try:
            now = fingerprint(path, before["size"])
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if now["size"] < before["size"]:
            return f"{name} holds {now['size']:,} bytes of the {before['size']:,} that were recorded"
        if now["hash"] != before["hash"]:
            return f"{name} was changed"
    return ""


def new_run(path: Path) -> str:
    """The way out of a run that cannot go on."""
    return f"start again with `evolign run {quoted(path / 'config.json')} --out NEW_DIR`"


def changed(path: Path, what: str) -> RunError:
    """The error for a run that is not what its record says."""
    return RunError(
        f"the run in {str(path)!r} is not what was recorded: {what}; restore it from a copy, or "
        f"{new_run(path)}"
    )


def check_format(found: Any, path: Path) -> None:
    """Raise RunError if the file `path`, whose format number is `found`, is of another version."""
    if found == FORMAT and isinstance(found, int) and not isinstance(found, bool):
        return
    if isinstance(found, int) and found > FORMAT:
        raise RunError(
            f"{str(path)!r} was written by a newer version of evolign (format {found}; this version reads "
            f"format {FORMAT}); install the version that provenance.json names"
        )
    raise RunError(
        f"{str(path)!r} has no format number that this version knows (format {found!r}; it reads format "
        f"{FORMAT}): it was written before there was one; use the version that wrote it, or start a new run"
    )


def check_keys(saved: Any, keys: set[str], path: Path) -> None:
    """Raise RunError if what the checkpoint `path` holds is of another version, or made by something else."""
    check_format(saved.get("format") if isinstance(saved, dict) else None, path)
    if other := sorted(saved.keys() ^ keys):
        raise foreign(
            path, f"it differs in {', '.join(map(repr, other[:3]))}", "by another version of evolign"
        )


def foreign(path: Path, why: str, by: str = "by something else") -> RunError:
    """The error for a checkpoint that is whole, but not one of this run."""
    return RunError(
        f"the checkpoint {str(path)!r} is not of this run, or was written {by} ({why}); remove it to go on "
        f"from the one before it, or {new_run(path.parents[1])}"
    )


def typed(kind: type[T], state: Any, path: Path) -> T:
    """The dataclass `kind` that a checkpoint holds. Raises RunError for foreign keys and values."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(state))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "state"
        raise foreign(path, f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}") from error


def provenance_of(path: Path) -> dict[str, Any] | None:
    """What the run in `path` was started with; None where it has not begun. Raises RunError for damage."""
    file = path / PROVENANCE
    if not file.exists():
        return None
    try:
        return untrusted.json_object(disk.read(file))
    except (OSError, ValueError) as error:
        raise changed(path, f"{PROVENANCE} cannot be read ({error})") from error


def check_config(path: Path, tree: Mapping[str, Any]) -> None:
    """Raise RunError if `tree`, which config.json holds, is not what the run in `path` was started with.

    Limits may differ where raised.json says so.
    """
    provenance = provenance_of(path)
    if provenance is None or "config" not in provenance:  # not begun, or of an earlier version
        return
    allowed = {entry["field"]: entry["to"] for entry in raised(path)}
    for field, (before, now) in differing(provenance["config"], tree).items():
        if field not in LIMITS or allowed.get(field, before) != now:
            way = (
                f" (to change a limit: `evolign resume {quoted(path)} {field}=...`)"
                if field in LIMITS
                else ""
            )
            raise changed(path, f"in config.json, {field} was {before!r:.80} and is {now!r:.80}{way}")


def raised(path: Path) -> list[dict[str, Any]]:
    """What raised.json holds: limits that the run was given later."""
    if not (path / RAISED).exists():
        return []
    try:
        found = untrusted.json_value(disk.read(path / RAISED))
        return [{name: entry[name] for name in ("field", "from", "to", "after")} for entry in found]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise changed(path, f"{RAISED} cannot be read ({error})") from error


def differing(before: Any, now: Any, at: str = "") -> dict[str, tuple[Any, Any]]:
    """The settings in which two trees differ, by dotted path."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return {} if before == now and type(before) is type(now) else {at: (before, now)}
    found: dict[str, tuple[Any, Any]] = {}
    for name in [*before, *(name for name in now if name not in before)]:
        found |= differing(before.get(name), now.get(name), f"{at}.{name}".lstrip("."))
    return found


def finished(path: Path) -> bool:
    """Whether the run in `path` has its result, and all files of it: those that result.json names."""
    try:
        result = read_json(path / "result.json")
        folder = any((path / name).is_dir() for name in ("adapter", "model"))
        return folder and not difference(path, result.get("files", {}))
    except (RunError, KeyError, TypeError, AttributeError):
        return False


def check_finished(path: Path) -> None:
    """Raise RunError if the result of the run in `path` is not there, or not what result.json says."""
    if finished(path):
        return
    what = "is not finished"
    if (path / "result.json").is_file():
        what = "holds another result than result.json names"
    raise RunError(f"{str(path)!r} {what}; first `evolign resume {quoted(path)}`")
