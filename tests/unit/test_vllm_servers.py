"""The engine `vllm` with a url, against a stand-in for `vllm serve`. `make test-vllm` asks the true one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vllm_server import Served, vllm_server

from evolign.config import TransformersConfig, VllmConfig
from evolign.engines import build_engine
from evolign.errors import EngineError
from evolign.policy.policy import Policy
from evolign.types import Example, Jump, Population, Sampling

EXAMPLES = [Example(str(i), f"{i}+{i}=") for i in range(3)]
NAMES = [example.id for example in EXAMPLES]
GREEDY = Sampling(max_new_tokens=4, temperature=0.0, samples_per_prompt=2)


@pytest.fixture
def served(tiny: Callable[[str], Path]) -> Iterator[Served]:
    with vllm_server(tiny("llama")) as server:
        yield server


def generate(engine: Any, population: Population, sampling: Sampling = GREEDY) -> Any:
    return engine.generate(population, [NAMES] * len(population), sampling).token_ids_NPS


def test_candidates_go_in_waves_to_all_servers_and_write_what_transformers_writes(
    served: Served, tiny: Callable[[str], Path], policy: Callable[..., Policy], tmp_path: Path
) -> None:
    llama = policy("llama")
    theta_ND = 0.3 * np.random.default_rng(0).standard_normal((4, llama.space.dim))
    population = Population(theta_ND, with_mean=True, version=1)
    with vllm_server(tiny("llama")) as other:
        config = VllmConfig(url=[served.url, other.url], max_loras=2, adapters=str(tmp_path / "seen"))
        with (
            build_engine(config, llama, EXAMPLES) as engine,
            build_engine(TransformersConfig(), llama, EXAMPLES) as reference,
        ):
            for made in (engine, reference):
                made.move(Jump(theta_ND[0]))
            wanted = generate(reference, population)
            for _ in range(2):
                assert (generate(engine, population) == wanted).all()
            assert not list((tmp_path / "seen").glob("*/*")) and not served.adapters
        names = served.loaded + other.loaded
        assert len(set(names)) == len(names) == 2 + 2 * 5, "every adapter has a name of its own"
        assert served.most_adapters == other.most_adapters == 2
    assert not list((tmp_path / "seen").iterdir())


def test_a_prompt_has_the_same_seed_for_all_candidates_and_no_other_sampling_counts(
    served: Served, policy: Callable[..., Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    llama = policy("llama")
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    with build_engine(VllmConfig(url=served.url), llama, EXAMPLES) as engine:
        served.asked.clear()
        drawn = Sampling(max_new_tokens=4, temperature=0.7, samples_per_prompt=3)
        assert generate(engine, Population(np.zeros((2, llama.space.dim))), drawn).shape == (2, 3, 3)
    assert served.keys == {"Bearer secret"}
    assert len(served.asked) == 6 and {body["n"] for body in served.asked} == {3}
    assert len({(tuple(body["prompt"]), body["seed"]) for body in served.asked}) == 3
    assert len({body["seed"] for body in served.asked}) == 3
    plain = [
        (body["temperature"], body["top_p"], body["top_k"], body["repetition_penalty"])
        for body in served.asked
    ]
    assert set(plain) == {(0.7, 1.0, 0, 1.0)}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"updating": False}, r"404: Not Found; start it .* VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
        ({"most_rank": 2}, r"rank 4 is greater than .* 2.; start it with --max-lora-rank 4"),
        ({"blind": True}, r"No adapter found .* set engine.adapters to a folder"),
        ({"silent": True}, "no vLLM answers there .* start it with `vllm serve`"),
    ],
)
def test_a_server_that_cannot_be_used_is_an_error_with_the_way_out(
    served: Served, policy: Callable[..., Policy], settings: dict[str, Any], words: str
) -> None:
    vars(served).update(settings)
    with (
        pytest.raises(EngineError, match=words),
        build_engine(VllmConfig(url=served.url), policy("llama"), EXAMPLES),
    ):
        pass


def test_a_server_of_another_model_is_refused(policy: Callable[..., Policy], tmp_path: Path) -> None:
    from tiny_models import save_tiny

    with (
        vllm_server(save_tiny("llama", tmp_path / "other", seed=1)) as other,
        pytest.raises(EngineError, match=r"'.*other', which is another model than model.name"),
        build_engine(VllmConfig(url=other.url), policy("llama"), EXAMPLES),
    ):
        pass


def test_a_server_that_goes_away_or_has_no_room_is_an_error(
    served: Served, policy: Callable[..., Policy]
) -> None:
    llama = policy("llama")
    one = Population(np.zeros((1, llama.space.dim)))
    with build_engine(VllmConfig(url=served.url), llama, EXAMPLES) as engine:
        with pytest.raises(EngineError, match="cannot read completions"):
            engine.logprobs(one, [0], NAMES[:1], [(5,)])
        served.silent = True
        with pytest.raises(EngineError, match="no vLLM answers there"):
            generate(engine, one)
        served.silent, served.longest = False, 6
    with (
        build_engine(VllmConfig(url=served.url), llama, EXAMPLES) as engine,
        pytest.raises(EngineError, match=r"started with --max-model-len 6, but .* = 4 need"),
    ):
        generate(engine, one)


def test_nobody_listens(policy: Callable[..., Policy]) -> None:
    config = VllmConfig(url="http://127.0.0.1:9/v1/")
    with (
        pytest.raises(EngineError, match=r"'http://127.0.0.1:9': no vLLM answers there .*refused"),
        build_engine(config, policy("llama"), EXAMPLES),
    ):
        pass
