"""What of the environment a reward gets to see: what programs need to run, and what is asked for by name."""

import os
import re
from collections.abc import Mapping, Sequence

HANDED_ON = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|PWD|TMPDIR|TEMP|TMP|TZ|TERM|LANG|LANGUAGE|LC_\w+|XDG_\w+"
    r"|PYTHON\w*|VIRTUAL_ENV|CONDA_PREFIX|CONDA_DEFAULT_ENV|JAVA_HOME"
    r"|LD_LIBRARY_PATH|LD_PRELOAD|DYLD_\w+|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE"
    r"|(OMP|MKL|OPENBLAS|NUMEXPR|VECLIB|KMP|GOMP)_\w+|(CUDA|CUBLAS|NVIDIA|ROCM|HIP|PYTORCH|TORCH)_\w+"
    r"|(HF|TRANSFORMERS|TOKENIZERS|EVOLIGN)_\w+|COVERAGE_\w+|NLTK_DATA"
)
"""Names of variables that tell programs where things are and how fast to run."""
SECRET = re.compile(r"\w*(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL|AUTH)\w*")
"""Parts of names that tell who one is: `HF_TOKEN` is none of the above."""
PLAIN = re.compile(r"TOKENIZERS_\w+")
PROXY = re.compile("(https?|all|no)_proxy", re.IGNORECASE)
"""Handed on where they hold no password."""


def handed_on(asked_for: Sequence[str] = ()) -> dict[str, str]:
    """The variables of this process that a reward gets; those in `asked_for` whatever their names."""
    return {name: value for name, value in os.environ.items() if name in asked_for or _is_public(name, value)}


def with_hint(problem: str, given: Mapping[str, str]) -> str:
    """What went wrong in a reward, and the variable that it names and was not given, if there is one."""
    words = {*re.findall(r"[A-Z][A-Z0-9]*_[A-Z0-9_]+", problem)}
    withheld = sorted(words & os.environ.keys() - given.keys())
    if not withheld:
        return problem
    return (
        f"{problem}\nThe environment variable {withheld[0]} is not handed on to rewards unasked: add "
        f"{withheld[0]} to scoring.environment"
    )


def _is_public(name: str, value: str) -> bool:
    if PROXY.fullmatch(name):
        return "@" not in value
    told = HANDED_ON.fullmatch(name) and (PLAIN.fullmatch(name) or not SECRET.fullmatch(name))
    return bool(told)
