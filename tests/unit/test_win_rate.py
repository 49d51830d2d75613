"""Win rates of judges that are functions: who is compared, what is asked, what is counted."""

import json
from pathlib import Path
from typing import Any

import pytest
from judge_server import rows

import evolign
from evolign.errors import ConfigError, JudgeError
from evolign.judging.base import Question
from evolign.judging.template import Template, load_template
from evolign.metrics import wilson


def test_a_judge_that_knows_what_it_wants_gets_a_win_rate_of_one_and_agrees_with_itself() -> None:
    found = evolign.judge(rows(), by=lambda prompt, a, b: "A" if "ours" in a else "B").summary
    assert (found["pairs"], found["verdicts"], found["wins"], found["losses"]) == (4, 8, 8, 0)
    assert found["win_rate"] == 1.0
    assert (found["win_rate_low"], found["win_rate_high"]) == wilson(4, 4), "four prompts are no proof"
    assert found["agreement"] == 1.0 and found["first_shown_wins"] == 0.5
    assert found["longer_wins"] == 0.0, "the references are longer"


def test_a_judge_that_looks_at_the_order_alone_is_found_out() -> None:
    found = evolign.judge(rows(), by=lambda prompt, a, b: "A").summary
    assert (found["win_rate"], found["agreement"], found["first_shown_wins"]) == (0.5, 0.0, 1.0)
    assert found["first_shown_wins_low"] == wilson(4, 4)[0]


def test_ties_count_half_and_invalid_verdicts_nothing() -> None:
    said = {"prompt 0": "tie", "prompt 1": "neither", "prompt 2": None}

    def judge(prompt: str, a: str, b: str) -> Any:
        return said.get(prompt, "A" if "ours" in a else "B")

    found = evolign.judge(rows(), by=judge)
    counts = {name: found.summary[name] for name in ("wins", "losses", "ties", "invalid", "failed")}
    assert counts == {"wins": 2, "losses": 0, "ties": 2, "invalid": 4, "failed": 0}
    assert found.summary["win_rate"] == (2 + 2 / 2) / 4
    assert [row["winner"] for row in found.verdicts] == ["tie", "tie", *[None] * 4, "ours", "ours"]


def test_equal_completions_are_ties_that_nobody_is_asked_about() -> None:
    asked = []

    def judge(prompt: str, a: str, b: str) -> str:
        asked.append((prompt, a, b))
        return "A"

    theirs = [row | {"completion": row["completion"].replace("ours 0", "theirs")} for row in rows()]
    found = evolign.judge(rows(), theirs, by=judge)
    assert asked == [("prompt 0", "ours 0", "theirs"), ("prompt 0", "theirs", "ours 0")]
    assert (found.summary["identical"], found.summary["ties"], found.summary["win_rate"]) == (3, 6, 0.5)
    assert found.summary["first_shown_wins"] == 1.0 and found.summary["agreement"] == 0.0


def test_swapping_the_sides_turns_the_win_rate_round() -> None:
    theirs = rows(text="a theirs")

    def judge(prompt: str, a: str, b: str) -> str:
        return "tie" if "1" in prompt else "A" if sorted((a, b), reverse="2" in prompt)[0] == a else "B"

    one, other = evolign.judge(rows(), theirs, by=judge), evolign.judge(theirs, rows(), by=judge)
    assert one.summary["win_rate"] == pytest.approx(1 - other.summary["win_rate"])
    assert one.summary["win_rate_low"] == pytest.approx(1 - other.summary["win_rate_high"], abs=0.1)
    assert one.summary["agreement"] == other.summary["agreement"] == 1.0


def test_without_a_single_valid_verdict_there_is_no_win_rate() -> None:
    found = evolign.judge(rows(), by=lambda prompt, a, b: "?").summary
    assert found["win_rate"] is found["win_rate_low"] is found["agreement"] is None
    assert found["invalid"] == 8 and json.dumps(found)


def test_rows_are_matched_by_example_and_sample_and_the_rest_is_counted() -> None:
    ours = [row | {"sample": s, "completion": f"{row['completion']}.{s}"} for s in (0, 1) for row in rows(3)]
    theirs = [row | {"completion": f"theirs {row['sample']}"} for row in reversed(ours[1:])]
    seen = []

    def judge(prompt: str, a: str, b: str) -> str:
        seen.append((a, b))
        return "tie"

    found = evolign.judge(ours, theirs, by=judge).summary
    assert (found["pairs"], found["unmatched"]) == (5, 1)
    assert all(a[-1] == b[-1] for a, b in seen)


