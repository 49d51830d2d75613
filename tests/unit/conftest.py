"""Finished runs that several files look at."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`made(method)` is a finished run, made where rewards are called in this process. Read only."""
    from small_runs import small_recipe, small_run

    root = tmp_path_factory.mktemp("made")

    def run_of(method: str) -> Path:
        if not (root / method).is_dir():
            small_run(small_recipe(root, method), root / method)
        return root / method

    return run_of
