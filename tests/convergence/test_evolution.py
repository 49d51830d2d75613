"""The loop on the fake engine: it learns, stops, remembers its best, warns, and counts as it says."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from configs import evolution

from evolign.config import EvolutionConfig
from evolign.config.recipe import dump
from evolign.engines.fake import FakeEngine
from evolign.errors import EngineError, RewardError
from evolign.evolution.fitness import build_fitness
from evolign.evolution.loop import Outcome, evolve
from evolign.evolution.prompts import change_rate, draw_prompts, mean_score, with_mean_row
from evolign.evolution.search import Search
from evolign.evolution.step_size import TOLERANCE, bisect, calibrate, candidates_at
from evolign.metrics import bootstrap, interval, wilson
from evolign.rewards.scores import Scores
from evolign.rewards.scoring import Scoring
from evolign.runs.directory import RunDir
from evolign.runs.progress import Silent
from evolign.seeding import stream
from evolign.strategies import STRATEGIES
from evolign.types import Example, Population, Rollouts, Sampling

OPTIMUM = np.array([1.0, -2.0, 0.5, 1.5])
TIMES = ("seconds", "peak_memory")
"""How the names of metrics begin that differ between two equal runs."""


@dataclass(frozen=True)
class Line:
    """What evolution needs to know of a search space that is searched as a whole."""

    dim: int
    subspace_dim: int | None = None

    def lift(self, mean_D: np.ndarray, subspace: int | None, step_D: np.ndarray) -> np.ndarray:
        return step_D


def line(dim: int) -> Any:
    return Line(dim)


def examples(split: str, count: int) -> list[Example]:
    return [Example(f"{split}-{i}", f"{split} {i}", columns={"number": i}) for i in range(count)]


@dataclass
class Prompts:
    """A task: numbered prompts, whose reward is the number that the completion says."""

    train: list[Example] = field(default_factory=lambda: examples("train", 12))
    validation: list[Example] = field(default_factory=lambda: examples("validation", 5))
    test: list[Example] = field(default_factory=list)
    warmup: list[Example] = field(default_factory=list)
    metric: str = "reward"
    reward: str = "the number in the completion"


class NumberScorer(Scoring):
    """The scorer's interface without a process: the completion is a number, or "None"."""

    def score(self, examples: Sequence[Example], texts: Sequence[str], token_ids: object = None) -> Scores:
        values = np.array([np.nan if text == "None" else float(text) for text in texts])
        return Scores(values)


def quadratic(theta_D: np.ndarray, example: Example) -> str:
    return repr(-float(((theta_D - OPTIMUM) ** 2).sum()))


def settings(**sections: Any) -> EvolutionConfig:
    """A small, fast configuration; each section is merged over it."""
    tree: dict[str, Any] = {
        "strategy": {"name": "cma_es", "population": 8, "sigma": 0.5},
        "evolution": {"generations": 6, "prompts_per_generation": 4},
        "evaluation": {"every": 2, "decoding": ["greedy"]},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section} if isinstance(section, dict) else section
    return evolution(tree)


@dataclass
class Finished:
    """What a run left behind."""

    outcome: Outcome
    rows: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    said: list[str]

    @property
    def searched(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if "fitness_mean" in row]

    @property
    def judged(self) -> list[int]:
        return [row["generation"] for row in self.rows if any(name.startswith("eval/") for name in row)]


Respond = Callable[[np.ndarray, Example], str]


