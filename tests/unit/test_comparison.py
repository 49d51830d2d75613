"""`evolign compare`: intervals, curves, targets, entries, and what makes them incomparable."""

import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparison_runs import jsonl, make_run, samples

from evolign.comparison.entries import group
from evolign.comparison.estimates import (
    Point,
    default_target,
    mean_curve,
    over_seeds,
    reach,
    t_quantile,
    validations,
)
from evolign.comparison.loading import read_runs
from evolign.comparison.page import page
from evolign.comparison.report import Comparison, build

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """`make("name", seed=1, values=(...), ...)` writes a finished run directory."""
    return partial(make_run, tmp_path)


def labels(comparison: Comparison) -> list[str]:
    return [entry.label for entry in comparison.entries]


def told(comparison: Comparison) -> str:
    return "\n".join(notice.text for notice in comparison.notices)


# Statistics


@pytest.mark.parametrize(
    ("df", "expected"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (5, 2.57058), (9, 2.26216), (10, 2.22814),
     (30, 2.04227), (120, 1.97993), (10_000, 1.96020)],
)  # fmt: skip
def test_the_t_quantile_is_the_tabulated_one(df: int, expected: float) -> None:
    assert t_quantile(df) == pytest.approx(expected, abs=6e-6 if df > 1 else 6e-5)


def test_the_interval_over_seeds_covers_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = [
        estimate.low <= 0.7 <= estimate.high
        for values in rng.normal(0.7, 0.1, (2000, 3))
        if (estimate := over_seeds(list(values))).low is not None and estimate.high is not None
    ]
    assert len(covered) == 2000
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)  # three standard errors


def test_the_interval_over_three_seeds_is_that_of_a_hand_calculation() -> None:
    estimate = over_seeds([1.0, 2.0, 3.0])  # mean 2, standard deviation 1, t(2) = 4.30265
    assert (estimate.mean, estimate.over, estimate.count) == (2.0, "seeds", 3)
    assert estimate.low == pytest.approx(2 - 4.30265 / math.sqrt(3), abs=1e-5)
    assert estimate.high == pytest.approx(2 + 4.30265 / math.sqrt(3), abs=1e-5)


def test_an_interval_of_shares_ends_at_zero_and_one(make: Make) -> None:
    found = build([make("a", seed=0, values=(0.2, 0.9)), make("b", seed=1, values=(0.2, 0.5))])
    assert found.results.rows[0][1].text == "0.700"
    assert found.results.rows[0][1].detail == "[0.000, 1.000]"


@pytest.mark.parametrize("seeds", [1, 2])
def test_without_a_spread_over_seeds_the_runs_own_interval_is_shown_and_said_to_be_so(
    make: Make, seeds: int
) -> None:
    found = build([make(str(seed), seed=seed) for seed in range(seeds)])
    assert found.results.rows[0][1].detail == "[0.760, 0.840]†"
    assert any(note.startswith("†") and "over prompts" in note for note in found.results.notes)


def test_the_mean_curve_holds_each_seeds_last_validation_and_ends_with_the_last_seed() -> None:
    one = [Point(0, 0.0, 0, 0), Point(10, 0.4, 0, 0), Point(20, 0.6, 0, 0)]
    other = [Point(2, 0.2, 0, 0), Point(15, 0.8, 0, 0), Point(40, 1.0, 0, 0)]
    found = mean_curve([one, other, []])
    assert [(p.x, p.low, p.high) for p in found] == [
        (2, 0.0, 0.2),
        (10, 0.2, 0.4),
        (15, 0.4, 0.8),
        (20, 0.6, 0.8),
        (40, 0.6, 1.0),
    ]
    assert [p.y for p in found] == pytest.approx([0.1, 0.3, 0.6, 0.7, 0.8])
    assert mean_curve([one, [Point(21, 0.1, 0, 0)]]) == [], "one began after the other's end"
    assert mean_curve([one]) == one and mean_curve([]) == []


def test_rows_without_the_metric_or_the_cost_are_passed_over(make: Make) -> None:
    path = make("a")
    rows: list[dict[str, Any]] = [
        {"step": 0},
        {"completions": 5, "eval/accuracy_greedy": 0.3},
        {"completions": "many", "eval/accuracy_greedy": 0.9},
        {"completions": 6, "eval/accuracy_greedy": math.nan},
        {"completions": 7},
        {"completions": 10**400, "eval/accuracy_greedy": 0.9},
    ]
    (path / "metrics.jsonl").write_text(jsonl(rows))
    [run], _ = read_runs([path])
    assert validations(run, "accuracy_greedy", "completions") == [Point(5, 0.3, 0.3, 0.3)]


# Targets


