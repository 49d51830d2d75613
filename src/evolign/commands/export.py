"""Export: the result of a finished run as an adapter or as a merged model."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evolign import disk, untrusted
from evolign.config import Config, ModelConfig
from evolign.config.recipe import apply_override, as_tree, parse
from evolign.errors import ConfigError, RunError
from evolign.runs.access import check_run, read_json, reading
from evolign.runs.code import require
from evolign.runs.directory import read_config
from evolign.runs.record import PROVENANCE, check_finished


def export(
    run: str | Path,
    out: str | Path,
    *,
    merge: bool = False,
    overrides: Sequence[str] = (),
    trust: bool = False,
) -> float | None:
    """Write the result of a finished run to `out`: its PEFT adapter, or the base model with it merged in.

    A run that trained all weights has no adapter: its model is written, merged or not. Over a quantised base
    model the adapter is merged into the weights before quantisation. `overrides` of the section `model` say
    where the base model lies now, as in `model.name=FOLDER`. Returns by how much the merged model's logits
    differ from those of base model and adapter (see `policy.merging.merge`), None where nothing was merged.
    Raises ConfigError for a model that is published quantised, and RunError for a run that is not finished.
    The run directory is only read. `trust`: as in `evolign.resume`, for the code of the model that is merged.
    """
    path, out = Path(run).expanduser(), Path(out).expanduser()
    if out.exists():
        raise RunError(f"{str(out)!r} exists already; give another --out or remove it")
    check_run(path)
    with reading(path):
        check_finished(path)
        config = _with_base(read_config(path), overrides)
        weights = path / ("model" if (path / "model").is_dir() else "adapter")
        merged = merge and weights.name == "adapter"
        if merged:
            require(path, {"model": as_tree(config)["model"]}, trust, overrides)
        with _writing(out), disk.replacing(out) as folder:
            if merged:
                return _merge(config.model, path, folder)
            shutil.copytree(weights, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
            if overrides and weights.name == "adapter":
                _name_base(folder / "adapter_config.json", config.model.name)
    return None


def _with_base(config: Config, overrides: Sequence[str]) -> Config:
    """The configuration of a run, with its base model where it lies now."""
    tree: dict[str, Any] = config.model_dump(mode="json", exclude_unset=True)
    for override in overrides:
        if not override.startswith("model."):
            raise ConfigError(
                f"cannot export with {override!r}: what was evaluated is fixed, and only where the base "
                "model lies may change, as in model.name=FOLDER"
            )
        apply_override(tree, override)
    return parse(tree) if overrides else config


def _merge(model: ModelConfig, run: Path, folder: Path) -> float:
    from evolign.policy.merging import merge

    known = read_json(run / PROVENANCE).get("fingerprints", {}).get("model")
    plain = model.model_copy(update={"quantization": None})
    return merge(plain, run / "adapter", folder, known if model.quantization is None else None)


def _name_base(settings: Path, name: str) -> None:
    """Have an adapter's folder name the base model by where it lies now."""
    from evolign.policy.base_model import source

    told = untrusted.json_object(disk.read(settings)) | {"base_model_name_or_path": source(name)}
    disk.write(settings, json.dumps(told, indent=2, sort_keys=True) + "\n")


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield
    except Exception as error:
        if (reason := disk.reason(error)) is None:
            raise
        raise RunError(
            f"cannot write to {str(out)!r}: {reason}; nothing was left there: free space or give another "
            "--out"
        ) from error