@pytest.fixture
def go(tmp_path: Path) -> Callable[..., Finished]:
    """`go(config, respond)` evolves in a new run directory; `into` names one to go on with."""
    numbers = iter(range(100))

    def go(
        config: EvolutionConfig,
        respond: Respond | Any = quadratic,
        task: Prompts | None = None,
        dim: int = len(OPTIMUM),
        into: Path | None = None,
    ) -> Finished:
        path = into or tmp_path / str(next(numbers))
        engine = FakeEngine(respond, dim=dim) if callable(respond) else respond
        task, progress = task or Prompts(), Silent()
        scorer: Any = NumberScorer()
        engine.add_prompts([*task.train, *task.validation])
        with RunDir.open(path) if path.exists() else RunDir.create(path, dump(config)) as run:
            fitness = build_fitness(config, task, engine, scorer)
            search = Search(config, run, task, engine, scorer, line(dim), progress)
            outcome = evolve(fitness, search)
            return Finished(
                outcome, run.read_rows("metrics.jsonl"), run.read_rows("samples.jsonl"), progress.said
            )

    return go


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_improves_a_quadratic_through_the_loop(go: Callable[..., Finished], name: str) -> None:
    options = {"learning_rate": 0.3} if name == "openai_es" else {}
    config = settings(
        strategy={"name": name, "population": 16, "sigma": 0.5, **options},
        evolution={"generations": 40},
        evaluation={"every": 5},
    )
    outcome = go(config).outcome
    before, after = (OPTIMUM**2).sum(), ((outcome.theta_D - OPTIMUM) ** 2).sum()
    # CMA-ES and SNES converge; NES keeps its noise; random search does not descend, it only picks.
    assert after < before * {"cma_es": 0.01, "snes": 0.01, "openai_es": 0.1, "random_search": 0.5}[name]
    assert outcome.state.best["reward_greedy"] == pytest.approx(-after, rel=1e-12)


@pytest.mark.parametrize(
    ("limits", "generations", "stopped"),
    [
        ({"generations": 3}, 3, "generations = 3"),
        # a generation is 9 candidates (with the mean) of 4 prompts
        ({"max_completions": 100}, 3, "max_completions = 100"),
        ({"max_completions": 72}, 2, "max_completions = 72"),
        ({"max_completions": 1}, 1, "max_completions = 1"),
        ({"target": -1e9}, 0, "target = -1000000000.0"),
    ],
)
def test_a_run_stops_at_its_limit_and_judges_the_last_mean(
    go: Callable[..., Finished], limits: dict[str, Any], generations: int, stopped: str
) -> None:
    run = go(settings(evolution=limits, evaluation={"every": 50}))
    assert run.outcome.stopped == stopped
    assert [row["generation"] for row in run.rows] == list(range(generations + 1))
    assert run.judged == sorted({0, generations})
    assert run.outcome.state.completions == 36 * generations


def test_a_target_stops_at_the_first_validation_that_reaches_it(go: Callable[..., Finished]) -> None:
    config = settings(evolution={"generations": 200, "target": -0.5}, evaluation={"every": 1})
    run = go(config)
    reached = [row["eval/reward_greedy"] >= -0.5 for row in run.rows]
    assert run.outcome.stopped == "target = -0.5"
    assert reached[-1] and not any(reached[:-1]) and len(reached) < 100


def test_time_runs_out_after_a_generation_whose_mean_is_still_judged(go: Callable[..., Finished]) -> None:
    class Slow(FakeEngine):
        def generate(self, *args: Any) -> Rollouts:
            time.sleep(0.03)
            return super().generate(*args)

    limits = {"generations": 1000, "max_minutes": 0.2 / 60}
    run = go(settings(evolution=limits, evaluation={"every": 1000}), Slow(quadratic, dim=4))
    assert run.outcome.stopped.startswith("max_minutes")
    last = run.rows[-1]["generation"]
    assert 1 <= last <= 7, "each generation takes at least 0.03 of 0.2 seconds"
    assert run.judged == [0, last]
    assert run.rows[-1]["seconds"] >= 0.2 > run.rows[-2]["seconds"]


def test_a_run_goes_on_to_the_first_of_several_limits(go: Callable[..., Finished]) -> None:
    run = go(settings(evolution={"generations": 4, "max_completions": 10_000, "target": 1.0}))
    assert run.outcome.stopped == "generations = 4"