def test_the_target_is_counted_at_the_first_validation_that_reaches_it(make: Make) -> None:
    runs, _ = read_runs([make("a", values=(0.1, 0.6, 0.5, 0.9)), make("b", seed=1, values=(0.1, 0.2, 0.3))])
    found = reach(runs, "accuracy_greedy", 0.6)
    assert found is not None
    assert (found.completions, found.seconds) == ([100.0, None], [2.0, None])
    assert (found.count, found.spent_completions, found.spent_seconds) == (1, [200.0], [4.0])


def test_a_seed_that_never_reaches_the_target_is_counted_and_not_averaged_away(make: Make) -> None:
    paths = [make("a", seed=0), make("b", seed=1), make("c", seed=2, values=(0.1, 0.2, 0.3))]
    [row] = build(paths, target=0.75).reached.rows  # type: ignore[union-attr]
    assert [cell.text for cell in row] == ["2 of 3", "200 · 200", "4.0 s · 4.0 s"]
    assert row[1].detail == "(1 seed not within 200)"
    [row] = build(paths, target=0.99).reached.rows  # type: ignore[union-attr]
    assert [cell.text for cell in row] == ["0 of 3", "not reached", "not reached"]


def test_the_default_target_is_95_percent_of_the_best_mean_and_can_be_reached_below_zero() -> None:
    assert default_target([[0.4, 0.6], [0.7, 0.9], []]) == pytest.approx(0.95 * 0.8)
    assert default_target([[-3.0], [-2.0]]) == pytest.approx(-2.1)
    assert default_target([[], []]) is None


def test_a_method_that_generates_nothing_reaches_targets_at_no_completions_and_has_a_level(
    make: Make,
) -> None:
    found = build([make("sft", "sft", completions=(0, 0, 0)), make("evolution")], target=0.5)
    assert [cell.text for cell in found.reached.rows[0]] == ["1 of 1", "0", "2.0 s"]  # type: ignore[union-attr]
    assert page(found).count('class="level"') == 2  # against completions and tokens, not seconds


# Entries and labels


def test_runs_that_differ_in_the_seed_alone_are_one_entry(make: Make) -> None:
    paths = [
        make("a", seed=10),
        make("b", seed=9),
        make("c", seed=9, config={"sampling": {"max_new_tokens": 9}}),
    ]
    found = build(paths)
    assert [entry.seeds for entry in found.entries] == [[9, 10], [9]]


def test_the_same_directory_or_the_same_run_twice_counts_once(make: Make) -> None:
    path = make("a")
    copy = path.with_name("copy")
    shutil.copytree(path, copy)
    found = build([path, path, f"{path}/", copy])
    assert [len(entry.runs) for entry in found.entries] == [1]
    assert [(left.path, left.reason) for left in found.left_out] == [
        (str(copy), f"it repeats {path}: the same configuration and seed")
    ]


def test_labels_are_methods_and_the_fewest_settings_that_tell_namesakes_apart(make: Make) -> None:
    trainings = [{"training": {"learning_rate": rate, "epochs": 2}} for rate in (0.001, 1e-5)]
    found = build(
        [
            make("a", config={"fitness": {"name": "reward"}, "strategy": {"name": "cma_es"}}),
            make(
                "b", config={"fitness": {"name": "likelihood", "clip": 0.2}, "strategy": {"name": "cma_es"}}
            ),
            make("c", "grpo", config=trainings[0]),
            make("d", "grpo", config=trainings[1]),
            make("e", "sft"),
        ]
    )
    assert labels(found) == [
        "evolution (reward)",
        "evolution (likelihood)",
        "grpo lr=0.001",
        "grpo lr=1e-05",
        "sft",
    ]


def test_no_two_entries_share_a_label(make: Make) -> None:
    paths = ["x/same", "y/same"]
    found = build([make(f"run{i}", config={"adapter": {"path": path}}) for i, path in enumerate(paths)])
    assert labels(found) == ["evolution path=same", "evolution path=same #2"]


def test_a_label_makes_one_entry_of_what_it_names_and_differing_settings_are_told(make: Make) -> None:
    first = make("a", config={"adapter": {"path": "warm-0"}})
    make("b", seed=1, config={"adapter": {"path": "warm-1"}})
    pattern = f"{first.parent}/[ab]"
    for runs in ([f"Ours={pattern}"], {"Ours": pattern}, {"Ours": [first, first.with_name("b")]}):
        found = build(runs)
        assert labels(found) == ["Ours"] and found.entries[0].seeds == [0, 1]
        assert "The runs of Ours differ in more than the seed: adapter.path." in told(found)


def test_a_folder_of_runs_stands_for_them_and_a_path_with_an_equals_sign_is_a_path(make: Make) -> None:
    path = make("sweep/lr=0.1")
    make("sweep/lr=0.2", seed=1)
    assert len(build([path.parent]).entries[0].runs) == 2
    assert labels(build([path])) == ["evolution"]
    [left] = read_runs([f"{path.parent}/lr=0.9"])[1]
    assert left.path == f"{path.parent}/lr=0.9" and "no such folder" in left.reason


