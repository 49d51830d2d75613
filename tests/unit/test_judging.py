"""Judges that are models: an endpoint that fails in every way over real HTTP, and local weights."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_server import Failure, Server, judge_server, rows
from small_runs import full_disk
from tiny_models import CHAT_TEMPLATE, save_tiny, tiny_tokenizer

import evolign
from evolign import jsonl
from evolign.errors import ConfigError, JudgeError
from evolign.judging.base import Estimate, Question
from evolign.judging.contest import Judged, build_judge
from evolign.judging.template import Template

KEY = "sk-secret-0123456789"
EVOLIGN = [sys.executable, "-c", "from evolign.cli.app import main; main()"]


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The key in the environment, and a cache of its own."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return KEY


@pytest.fixture
def serve(key: str) -> Iterator[Callable[..., Server]]:
    """`serve(script)` starts a server that lives as long as the test."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda script, **options: stack.enter_context(judge_server(script, **options))


def ask(server: Server, count: int = 4, **options: Any) -> Judged:
    return evolign.judge(rows(count), by="gpt-x", url=server.url, **options)


def prefers_ours(number: int, body: dict[str, Any]) -> str:
    """A judge without a bias: ours wins wherever it is shown."""
    user = body["messages"][-1]["content"]
    return "Plain. [[A]]" if user.index("ours") < user.index("reference") else "Plain. [[B]]"


def test_verdicts_are_written_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    found = evolign.judge(rows(1), by=lambda prompt, a, b: "A", out=tmp_path)
    [small, large] = [(tmp_path / name).stat().st_size for name in ("verdicts.jsonl", "win_rate.json")]
    assert small + 10 < large
    for most in (small - 10, small + 10):  # the first file does not fit, then only the second
        with full_disk(most), pytest.raises(ConfigError, match="cannot write the verdicts"):
            evolign.judge(rows(1), by=lambda prompt, a, b: "B", out=tmp_path)
        assert json.loads((tmp_path / "win_rate.json").read_text()) == found.summary
        told = [row for _, row in jsonl.read(tmp_path / "verdicts.jsonl")]
        assert (told == found.verdicts) is (most < small)


# An endpoint.


def test_both_orders_of_every_pair_are_really_sent_and_turned_back(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve(prefers_ours)
    found = ask(server, out=tmp_path / "out")
    first = [user.index("ours") < user.index("reference") for user in server.users]
    assert len(first) == 8 and sum(first) == 4
    for i in range(4):
        assert sum(f"prompt {i}\n" in user and f"ours {i}\n" in user for user in server.users) == 2
    assert (found.summary["win_rate"], found.summary["agreement"]) == (1.0, 1.0)
    assert (found.summary["calls"], found.summary["tokens_in"], found.summary["tokens_out"]) == (8, 400, 56)
    assert json.loads((tmp_path / "out" / "win_rate.json").read_text()) == found.summary
    lines = (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == found.verdicts
    assert {row["reply"] for row in found.verdicts} == {"Plain. [[A]]", "Plain. [[B]]"}


def test_a_rerun_asks_nothing_and_another_model_url_parameter_or_text_does(
    serve: Callable[..., Server],
) -> None:
    server, other = serve(prefers_ours), serve(prefers_ours)
    first = ask(server)
    again = ask(server)
    assert len(server.bodies) == 8 and (again.summary["calls"], again.summary["cached"]) == (0, 8)
    assert again.verdicts == first.verdicts and again.summary["win_rate"] == first.summary["win_rate"]
    ask(server, 5)
    assert len(server.bodies) == 10, "one more example, in both orders"
    ask(server, parameters={"temperature": 0.7})
    assert len(server.bodies) == 18
    evolign.judge(rows(), by="gpt-y", url=server.url)
    assert len(server.bodies) == 26
    ask(other)
    assert len(other.bodies) == 8


def test_the_cost_is_told_before_the_first_call_and_may_stop_it(serve: Callable[..., Server]) -> None:
    server = serve(prefers_ours)
    told: list[Estimate] = []

    def stop(estimate: Estimate) -> None:
        told.append(estimate)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(server, before=stop)
    assert server.bodies == [] and (told[0].calls, told[0].cached) == (8, 0)
    assert told[0].tokens_out_at_most == 8 * 512
    ask(server, 3)
    sent = sum(len(m["content"]) for body in server.bodies for m in body["messages"])
    with pytest.raises(KeyboardInterrupt):
        ask(server, before=stop)
    assert (told[1].calls, told[1].cached) == (2, 6)
    assert told[0].tokens_in == pytest.approx(sent / 6 * 8 / 4, rel=0.01)
    assert str(told[1]).startswith("2 calls (6 more are in the cache), about ")
    with pytest.raises(KeyboardInterrupt):
        ask(server, before=stop, parameters={"max_tokens": None})
    assert str(told[2]).endswith("tokens in and no limit on tokens out")


@pytest.mark.parametrize(
    ("failure", "timeout"),
    [
        (Failure(429, '{"error": {"message": "slow down"}}'), 5.0),
        (Failure(500, "<html>oops</html>"), 5.0),
        (Failure(200, '{"choices": [{"mess'), 5.0),
        (Failure(200, '{"choices": []}'), 5.0),
        (Failure(200, "[]"), 5.0),
        (Failure(200, "{}", seconds=0.6), 0.3),
    ],
    ids=["429", "500", "half a JSON", "no choice", "a list", "silence"],
)
def test_a_failure_that_passes_is_tried_again_and_counted(
    failure: Failure, timeout: float, serve: Callable[..., Server]
) -> None:
    server = serve(lambda number, body: failure if number == 1 else prefers_ours(number, body))
    found = ask(server, 2, concurrency=1, timeout_seconds=timeout).summary
    assert len(server.bodies) == 5 and (found["calls"], found["retries"]) == (4, 1)
    assert (found["win_rate"], found["failed"]) == (1.0, 0)


def test_a_call_that_never_succeeds_is_counted_not_cached_and_left_out_of_the_win_rate(
    serve: Callable[..., Server],
) -> None:
    def script(number: int, body: dict[str, Any]) -> str | Failure:
        bad = "prompt 1" in body["messages"][-1]["content"]
        return Failure(500, "no") if bad else prefers_ours(number, body)

    server = serve(script)
    found = ask(server, 3, retries=1)
    assert (found.summary["failed"], found.summary["retries"], found.summary["win_rate"]) == (2, 2, 1.0)
    assert [row.get("problem", "")[:4] for row in found.verdicts] == ["", "", "500:", "500:", "", ""]
    assert ask(server, 3, retries=0).summary["cached"] == 4


def test_a_judge_that_fails_again_and_again_is_given_up(serve: Callable[..., Server]) -> None:
    server = serve(
        lambda number, body: Failure(400, '{"error": {"message": "temperature is not supported"}}')
    )
    with pytest.raises(
        JudgeError, match=r"gpt-x failed 8 calls in a row, the last: 400: .*temperature is not"
    ):
        ask(server, 20, concurrency=1)
    assert len(server.bodies) <= 9


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, r"refused the key in OPENAI_API_KEY \(401: .*\); set OPENAI_API_KEY to a key that it accepts"),
        (403, "refused the key in OPENAI_API_KEY"),
        (404, "has no model 'gpt-x' or no /chat/completions"),
    ],
)
def test_what_no_repetition_mends_is_one_sentence_after_the_first_call(
    status: int, words: str, serve: Callable[..., Server]
) -> None:
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}.\nSee the page."}})
    server = serve(lambda number, request: Failure(status, body))
    with pytest.raises(JudgeError, match=words) as caught:
        ask(server, 50, concurrency=2)
    assert len(server.bodies) <= 4 and KEY not in str(caught.value) and "\n" not in str(caught.value)


