"""The public call: judge two sets of completions against each other, in both orders."""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolign import disk, jsonl
from evolign.errors import ConfigError
from evolign.judging.base import Answer, Estimate, Judge, Question
from evolign.judging.cache import Cache, default_folder
from evolign.judging.endpoint import Endpoint
from evolign.judging.llm import LlmJudge
from evolign.judging.local import LocalModel
from evolign.judging.pairs import REFERENCE, Pair, Rows, pair_up
from evolign.judging.scripted import ScriptedJudge, load_script
from evolign.judging.template import Template, load_template
from evolign.judging.win_rate import ORDERS, summarise, verdict_rows

PARAMETERS = {"temperature": 0.0, "max_tokens": 512}
LOCAL = "local:"
MOST = {"concurrency": 1000, "retries": 1000, "timeout": 86_400}
SCRIPT = re.compile(r".+\.py:\w+")


@dataclass(frozen=True)
class Judged:
    """The verdicts of a judge on all pairs."""

    summary: dict[str, Any]
    """Counts, `win_rate` with `_low` and `_high`, agreement, biases, costs: see docs/evaluation.md."""
    verdicts: list[dict[str, Any]]
    """Two per pair, one per order."""


def judge(
    rows: Rows,
    against: Rows = REFERENCE,
    *,
    by: str | Callable[..., str] | Judge,
    decoding: str = "greedy",
    name: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    before: Callable[[Estimate], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Judged:
    """Let a judge compare the completions in `rows` with those in `against`, every pair in both orders.

        found = evolign.judge("ours.jsonl", "theirs.jsonl", by="gpt-5-mini")
        found = evolign.judge("ours.jsonl", by="local:./judge-model")       # against the references
        found = evolign.judge(ours, theirs, by=lambda prompt, a, b: "A" if len(a) < len(b) else "B")

    `rows` and `against` are .jsonl files of `evolign evaluate --out` or their rows; "reference" stands for
    the references in `rows`, and `name` for `against` in the summary. `by` and `options` are those of
    `build_judge`. `out` is a folder that receives win_rate.json and verdicts.jsonl. `before` gets the costs
    before anything is spent, and may raise; `progress(done, total)` is called after every verdict. Raises
    ConfigError for bad input, JudgeError if the judge cannot be asked; the cache keeps earlier answers.
    """
    out = None if out is None else Path(out).expanduser()
    if out is not None and (out.is_file() or not out.absolute().parent.is_dir()):
        raise ConfigError(f"out = {str(out)!r} must be a folder, new or not, in a folder that exists")
    referee = build_judge(by, **options)
    started = time.perf_counter()
    paired = pair_up(rows, against, decoding)
    asked = _questions(paired.pairs)
    questions = list(asked.values())
    estimate = referee.estimate(questions)
    if before is not None and estimate is not None and estimate.calls:
        before(estimate)
    places = list(asked)
    answers: dict[tuple[int, str], Answer] = {}
    for i, answer in referee.answers(questions):
        answers[places[i]] = answer
        if progress is not None:
            progress(len(answers), len(questions))
    verdicts = verdict_rows(paired.pairs, answers)
    summary = {
        "judge": referee.name,
        "against": name or (str(against) if isinstance(against, str | Path) else "rows"),
        "decoding": decoding,
        **summarise(paired, verdicts, seed),
        **_costs(list(answers.values()), estimate),
        "seconds": time.perf_counter() - started,
    }
    if out is not None:
        _write(out, summary, verdicts)
    return Judged(summary, verdicts)


def build_judge(
    by: str | Callable[..., str] | Judge,
    *,
    url: str | None = None,
    key_env: str = "OPENAI_API_KEY",
    template: str | Path | Template | None = None,
    parameters: Mapping[str, Any] | None = None,
    concurrency: int = 8,
    retries: int = 5,
    timeout_seconds: float = 60.0,
    cache: str | Path | None = None,
) -> Judge:
    """The judge that `by` is or names: `local:MODEL`, `file.py:function`, a function, or an endpoint's model.

    A function takes (prompt, a, b) and returns "A", "B" or "tie". The endpoint is `url`, else
    $OPENAI_BASE_URL, else OpenAI's; its key is in the environment variable `key_env`. `parameters` are
    merged over temperature 0 and max_tokens 512 and sent with every call; None takes one out. `cache` is the
    folder of replies. Raises ConfigError for whatever is wrong before the first call.
    """
    if isinstance(by, Judge):
        return by
    for name, value in (("concurrency", concurrency), ("retries", retries + 1), ("timeout", timeout_seconds)):
        if not 0 < value <= MOST[name]:
            raise ConfigError(
                f"the judge's {name} is too {'small' if value <= 0 else 'large'}; it must be positive and "
                f"at most {MOST[name]:,}: no server takes more calls at once, and nobody waits longer"
            )
    if not isinstance(by, str):
        return ScriptedJudge(by, timeout_seconds=timeout_seconds)
    if SCRIPT.fullmatch(by):
        return load_script(by, timeout_seconds=timeout_seconds)
    merged = {**PARAMETERS, **(parameters or {})}
    sent = {name: value for name, value in merged.items() if value is not None}
    words = (
        template if isinstance(template, Template) else load_template(template) if template else Template()
    )
    replies = Cache(default_folder() if cache is None else Path(cache).expanduser())
    if by.startswith(LOCAL):
        return LlmJudge(LocalModel(by.removeprefix(LOCAL), sent), words, replies)
    backend = Endpoint(
        by,
        url=url,
        key_env=key_env,
        parameters=sent,
        concurrency=concurrency,
        retries=retries,
        timeout_seconds=timeout_seconds,
    )
    return LlmJudge(backend, words, replies)


def _questions(pairs: Sequence[Pair]) -> dict[tuple[int, str], Question]:
    """Both orders of every pair whose completions differ, by the pair's number and the order."""
    found = {}
    for i, pair in enumerate(pairs):
        if pair.ours != pair.theirs:
            found[i, ORDERS[0]] = Question(pair.prompt, pair.ours, pair.theirs)
            found[i, ORDERS[1]] = Question(pair.prompt, pair.theirs, pair.ours)
    return found


def _costs(answers: Sequence[Answer], estimate: Estimate | None) -> dict[str, int]:
    """What was spent in this call of `judge`: replies from the cache cost nothing."""
    if estimate is None:
        return {}
    replies = {id(answer.reply): answer.reply for answer in answers}.values()
    spent = [reply for reply in replies if not reply.cached]
    return {
        "calls": len(spent),
        "cached": len(replies) - len(spent),
        "retries": sum(reply.retries for reply in spent),
        "tokens_in": sum(reply.tokens_in for reply in spent),
        "tokens_out": sum(reply.tokens_out for reply in spent),
    }


def _write(out: Path, summary: Mapping[str, Any], verdicts: Sequence[Mapping[str, Any]]) -> None:
    try:
        out.mkdir(exist_ok=True)
        disk.write(out / "verdicts.jsonl", jsonl.dumps(verdicts))
        disk.write(out / "win_rate.json", json.dumps(summary, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(
            f"cannot write the verdicts to {str(out)!r}: {error.strerror or error}; the replies are in the "
            "cache: the same command costs nothing"
        ) from error