def test_blank_references_and_empty_completions_are_counted() -> None:
    given = rows()
    given[0]["reference"], given[1]["reference"], given[2]["completion"] = " \n", None, ""
    found = evolign.judge(given, by=lambda prompt, a, b: "A" if a else "B").summary
    assert (found["pairs"], found["without_reference"], found["empty_ours"]) == (2, 2, 1)
    assert found["empty_theirs"] == 0 and found["win_rate"] == 0.25


@pytest.mark.parametrize(
    ("ours", "against", "words"),
    [
        ([], "reference", "the rows holds no rows"),
        ([{"id": "a", "prompt": "p"}], "reference", "row 1 lacks 'completion'"),
        ([{"id": "a", "prompt": "p", "completion": 3}], "reference", "row 1: completion = 3 must be a text"),
        (["a"], "reference", "row 1 is 'a'; it must be an object"),
        (rows(2) + rows(1), "reference", "row 3: the id 'e0' comes twice"),
        ([rows(1)[0] | {"reference": ""}], "reference", "holds no reference completions"),
        ([rows(1)[0] | {"decoding": "sampled"}], "reference", "no greedy completions, only sampled; choose"),
        (rows(1), [rows(2)[1]], "have no example in common"),
        (rows(1), [rows(1)[0] | {"prompt": "else"}], "the example 'e0' has another prompt"),
        (rows(1), "/no/such.jsonl", "cannot read the completions in '/no/such.jsonl'"),
    ],
)
def test_rows_that_cannot_be_compared_are_told(ours: Any, against: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        evolign.judge(ours, against, by=lambda prompt, a, b: "A")


def test_a_function_is_named_by_its_file_and_its_mistakes_are_told(tmp_path: Path) -> None:
    path = tmp_path / "judge.py"
    path.write_text("def best(prompt, a, b):\n    return 'A' if len(a) <= len(b) else 'B'\n")
    assert evolign.judge(rows(), by=f"{path}:best").summary["win_rate"] == 1.0
    with pytest.raises(ConfigError, match="holds no function 'worst'"):
        evolign.judge(rows(), by=f"{path}:worst")
    with pytest.raises(ConfigError, match=r"the file .* does not exist"):
        evolign.judge(rows(), by=f"{tmp_path}/none.py:best")
    path.write_text("import nothing_of_the_kind\n")
    with pytest.raises(ConfigError, match="raised ModuleNotFoundError"):
        evolign.judge(rows(), by=f"{path}:best")
    path.write_text("def best(prompt, a, b):\n    return 1 / 0\n")
    with pytest.raises(JudgeError, match=r"raised ZeroDivisionError: .* about the prompt 'prompt 0'"):
        evolign.judge(rows(), by=f"{path}:best")


# What is asked and how the verdict is read.


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Both are fine.\n[[tie]]", "tie"),
        ("[[A]] says much.\nBut no: [[ b ]]\nThat is all.", "B"),
        ("<think>[[A]] it is</think>\n[[B]]", "B"),
        ("<think>[[A]] it is", "A"),
        ("I answer with [[A]], [[B]] or [[tie]]", "invalid"),
        ("[[A]] [[A]]", "A"),
        ("A is better", "invalid"),
        ("[[C]]", "invalid"),
        ("", "invalid"),
    ],
)
def test_the_verdict_is_read_from_the_last_line_that_holds_one(reply: str, verdict: str) -> None:
    assert Template().read(reply) == verdict


def test_completions_that_look_like_places_or_patterns_are_shown_as_they_are() -> None:
    question = Question("{a} or {b}?", "{b} \\1 {prompt}", "{a}")
    user = Template(user="{prompt}|{a}|{b}").messages(question)[-1]["content"]
    assert user == "{a} or {b}?|{b} \\1 {prompt}|{a}"
    several = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    user = Template(user="{prompt}{a}{b}").messages(Question(several, "", ""))[-1]["content"]
    assert user == "system: Be brief.\n\nuser: Hello"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("user: '{prompt} {a}'", r"`user` lacks \{b\}"),
        ("{user: '{prompt}{a}{b}', verdict: '('}", "no regular expression"),
        ("{user: '{prompt}{a}{b}', verdict: 'A|B'}", "has 0 groups; it needs one"),
        ("{user: '{prompt}{a}{b}', ending: x}", "must be a mapping of `user`, `system` and `verdict`"),
        ("user: 3", "user = 3 must be a text"),
        ("user: [", "cannot read the judge's template"),
    ],
)
def test_a_broken_template_is_told(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "template.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_template(tmp_path / "template.yaml")
