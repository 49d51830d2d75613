"""Export: the result of a finished run as an adapter or as a merged model."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evolign import disk
from evolign.config.recipe import as_tree
from evolign.errors import RunError
from evolign.runs.access import check_run, reading
from evolign.runs.code import require
from evolign.runs.directory import read_config
from evolign.runs.record import check_finished


def export(run: str | Path, out: str | Path, *, merge: bool = False, trust: bool = False) -> None:
    """Write the result of a finished run to `out`: its PEFT adapter, or the base model with it merged in.

    A run that trained all weights has no adapter: its model is written, merged or not. Over a quantised base
    model the adapter is merged into the weights before quantisation. Raises ConfigError for a model that is
    published quantised, and RunError for a run that is not finished. The run directory is only read.
    `trust`: as in `evolign.resume`, for the code of the model that is merged.
    """
    from evolign.policy.base_model import load_base_model
    from evolign.policy.export import merge as merge_into

    path, out = Path(run), Path(out)
    if out.exists():
        raise RunError(f"{str(out)!r} exists already; give another --out or remove it")
    check_run(path)
    with reading(path):
        check_finished(path)
        config = read_config(path)
        weights = path / ("model" if (path / "model").is_dir() else "adapter")
        if merge and weights.name == "adapter":
            require(path, {"model": as_tree(config)["model"]}, trust)
            base = load_base_model(config.model.model_copy(update={"quantization": None}))
        with _writing(out), disk.replacing(out) as folder:
            if merge and weights.name == "adapter":
                merge_into(base, weights, folder)
            else:
                shutil.copytree(weights, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)


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