def test_the_range_over_seeds_is_shown_in_one_unit_where_it_is_one(make: Make) -> None:
    seconds = ({"seconds": 12, "peak_memory_bytes": 2**29}, {"seconds": 30, "peak_memory_bytes": 2**31})
    found = build([make(str(i), seed=i, result=result) for i, result in enumerate(seconds)])
    assert [cell.detail for cell in found.costs.rows[0][-2:]] == ["(12 to 30 s)", "(512 MiB to 2.0 GiB)"]


# Fairness


@pytest.mark.parametrize(
    ("changes", "sentence", "unmarked"),
    [
        ({"result": {"task": "gsm8k"}}, "The task differs: arithmetic (a); gsm8k (b).", "results"),
        ({"result": {"split": "validation"}}, "The split differs: test (a); validation (b).", "results"),
        ({"result": {"num_examples": 7}}, "The number of test prompts differs: 100 (a); 7 (b).", "results"),
        ({"config": {"task": {"name": "arithmetic", "reward": "f1"}}}, "task.reward differs: ", "results"),
        ({"config": {"sampling": {"max_new_tokens": 99}}}, "max_new_tokens differs: 8 (a); 99", "results"),
        ({"facts": {"fingerprints": {"model": "M", "data": "d"}}}, "The base model's weights", "results"),
        ({"facts": {"fingerprints": {"model": "m", "data": "D"}}, "kept": samples("x", "xyz")},
         "The rows of the task differ between a | b.", "results"),
        ({"facts": {"processor": "Another"}}, "The hardware differs: A processor, 2 cores (a)", "costs"),
        ({"facts": {"versions": {"torch": "3.0"}}}, "Versions differ: torch 2.13.0 (a), 3.0 (b).", "nothing"),
        ({}, "", "nothing"),
    ],
)  # fmt: skip
def test_what_makes_runs_incomparable_is_told_and_nothing_is_marked_as_best(
    make: Make, changes: dict[str, Any], sentence: str, unmarked: str
) -> None:
    paths = [make(f"a{i}", seed=i, values=(0.2, 0.8 + i / 100)) for i in range(3)]
    other = {"values": (0.2, 0.4), "completions": (0.0, 500.0)} | changes
    paths = [f"a={path}" for path in paths]  # type: ignore[misc]
    paths += [f"b={make(f'b{i}', 'grpo', seed=i, **other)}" for i in range(3)]  # type: ignore[misc]
    found = build(paths)
    assert sentence in told(found)
    assert found.results.rows[0][1].best == (unmarked != "results")
    assert found.costs.rows[0][2].best == (unmarked != "costs")
    if not sentence:
        assert told(found) == ""


def test_the_best_is_marked_only_where_intervals_do_not_touch(make: Make) -> None:
    def marked(*finals: tuple[float, ...]) -> list[bool]:
        shutil.rmtree(make("x").parent / "x")
        paths = [
            f"{i}={make(f'{finals}/{i}/{seed}', seed=seed, values=(0.2, y))}"
            for i, entry in enumerate(finals)
            for seed, y in enumerate(entry)
        ]
        return [row[1].best for row in build(paths).results.rows]

    assert marked((0.80, 0.81, 0.82), (0.60, 0.61, 0.62)) == [True, False]
    assert marked((0.80, 0.81, 0.82), (0.70, 0.79, 0.88)) == [False, False]
    assert marked((0.80, 0.90), (0.60, 0.61)) == [False, False]
    assert marked((0.80,), (0.60,)) == [True, False]
    assert marked((0.80,), (0.75,)) == [False, False]
    assert marked((0.80, 0.81, 0.82)) == [False]


def test_other_training_rows_with_the_same_test_prompts_are_told_and_do_not_forbid_a_comparison(
    make: Make,
) -> None:
    found = build([make("a"), make("b", "sft", facts={"fingerprints": {"model": "m", "data": "D"}})])
    assert "the 3 test prompts that all runs kept are the same" in told(found)
    assert {notice.spoils for notice in found.notices} == {"nothing"}


def test_entries_that_start_from_different_points_are_told(make: Make) -> None:
    assert "do not start from the same point: accuracy_greedy 0.200 (evolution) to 0.600 (grpo)" in told(
        build([make("a"), make("b", "grpo", values=(0.6, 0.9))])
    )
    assert "start" not in told(build([make("c"), make("d", "grpo", values=(0.22, 0.9))]))


def test_grouping_keeps_the_order_of_the_arguments(make: Make) -> None:
    paths = [make("z", "sft"), make("a"), make("m", "sft", seed=1)]
    entries, left_out = group(read_runs(paths)[0])
    assert [entry.label for entry in entries] == ["sft", "evolution"] and left_out == []