def test_the_best_mean_is_kept_when_later_ones_are_worse(go: Callable[..., Finished]) -> None:
    """Training prompts reward going on for ever; validation prompts are best answered at theta = 1."""

    def respond(theta_D: np.ndarray, example: Example) -> str:
        return repr(float(theta_D[0]) if "train" in str(example.prompt) else -abs(float(theta_D[0]) - 1.0))

    config = settings(
        strategy={"name": "snes", "sigma": 0.2}, evolution={"generations": 40}, evaluation={"every": 1}
    )
    run = go(config, respond, dim=2)
    judged = [row["eval/reward_greedy"] for row in run.rows]
    best = int(np.argmax(judged))
    assert 0 < best < 30 and judged[-1] < -1.0, "the construction must lead past the best"
    assert run.outcome.state.best_generation == best
    assert abs(run.outcome.theta_D[0] - 1.0) == -judged[best] < 0.3


def test_without_any_improvement_the_starting_point_is_kept(go: Callable[..., Finished]) -> None:
    run = go(settings(), lambda theta_D, example: repr(-float((theta_D**2).sum())))
    assert run.outcome.theta_D.tolist() == [0.0] * 4 and run.outcome.state.best_generation == 0


def test_ties_in_the_selecting_metric_are_decided_by_the_other_decoding(go: Callable[..., Finished]) -> None:
    class ByDecoding(FakeEngine):
        """Greedy completions are all worth 1; sampled ones follow the quadratic."""

        def generate(
            self, population: Population, prompts_NP: Sequence[Sequence[str]], sampling: Sampling
        ) -> Rollouts:
            self._respond = quadratic if sampling.temperature else lambda theta_D, example: "1.0"
            return super().generate(population, prompts_NP, sampling)

    run = go(
        settings(evaluation={"decoding": ["greedy", "sampled"], "every": 1}), ByDecoding(quadratic, dim=4)
    )
    sampled = [row["eval/reward_sampled"] for row in run.rows]
    assert run.outcome.state.best_generation == int(np.argmax(sampled)) > 0


class Recorder(FakeEngine):
    """Remembers the prompts and the sampling of every call."""

    def __init__(self) -> None:
        super().__init__(quadratic, dim=4)
        self.calls: list[tuple[list[list[str]], Sampling]] = []

    def generate(
        self, population: Population, prompts_NP: Sequence[Sequence[str]], sampling: Sampling
    ) -> Rollouts:
        self.calls.append(([list(row) for row in prompts_NP], sampling))
        return super().generate(population, prompts_NP, sampling)

    @property
    def generations(self) -> list[tuple[list[list[str]], Sampling]]:
        return [(ids, sampling) for ids, sampling in self.calls if ids[0][0].startswith("train")]


def test_shared_prompts_are_those_of_all_candidates_and_change_every_generation(
    go: Callable[..., Finished],
) -> None:
    engine = Recorder()
    go(settings(), engine)
    batches = []
    for ids, _ in engine.generations:
        assert len(ids) == 9 and all(row == ids[0] for row in ids), "8 candidates and the mean"
        assert len(set(ids[0])) == 4, "drawn without replacement"
        batches.append(tuple(ids[0]))
    assert len(batches) == 6 and len(set(batches)) == 6  # 12*11*10*9 batches: two alike have p < 0.2 %
    seeds = {sampling.noise_seed for _, sampling in engine.generations}
    assert len(seeds) == 6, "every generation has its own sampling noise"


def test_per_candidate_prompts_are_each_candidates_own(go: Callable[..., Finished]) -> None:
    engine = Recorder()
    go(settings(evolution={"prompt_sharing": "per_candidate"}), engine)
    for ids, _ in engine.generations:
        *candidates, mean = ids
        assert len(candidates) == 8 and all(len(set(row)) == 4 for row in candidates)
        assert len(set(map(tuple, candidates))) == 8  # 11,880 ordered batches: two alike have p < 0.3 %
        assert mean == [candidates[p][p] for p in range(4)]
    first, second = (ids[:-1] for ids, _ in engine.generations[:2])
    assert all(before != after for before, after in zip(first, second, strict=True))


def test_drawing_all_prompts_is_a_permutation_of_them() -> None:
    config = settings(evolution={"prompts_per_generation": 12}, strategy={"population": 3})
    task = Prompts()
    drawn = draw_prompts(config, task, 1)
    assert sorted(example.id for example in drawn[0]) == sorted(example.id for example in task.train)
    assert [example.id for example in drawn[0]] != [example.id for example in task.train]


