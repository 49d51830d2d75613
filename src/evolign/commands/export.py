"""Export: the result of a finished run as an adapter or as a merged model."""

from pathlib import Path

from evolign.errors import RunError
from evolign.runs.directory import RunDir, read_config


def export(run: str | Path, out: str | Path, *, merge: bool = False) -> None:
    """Write the result of a finished run to `out`: its PEFT adapter, or the base model with it merged in.

    A run that trained all weights has no adapter: its model is written, merged or not. Over a quantised base
    model the adapter is merged into the weights before quantisation. Raises ConfigError for a model that is
    published quantised.
    """
    from evolign.policy.base_model import load_base_model
    from evolign.policy.export import merge as merge_into

    path, out = Path(run), Path(out)
    if out.exists():
        raise RunError(f"{str(out)!r} exists already; give another --out or remove it")
    with RunDir.open(path) as run_dir:
        if not run_dir.finished:
            raise RunError(f"{str(path)!r} is not finished; first `evolign resume {path}`")
        if merge and run_dir.adapter.is_dir():
            model = read_config(path).model.model_copy(update={"quantization": None})
            merge_into(load_base_model(model), run_dir.adapter, out)
        else:
            run_dir.copy_weights(out)
