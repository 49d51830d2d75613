"""A sample of `make test-kills`: killed at a file operation, and resumed, a run is the one nobody killed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from kills import differences, go, killed, recipe_for, substance
from small_runs import in_this_process, small_run


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path, int]]:
    """`reference(method)` is the recipe, its run without a kill, and the number of points in it."""

    def made(method: str) -> tuple[Path, Path, int]:
        root = tmp_path_factory.mktemp(method)
        recipe, path = recipe_for(root, method), root / "reference"
        small_run(recipe, root / "first")  # imports what the forked processes need
        told = go(recipe, path)
        assert told is not None
        return recipe, path, told["points"]

    return made


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc, to name what is open")
@pytest.mark.parametrize(("method", "twice"), [("evolution", True), ("sft", False)])
def test_killed_at_a_file_operation_and_resumed_is_uninterrupted(
    method: str,
    twice: bool,
    reference: Callable[[str], tuple[Path, Path, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_this_process(monkeypatch.setattr)
    recipe, path, points = reference(method)
    assert points > 100
    assert killed(recipe, tmp_path / "run", at=points * 3 // 5, again=11 if twice else 0)
    assert not differences(tmp_path / "run", substance(path))
