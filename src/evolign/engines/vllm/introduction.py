"""Before a server counts, it shows that it has the model of this process and takes its adapters."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from evolign.engines.transformers.engine import TransformersEngine
from evolign.engines.vllm.client import RefusedError, Server
from evolign.errors import EngineError
from evolign.policy.policy import Policy
from evolign.types import Example, Population

EXAMPLE = Example("evolign introduction", "The sum of 1 and 2 is")
NEW_TOKENS = 16
FAR = 0.2
"""Nats by which log-probabilities of tokens may differ on average: bfloat16 makes some hundredths."""


def introduce(
    policy: Policy,
    server: Server,
    loaded: Callable[[Server], AbstractContextManager[str]],
    say: Callable[[str], None],
) -> None:
    """Raise EngineError where `server` cannot be used; `loaded` loads the starting adapter into it.

    Its model is known by what it writes, since one model may have many names.
    """
    base = policy.base
    base.prompts.add([EXAMPLE])
    try:
        with loaded(server) as model:
            [written] = server.complete(
                model,
                base.prompts[EXAMPLE.id],
                stop=base.eos_token_ids,
                most=NEW_TOKENS,
                temperature=0.0,
                logprobs=True,
            )
    except RefusedError as error:
        raise _explained(error, policy.adapter.rank) from error
    root = server.base.root
    where = f"engine.url = {server.url!r} serves {root!r}"
    if max(written.token_ids) >= base.embeddings:
        raise EngineError(
            f"{where}, which has written the token {max(written.token_ids)}, but model.name = {base.name!r} "
            f"has {base.embeddings} tokens; give the name of the model that is served"
        )
    with TransformersEngine(policy) as reader:
        read_T = reader.logprobs(Population.of_mean(), [0], [EXAMPLE.id], [written.token_ids])[0]
    apart = float(np.abs(read_T - np.array(written.logprobs)).mean())
    if not apart < FAR:
        raise EngineError(
            f"{where}, which is another model than model.name = {base.name!r}: it finds tokens more or less "
            f"likely by {apart:.2f} nats; give the name of the model that is served"
        )
    if Path(root).name != Path(base.name).name:
        say(f"engine.url = {server.url!r} calls {root!r} what model.name calls {base.name!r}.")


def _explained(error: RefusedError, rank: int) -> EngineError:
    """What a server has to be started with so that it takes adapters."""
    way_out = "start it with --enable-lora"
    if error.status in (404, 405) and "adapter" not in error.reason:
        way_out = (
            "start it with --enable-lora and with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment"
        )
    elif "rank" in error.reason:
        way_out = f"start it with --max-lora-rank {rank} or more, or use adapter.rank"
    elif error.status == 404:
        way_out = "set engine.adapters to a folder that this process writes and the server reads"
    elif error.status in (401, 403):
        return error
    return EngineError(f"{error}; {way_out}")
