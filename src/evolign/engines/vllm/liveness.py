"""Calls of vLLM end when its processes do: left alone, a call waits for ever for a process that was killed.

vLLM notes such a death, but only the next call hears of it. What is used of its insides here is left out
where it is not there, and was tested with the versions that `engine.TESTED` names.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from evolign.engines.base import EngineDeadError
from evolign.errors import first_line

LOOK_SECONDS = 0.5


@contextmanager
def watched(llm: Any) -> Iterator[None]:
    """End the calls of `llm` that wait for a dead process, for as long as the context lasts."""
    core = getattr(getattr(llm, "llm_engine", None), "engine_core", None)
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(LOOK_SECONDS):
            if getattr(getattr(core, "resources", None), "engine_dead", False):
                _wake(core)

    thread = threading.Thread(target=watch, name="evolign-vllm", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _wake(core: Any) -> None:
    """Answer what waits for the dead."""
    from vllm.v1.engine.exceptions import EngineDeadError as Dead

    if (answers := getattr(core, "outputs_queue", None)) is not None:
        answers.put_nowait(Dead())
    for future in list(getattr(core, "utility_results", {}).values()):
        with suppress(Exception):  # it has been answered meanwhile
            future.set_exception(Dead())


@contextmanager
def living() -> Iterator[None]:
    """Raise EngineDeadError where vLLM says that a process of it has ended."""
    from vllm.v1.engine.exceptions import EngineDeadError as Dead

    try:
        yield
    except Dead as error:
        raise EngineDeadError(
            f"vLLM's engine has ended: {first_line(error):.200}; its lines above say why. Mend that, then "
            "resume the run"
        ) from error
