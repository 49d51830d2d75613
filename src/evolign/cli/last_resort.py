"""The last resort: what nobody expected becomes one sentence, and its traceback goes to a log."""

import importlib.metadata
import os
import platform
import sys
import tempfile
import time
import traceback
from pathlib import Path

from evolign.errors import said, visible

UNEXPECTED = 70
"""Exit status of a mistake of ours: EX_SOFTWARE of sysexits.h."""
REFUSED = 1
"""Exit status where the system refused something (a file, memory): no mistake of ours."""
ISSUES = "https://github.com/evolign/evolign/issues"


def last_resort(error: Exception, run_dir: Path | None = None) -> int:
    """Tell `error` in a sentence, log its traceback, and return the exit status.

    The log is that of the run, where there is one; else a new file in the folder for temporary ones.
    """
    log = _logged(error, run_dir)
    if isinstance(error, MemoryError):
        sentence, status = "there was not enough memory; `evolign check` estimates what a run needs", REFUSED
    elif isinstance(error, OSError):
        sentence, status = f"the system refused: {said(error)}", REFUSED
    else:
        report = f"This is a mistake in evolign; please report it, with the log, at {ISSUES}"
        sentence, status = f"{type(error).__name__}: {said(error)}\n{report}", UNEXPECTED
    print(visible(f"evolign: {sentence}\nThe traceback is in {log}"), file=sys.stderr)
    return status


def _logged(error: Exception, run_dir: Path | None) -> str:
    """Where the traceback was written."""
    lines = traceback.format_exception(error)
    about = f"evolign {importlib.metadata.version('evolign')}, Python {platform.python_version()}"
    text = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {about}, {platform.platform()}\n{''.join(lines)}"
    try:
        if run_dir is not None and (run_dir / "config.json").is_file():
            path = run_dir / "log.txt"
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        else:
            descriptor, name = tempfile.mkstemp(prefix="evolign-", suffix=".log")
            path = Path(name)
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as refused:
        return f"no file, since none could be written ({refused}):\n{text}"
    return str(path)
