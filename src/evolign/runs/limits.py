"""Limits that a run is given when it is resumed: they are recorded, and nothing else of it can be changed."""

from collections.abc import Sequence
from copy import deepcopy

from evolign import disk
from evolign.config import Config
from evolign.config.recipe import apply_override, parse
from evolign.errors import ConfigError, quoted
from evolign.runs.access import read_json, writing
from evolign.runs.directory import RunDir, read_config
from evolign.runs.record import LIMITS, RAISED, differing, raised


def raise_limits(run: RunDir, overrides: Sequence[str]) -> Config:
    """The configuration of `run` with other limits, which raised.json and config.json hold afterwards.

    A kill in between changes nothing: raised.json only says what may differ. Raises ConfigError for what is
    no limit.
    """
    config = read_config(run.path)
    tree = read_json(run.path / "config.json")
    before = deepcopy(tree)
    for override in overrides:
        apply_override(tree, override)
    found = differing(before, tree)
    if other := sorted(found.keys() - LIMITS):
        given = " ".join(map(quoted, overrides))
        allowed = sorted(name for name in LIMITS if hasattr(config, name.partition(".")[0]))
        raise ConfigError(
            f"evolign resume: {other[0]} would make it another run; a resumed run takes {', '.join(allowed)} "
            f"(as a new one: `evolign run {quoted(run.path / 'config.json')} {given} --out NEW_DIR`)"
        )
    config = parse(tree, source="evolign resume")
    if found:
        newest = max((path.name for path in run.checkpoints.iterdir()), default=None)
        new = [
            {"field": field, "from": was, "to": now, "after": newest} for field, (was, now) in found.items()
        ]
        run.write_json(RAISED, [*raised(run.path), *new])
        run.write_json("config.json", tree)
        with writing(run.path):
            disk.remove(run.path / "result.json")
    return config