def test_the_change_rate_compares_only_prompts_that_the_mean_has_met() -> None:
    texts_NPS = np.array([["a", "b", "c"], ["x", "y", "z"], ["a", "y", "q"]], dtype=object)[:, :, None]
    assert change_rate(texts_NPS) == 4 / 6
    # The mean's prompts are candidate 0's first, candidate 1's second and candidate 0's third.
    a, b, c, d, e, f = examples("train", 6)
    assert with_mean_row([[a, b, c], [d, e, f]])[-1] == [a, e, c]
    assert change_rate(texts_NPS, shared=False) == 1 / 3


@pytest.mark.parametrize(
    ("sign", "words"),
    [
        (-1, "too hard for the model, sampling.max_new_tokens too small, or the reward may not read"),
        (1, "may be solved already, or strategy.sigma too small to change any completion"),
    ],
)
def test_flat_fitness_is_told_once_with_its_likely_cause(
    go: Callable[..., Finished], sign: int, words: str
) -> None:
    """Prompts differ, candidates do not."""

    def warnings(generations: int) -> list[str]:
        config = settings(evolution={"generations": generations})
        run = go(config, lambda theta_D, example: str(sign * (1 + example.columns["number"])))
        assert run.outcome.state.flat == generations and run.outcome.theta_D.tolist() == [0.0] * 4
        return [line for line in run.said if "same fitness" in line]

    assert warnings(4) == []
    [told] = warnings(12)
    assert words in told and "for 5 generations" in told


@pytest.mark.parametrize(
    ("reward", "words"), [("0.0", "too hard for the model"), ("1.0", "may be solved already")]
)
def test_rewards_that_are_all_equal_are_told_after_the_first_batches(
    go: Callable[..., Finished], reward: str, words: str
) -> None:
    """The batches are the validation of the start (5 prompts) and two generations (9 policies, 4 prompts)."""
    run = go(settings(evolution={"generations": 9}), lambda theta_D, example: reward)
    [told] = [line for line in run.said if line.startswith("Warning")]
    assert words in told and f"all 77 rewards so far are equal ({float(reward):.3g})" in told
    [summary] = run.outcome.state.costs()["warnings"]
    assert words in summary and f"are equal ({float(reward):.3g})" in summary
    assert go(settings()).outcome.state.costs()["warnings"] == []


def test_prompts_to_which_the_reward_does_not_apply_are_left_out_of_the_mean(
    go: Callable[..., Finished],
) -> None:
    def respond(theta_D: np.ndarray, example: Example) -> str:
        return "None" if example.columns["number"] % 2 else quadratic(theta_D, example)

    config = settings(evolution={"prompts_per_generation": 12})
    run, complete = go(config, respond), go(config, quadratic)
    assert np.array_equal(run.outcome.theta_D, complete.outcome.theta_D)
    for row, other in zip(run.searched, complete.searched, strict=True):
        for name in {"fitness_mean", "fitness_std", "eval/reward_greedy"} & row.keys():
            # the mean over six equal rewards is that over twelve, up to rounding
            assert row[name] == pytest.approx(other[name], rel=1e-12)
    scores = [sample["score"] for sample in run.samples]
    assert None in scores and not any(isinstance(score, float) and np.isnan(score) for score in scores)


def test_fitness_that_differs_by_rounding_is_equal() -> None:
    one, other = [0.1, 0.2, 0.3], [0.3, 0.2, 0.1]
    assert sum(one) / 3 != sum(other) / 3, "otherwise there is nothing to test"
    assert np.ptp(mean_score(np.array([one, other])[:, :, None])) == 0


def test_a_reward_that_applies_to_nothing_is_an_error(go: Callable[..., Finished]) -> None:
    def on_validation_only(theta_D: np.ndarray, example: Example) -> str:
        return "None" if "train" in str(example.prompt) else "1.0"

    def for_one_candidate_never(theta_D: np.ndarray, example: Example) -> str:
        return "None" if "train" in str(example.prompt) and theta_D[0] > 0.3 else "1.0"

    for respond in (on_validation_only, for_one_candidate_never):
        with pytest.raises(RewardError, match=r"returned None .* for every completion of a candidate"):
            go(settings(), respond)
    with pytest.raises(RewardError, match=r"returned None .* for all 5 prompts of an evaluation"):
        go(settings(), lambda theta_D, example: "None")


