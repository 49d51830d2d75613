"""Language models that ship inside the package, so that everything runs without a download."""

from pathlib import Path

from evolign.errors import unknown_name

NAMES = ("arithmetic", "summaries", "tiny-random-qwen2")
QUICKSTART = Path(__file__).parent / "quickstart.yaml"
"""The recipe of `evolign quickstart`."""


def path(name: str) -> Path:
    """The folder of an embedded model; `AutoModelForCausalLM.from_pretrained` takes it."""
    if name not in NAMES:
        raise unknown_name("embedded model", name, NAMES)
    return Path(__file__).parent / name