def test_an_endpoint_that_is_down_is_one_sentence(key: str) -> None:
    with judge_server(prefers_ours) as server:
        pass
    with pytest.raises(JudgeError, match=r"127.0.0.1:\d+/v1 cannot be reached: .*; check the URL"):
        ask(server, retries=0)


def test_calls_run_at_once_but_no_more_than_allowed(serve: Callable[..., Server]) -> None:
    server = serve(prefers_ours, seconds=0.05)
    ask(server, 10, concurrency=4)
    assert server.most_at_once == 4


def test_the_key_is_in_the_header_and_nowhere_on_disk(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where the server sends it back, in replies and in errors."""
    monkeypatch.chdir(tmp_path)
    said = iter([Failure(500, f"bad key {KEY}"), f"your key is {KEY} [[A]]"])
    server = serve(lambda number, body: next(said, Failure(400, f"bad key {KEY}")))
    found = ask(server, 2, concurrency=1, retries=1, out=tmp_path / "out")
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert found.verdicts[0]["reply"] == "your key is *** [[A]]" and found.verdicts[1]["problem"]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3, "two results and one reply"
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "needs a key; put it into the environment variable MY_KEY"),
        ({"url": "localhost:8000"}, "must begin with http:// or https://"),
        ({"url": "https://me:pass@host/v1"}, "must not hold a user, password or query"),
        ({"url": "http://host/v1", "concurrency": 0}, "concurrency is too small"),
    ],
)
def test_a_judge_that_cannot_work_is_told_before_anything_is_done(
    options: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ConfigError, match=words) as caught:
        build_judge("gpt-x", key_env="MY_KEY", **options)
    assert "pass@" not in str(caught.value)


def test_without_the_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=r"pip install 'evolign\[judge\]'"):
        build_judge("gpt-x", url="http://host/v1")


def test_a_broken_cache_file_is_asked_anew(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(prefers_ours)
    ask(server, 2, cache=tmp_path / "replies")
    paths = sorted((tmp_path / "replies").rglob("*.json"))
    paths[0].write_text("{"), paths[1].write_text("[]")
    found = ask(server, 2, cache=tmp_path / "replies")
    assert (found.summary["calls"], found.summary["cached"]) == (2, 2) and len(server.bodies) == 6


def start(server: Server, path: Path, *options: str) -> "subprocess.Popen[str]":
    command = [*EVOLIGN, "judge", str(path), "--by", "gpt-x", "--url", server.url, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_an_interrupted_command_ends_at_once_and_goes_on_where_it_stopped(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    """Ctrl-C while calls are under way whose answers would take a minute."""
    import signal

    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(10)))

    def slow(number: int, body: dict[str, Any]) -> str | Failure:
        return Failure(seconds=60.0) if number in (7, 8) else prefers_ours(number, body)

    server = serve(slow)
    process = start(server, path, "--concurrency", "2")
    deadline = time.monotonic() + 60
    while len(server.bodies) < 9 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    interrupted = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and time.monotonic() - interrupted < 5, errors
    assert "Judge gpt-x: 20 calls, about" in output and "Traceback" not in errors
    assert "Interrupted after 7 verdicts. The same command resumes from there." in errors
    process = start(server, path, "--out", str(tmp_path / "out"))
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and len(server.bodies) == 9 + 13, errors
    assert "Judge gpt-x: 13 calls (7 more are in the cache), about" in output
    assert "Win rate 1.000 [0.722, 1.000] against reference, by gpt-x" in output
    assert json.loads((tmp_path / "out" / "win_rate.json").read_text())["win_rate"] == 1.0


def test_a_template_of_ones_own_is_what_the_endpoint_gets(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    path = tmp_path / "template.yaml"
    path.write_text("system: null\nuser: 'Q {prompt} ({a}) or ({b})'\nverdict: 'winner=(\\w+)'\n")
    server = serve(lambda number, body: "winner=a")
    found = ask(server, 1, template=path, parameters={"temperature": None, "top_p": 0.5})
    assert found.summary["first_shown_wins"] == 1.0
    assert sorted(server.users) == [
        "Q prompt 0 (ours 0) or (reference 0)",
        "Q prompt 0 (reference 0) or (ours 0)",
    ]
    body = server.bodies[0]
    assert [message["role"] for message in body["messages"]] == ["user"]
    assert {name: body.get(name) for name in ("model", "top_p", "max_tokens", "temperature")} == {
        "model": "gpt-x", "top_p": 0.5, "max_tokens": 512, "temperature": None,
    }  # fmt: skip


# Real models.


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random chat model with room for a question."""
    folder = save_tiny("llama", tmp_path_factory.mktemp("chat") / "model", max_position_embeddings=512)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


WORDS = Template(system=None, user="{prompt}? {a} or {b}", verdict=r"([ab])")


def test_a_local_model_judges_by_our_engine_and_its_replies_are_kept(
    chat_model: Path, tmp_path: Path, key: str
) -> None:
    options: Any = {"template": WORDS, "parameters": {"max_tokens": 8}}
    given = [*rows(2), rows(1)[0] | {"id": "long", "prompt": "p" * 600}]
    found = evolign.judge(given, by=f"local:{chat_model}", **options)
    replies = [row["reply"] for row in found.verdicts]
    assert all(isinstance(reply, str) for reply in replies[:4]) and replies[4:] == [None, None]
    assert found.summary["failed"] == 2 and "exceed the context of 512" in found.verdicts[4]["problem"]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    model = AutoModelForCausalLM.from_pretrained(chat_model)
    messages = WORDS.messages(Question("prompt 1", "ours 1", "reference 1"))
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    said = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert found.verdicts[2]["reply"] == said and found.verdicts[2]["verdict"] == WORDS.read(said)
    again = evolign.judge(given[:2], by=f"local:{chat_model}", **options)
    assert (again.summary["calls"], again.summary["cached"]) == (0, 4)
    assert again.verdicts == found.verdicts[:4]


def test_a_local_judge_has_no_other_parameters(chat_model: Path) -> None:
    with pytest.raises(ConfigError, match="a local judge has no parameter 'top_p'"):
        build_judge(f"local:{chat_model}", parameters={"top_p": 0.5})


def test_transformers_serve_is_a_judge(chat_model: Path, key: str) -> None:
    """The server of another project, over HTTP; greedy replies are those of the same model in our engine."""
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package, reason=f"`transformers serve` needs {package}")
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = ["-c", "from transformers.cli.transformers import main; main()", "serve", str(chat_model)]
    process = subprocess.Popen(
        [sys.executable, *command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        options: Any = {"template": WORDS, "parameters": {"max_tokens": 8}}
        url = f"http://127.0.0.1:{port}/v1"
        served = evolign.judge(rows(2), by=str(chat_model), url=url, **options)
        local = evolign.judge(rows(2), by=f"local:{chat_model}", **options)
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=30)
    assert served.summary["calls"] == 4 and served.summary["failed"] == 0, output
    assert [row["reply"] for row in served.verdicts] == [row["reply"] for row in local.verdicts]
    assert served.summary["tokens_out"] == local.summary["tokens_out"]