def test_a_row_of_metrics_holds_what_the_documentation_promises(go: Callable[..., Finished]) -> None:
    config = settings(evaluation={"decoding": ["greedy", "sampled"], "every": 3})
    run = go(config)
    promised = {
        "generation", "fitness_mean", "fitness_max", "fitness_min", "fitness_std", "fitness_of_mean", "sigma",
        "change_rate", "truncated", "completions",
        "generated_tokens", "seconds", "seconds_generate",
        "seconds_score", "seconds_update", "peak_memory_bytes", "reward_timeouts", "reward_crashes",
    }  # fmt: skip
    evaluated = {
        f"eval/{name}_{decoding}{end}"
        for decoding in ("greedy", "sampled")
        for name, ends in (("reward", ("", "_low", "_high")), ("tokens", ("",)), ("truncated", ("",)))
        for end in ends
    }
    assert set(run.rows[0]) == evaluated | {"generation", "completions", "generated_tokens", "seconds"}
    for row in run.searched:
        expected = promised | evaluated if row["generation"] in (3, 6) else promised
        assert set(row) == expected
        assert all(isinstance(value, int | float) for value in row.values())
    for before, row in zip(run.rows, run.searched, strict=False):
        assert row["fitness_min"] <= row["fitness_mean"] <= row["fitness_max"]
        assert row["completions"] - before["completions"] == 9 * 4
        # a repr of a float has at most 24 characters, and the fake engine's tokens are characters
        assert 36 <= row["generated_tokens"] - before["generated_tokens"] <= 36 * 24
        assert row["seconds"] > before["seconds"] and row["peak_memory_bytes"] > 1_000_000
        assert row["change_rate"] == 1.0, "on a quadratic every candidate differs from the mean"


def test_validation_happens_every_so_many_generations_and_keeps_a_few_samples(
    go: Callable[..., Finished],
) -> None:
    run = go(settings(evolution={"generations": 7}, evaluation={"every": 3, "num_samples_kept": 2}))
    assert run.judged == [0, 3, 6, 7]
    assert [(sample["generation"], sample["id"]) for sample in run.samples] == [
        (generation, f"validation-{i}") for generation in (0, 3, 6, 7) for i in (0, 1)
    ]
    keys = {"generation", "split", "id", "decoding", "prompt", "completion", "score"}
    assert all(sample.keys() == keys and sample["split"] == "validation" for sample in run.samples)
    assert all(float(sample["completion"]) == sample["score"] for sample in run.samples)
    assert run.outcome.state.validation_completions == 4 * 5


def trajectory(run: Finished) -> tuple[Any, ...]:
    """All that an uninterrupted and a resumed run must have in common, bit for bit."""
    rows = [{name: row[name] for name in row if not name.startswith(TIMES)} for row in run.rows]
    return rows, run.samples, run.outcome.theta_D.tobytes(), run.outcome.stopped


class Interrupted(FakeEngine):
    """Ctrl-C in the middle of the given call."""

    def __init__(self, respond: Respond, at_call: int) -> None:
        super().__init__(respond, dim=4)
        self.calls, self.at_call = 0, at_call

    def generate(self, *args: Any) -> Rollouts:
        self.calls += 1
        if self.calls == self.at_call:
            raise KeyboardInterrupt
        return super().generate(*args)


