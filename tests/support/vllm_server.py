"""What `vllm serve` answers, made by our own engine: adapters come as files, completions go as token ids."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopback import Handler, serving

from evolign.config import ModelConfig, TransformersConfig
from evolign.engines import build_engine
from evolign.policy.base_model import load_base_model
from evolign.policy.policy import fixed_policy
from evolign.types import Population, Sampling


@dataclass
class Served:
    """What a server holds and was asked. Its settings may change while it runs."""

    model: Path
    url: str = ""
    updating: bool = True
    """As with VLLM_ALLOW_RUNTIME_LORA_UPDATING."""
    most_rank: int = 16
    longest: int = 10_000
    blind: bool = False
    """It sees no folders."""
    silent: bool = False
    """It takes connections and closes them."""
    adapters: dict[str, str] = field(default_factory=dict)
    most_adapters: int = 0
    loaded: list[str] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)


class _Refusal(Exception):
    pass


@contextmanager
def vllm_server(model: Path, **settings: Any) -> Iterator[Served]:
    """A server of `model` on loopback, which writes greedily whatever it is asked for."""
    base = load_base_model(ModelConfig(name=str(model), device="cpu"))
    served, lock = Served(model, **settings), threading.Lock()

    def answer(path: str, body: dict[str, Any]) -> Any:
        if path == "/v1/models":
            adapters = [{"id": name, "parent": "base"} for name in served.adapters]
            card = {"id": "base", "root": str(model), "parent": None, "max_model_len": served.longest}
            return {"data": [*adapters, card]}
        if path == "/v1/completions":
            return complete(body)
        if not served.updating:
            raise _Refusal(404, "Not Found")
        if path == "/v1/unload_lora_adapter":
            del served.adapters[body["lora_name"]]
            return None
        name, folder = body["lora_name"], Path(body["lora_path"])
        if served.blind:
            raise _Refusal(404, f"No adapter found for {folder}")
        rank = json.loads((folder / "adapter_config.json").read_text())["r"]
        if rank > served.most_rank:
            raise _Refusal(500, f"LoRA rank {rank} is greater than max_lora_rank {served.most_rank}.")
        served.adapters[name] = str(folder)
        served.loaded.append(name)
        served.most_adapters = max(served.most_adapters, len(served.adapters))
        return None

    def complete(body: dict[str, Any]) -> Any:
        served.asked.append(body)
        policy = fixed_policy(base, served.adapters.get(body["model"]))
        with build_engine(TransformersConfig(threads=1), policy) as engine:
            base.prompts._token_ids["asked"] = body["prompt"]
            sampling = Sampling(body["max_tokens"], temperature=0.0)
            ids = engine.generate(Population.of_mean(), [["asked"]], sampling).token_ids_NPS[0, 0, 0]
            logprobs = engine.logprobs(Population.of_mean(), [0], ["asked"], [ids])[0].tolist()
        choice = {"token_ids": [int(i) for i in ids], "logprobs": {"token_logprobs": logprobs}}
        return {"choices": [{"index": i, **choice} for i in range(body["n"])]}

    class Serves(Handler):
        def do_GET(self) -> None:
            self.reply({})

        def do_POST(self) -> None:
            self.reply(json.loads(self.rfile.read(int(self.headers["content-length"]))))

        def reply(self, body: dict[str, Any]) -> None:
            if served.silent:
                return
            with lock:
                served.keys.add(self.headers.get("authorization"))
                try:
                    status, found = 200, answer(self.path, body)
                except _Refusal as refusal:
                    status, found = refusal.args[0], {"error": {"message": refusal.args[1]}}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"Success" if found is None else json.dumps(found).encode())

    with serving(Serves) as served.url:
        yield served