@pytest.mark.parametrize("sigma", [0.5, "auto"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_run_that_is_interrupted_at_every_call_ends_where_an_uninterrupted_one_ends(
    go: Callable[..., Finished], tmp_path: Path, name: str, sigma: float | str
) -> None:
    def respond(theta_D: np.ndarray, example: Example) -> str:  # coarse, so that calibration finds a rate
        return str(round(-float(((theta_D - OPTIMUM / 10) ** 2).sum()), 1))

    config = settings(strategy={"name": name, "sigma": sigma})
    engine = Interrupted(respond, at_call=0)
    expected = trajectory(go(config, engine))
    assert engine.calls >= 10, "a validation at the start, six generations, three more validations"
    for call in range(1, engine.calls + 1):
        path = tmp_path / f"interrupted in call {call}"
        with pytest.raises(KeyboardInterrupt):
            go(config, Interrupted(respond, at_call=call), into=path)
        assert trajectory(go(config, respond, into=path)) == expected, path.name
    assert trajectory(go(config, respond, into=path)) == expected, "a finished search stays as it is"


def by_size(theta_D: np.ndarray, example: Example, scale: float) -> str:
    """Changes once |theta| passes a threshold, which the prompts spread over two orders of magnitude."""
    threshold = scale * 10 ** (2.0 * example.columns["number"] / 32)
    return str(np.linalg.norm(theta_D) > threshold)


@pytest.mark.parametrize("wanted", [0.1, 0.25, 0.6])
@pytest.mark.parametrize("scale", [1e-5, 1e-2, 1.0, 1e4])
def test_calibration_finds_the_step_size_that_changes_the_wanted_share(scale: float, wanted: float) -> None:
    config = settings(calibration={"change_rate": wanted})
    engine = FakeEngine(lambda theta_D, example: by_size(theta_D, example, scale), dim=50)
    prompts = examples("train", 32)
    engine.add_prompts(prompts)
    calibration = calibrate(engine, candidates_at(line(50), config), prompts, Sampling(8), config, Silent())
    found, cost = calibration.found, calibration.cost
    assert abs(found.value - wanted) <= TOLERANCE * wanted
    assert cost.completions == calibration.rows == found.measurements * 9 * 32
    assert cost.tokens > cost.completions
    fresh_ND = found.sigma * stream(1, "fresh directions").standard_normal((200, 50))
    names = [[example.id for example in prompts]] * 201
    texts = engine.generate(Population(fresh_ND, with_mean=True), names, Sampling(8)).text_NPS
    # |theta| of 50 normal numbers spreads by 10 %, a share of 1.4 prompts in 32: 0.05 is more than that.
    assert abs(change_rate(texts) - wanted) <= TOLERANCE * wanted + 0.05


def test_calibration_takes_the_nearest_where_no_step_size_hits_the_wanted_share() -> None:
    """With two completions the share is 0, 1/2 or 1."""
    config = settings(calibration={"change_rate": 0.3, "prompts": 2, "candidates": 1})
    engine = FakeEngine(lambda theta_D, example: by_size(theta_D, example, 1.0), dim=3)
    prompts = [Example("a", "a", columns={"number": 0}), Example("b", "b", columns={"number": 32})]
    engine.add_prompts(prompts)
    how = Sampling(8), config, Silent()
    found = calibrate(engine, candidates_at(line(3), config), prompts, *how).found
    assert found.value == 0.5
    direction_ND = stream(config.seed, "calibration").standard_normal((1, 3))
    population = Population(found.sigma * direction_ND, with_mean=True)
    rollouts = engine.generate(population, [["a", "b"]] * 2, Sampling(8))
    assert change_rate(rollouts.text_NPS) == 0.5, "the share that is reported is that of the sigma reported"


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
@pytest.mark.parametrize("slowing", [0.0, 0.5, 1.0])
def test_a_divergence_takes_three_measurements_that_bisection_takes_more_for(
    scale: float, slowing: float
) -> None:
    """Of what is quadratic near 0, and grows more slowly or not at all far from there."""

    def measure(sigma: float) -> float:
        square = (sigma / scale) ** 2
        return float(square / (1 + square) ** slowing)

    found = bisect(measure, 0.005, str, power=2)
    assert abs(found.value - 0.005) <= TOLERANCE * 0.005 and found.value == measure(found.sigma)
    assert found.measurements <= 3 < bisect(measure, 0.005, str).measurements


def steep(sigma: float) -> float:
    """Rounding keeps it above a floor, below which it cannot be seen to be quadratic."""
    return 0.004 + min(1e4 * sigma**6, 1.0)


def jump(sigma: float) -> float:
    return 0.006 if sigma > 3e-4 else 1e-9


@pytest.mark.parametrize(("measure", "nearest"), [(steep, 0.005), (jump, 0.006)])
def test_where_a_power_law_misleads_bisection_takes_over(
    measure: Callable[[float], float], nearest: float
) -> None:
    assert bisect(measure, 0.005, str, power=2).value == pytest.approx(nearest, rel=TOLERANCE)


@pytest.mark.parametrize("measure", [lambda sigma: 2.0, lambda sigma: math.nan, lambda sigma: 0.0])
@pytest.mark.parametrize("power", [None, 2.0])
def test_a_measure_that_no_step_size_brings_near_is_an_error(
    measure: Callable[[float], float], power: float | None
) -> None:
    with pytest.raises(EngineError, match=r"no step size was found that is 0\.25 .* set strategy\.sigma"):
        bisect(measure, 0.25, lambda value: f"is {value:.2g}", power=power)
    assert bisect(lambda sigma: sigma, 0.25, str).sigma == pytest.approx(0.25, rel=0.15)


@pytest.mark.parametrize(
    ("respond", "share"),
    [(lambda theta_D, example: "same", "0%"), (lambda theta_D, example: str(theta_D.any()), "100%")],
    ids=["nothing ever changes", "everything always changes"],
)
def test_calibration_that_cannot_succeed_says_what_to_do(respond: Respond, share: str) -> None:
    with pytest.raises(
        EngineError,
        match=rf"no step size was found .* 25% .*changes {share} of completions\); set strategy.s",
    ):
        engine = FakeEngine(respond, dim=4)
        engine.add_prompts(examples("t", 8))
        how = Sampling(8), settings(), Silent()
        calibrate(engine, candidates_at(line(4), settings()), examples("t", 8), *how)


def test_what_calibration_costs_is_counted(go: Callable[..., Finished]) -> None:
    def respond(theta_D: np.ndarray, example: Example) -> str:
        return str(round(float(theta_D.sum()), 1))

    run = go(settings(strategy={"sigma": "auto"}), respond)
    spent = run.rows[0]["completions"]
    calibration = run.outcome.state.calibration
    assert calibration is not None and calibration["completions"] == calibration["rows"] == spent
    assert calibration["measurements"] * 9 * 12 == spent
    assert spent > 0 and spent % (9 * 12) == 0, "8 candidates and the mean on the 12 prompts that there are"
    assert run.outcome.state.completions == spent + 6 * 36
    assert any(
        line.startswith(f"sigma = {run.outcome.state.initial_sigma:.3g} (calibrated") for line in run.said
    )


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, table I, method 3 (score, no continuity correction)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_has_the_published_values(
    successes: int, trials: int, low: float, high: float
) -> None:
    score_P = np.repeat([1.0, 0.0], [successes, trials - successes])
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)  # four printed digits
    assert interval(score_P, "accuracy") == wilson(successes, trials)
    assert interval(np.append(score_P, np.nan), "accuracy") == wilson(successes, trials)
    mirrored = wilson(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_the_bootstrap_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    """500 samples of 40 exponential numbers with mean 1. The percentile bootstrap of so few and so skewed
    numbers is known to cover about 92 %; four standard errors of 500 trials are 4.9 points."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(500):
        low, high = bootstrap(rng.exponential(size=40), seed=int(rng.integers(1 << 30)))
        hits += low <= 1.0 <= high
    assert 0.92 - 0.049 <= hits / 500 <= 0.95 + 0.039


def test_the_bootstrap_depends_on_its_seed_alone_and_takes_any_score() -> None:
    score_P = np.array([-1.0, 0.0, 1.0, 1.0, 2.5])
    assert bootstrap(score_P, 3) == bootstrap(score_P, 3) != bootstrap(score_P, 4)
    assert bootstrap(np.ones(7), 0) == (1.0, 1.0)
    assert interval(score_P, "reward", 3) == bootstrap(score_P, 3)


def test_accuracy_with_a_failure_score_outside_0_and_1_still_has_an_interval() -> None:
    score_P = np.array([-1.0, -1.0, -1.0, 0.0, 1.0])
    low, high = interval(score_P, "accuracy")
    assert low <= score_P.mean() <= high < 1.0
