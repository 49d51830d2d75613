"""`evolign compare`: whatever it is given, the page and the Markdown file are whole and safe."""

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from comparison_runs import make_run, samples

import evolign
from evolign.comparison.figures import COLOURS, curves, forest
from evolign.comparison.page import page
from evolign.comparison.report import Comparison, build
from evolign.errors import ConfigError, RunError
from evolign.runs.progress import Silent

Make = Callable[..., Path]
RECIPE = Path(__file__).parents[2] / "recipes" / "embedded" / "essa.yaml"
HOSTILE = "</p><script>alert('x')</script>&\x00\x1b[31m\ud800 <img src=http://evil.example/a.png>"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """`make("name", seed=1, values=(...), ...)` writes a finished run directory."""
    return partial(make_run, tmp_path)


def labels(comparison: Comparison) -> list[str]:
    return [entry.label for entry in comparison.entries]


# Broken, unfinished and foreign directories


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda run: (run / "result.json").unlink(), "it is not finished (2 generations done)"),
        (lambda run: (run / "config.json").unlink(), "it holds no config.json"),
        (lambda run: (run / "result.json").write_text("{"), "result.json cannot be read"),
        (lambda run: (run / "result.json").write_text("[" * 10**6), "result.json cannot be read"),
        (lambda run: (run / "result.json").write_text("[1]"), "it holds a list, not a JSON object"),
        (lambda run: (run / "result.json").write_text('{"final": {}}'), "no final metrics"),
        (lambda run: (run / "result.json").write_text('{"final": {"accuracy": NaN}}'), "no final metrics"),
        (lambda run: (run / "metrics.jsonl").write_text("{}\nnot json\n{}\n"), "line 2 is not JSON"),
        (lambda run: (run / "metrics.jsonl").write_text("3\n"), "a line that is not a JSON object"),
        (lambda run: (run / "samples.jsonl").write_bytes(b"\xff\xfe\n"), "samples.jsonl': 'utf-8' codec"),
        (lambda run: (run / "provenance.json").write_text(""), "provenance.json cannot be read"),
        (shutil.rmtree, "there is no such folder"),
    ],
)
def test_a_broken_or_unfinished_run_is_left_out_with_the_reason(
    make: Make, tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    make("good")
    damage(make("bad", seed=1))
    found = evolign.compare(
        [tmp_path / "good", tmp_path / "bad"], tmp_path / "out.html", markdown=tmp_path / "out.md"
    )
    assert labels(found) == ["evolution"] and len(found.left_out) == 1
    assert reason in found.left_out[0].reason
    assert (
        "Left out" in (tmp_path / "out.html").read_text() and "Left out" in (tmp_path / "out.md").read_text()
    )


def test_a_run_with_the_bare_minimum_is_compared(make: Make, tmp_path: Path) -> None:
    path = make("a")
    for name in ("metrics.jsonl", "samples.jsonl", "provenance.json"):
        (path / name).unlink()
    (path / "config.json").write_text("{}")
    (path / "result.json").write_text(
        '{"final": {"reward": 1.5, "reward_low": 1, "reward_high": 2}, "baseline": 3}'
    )
    found = evolign.compare([path], tmp_path / "out.html", markdown=tmp_path / "out.md")
    assert labels(found) == ["unknown"] and found.metric == "reward"
    assert (found.target, found.reached) == (None, None)


def test_a_reward_model_without_decodings_stands_beside_the_others(make: Make) -> None:
    final = {"accuracy": 0.7, "accuracy_low": 0.6, "accuracy_high": 0.8}
    result = {"final": final, "baseline": final}
    found = build([make("a"), make("b", seed=1), make("r", "reward_model", result=result)])
    assert found.metric == "accuracy_greedy"
    assert [cell.text for cell in found.results.rows[1]] == ["1", "–", "–", "0.700", "0.700"]
    long = {"sampling": {"max_new_tokens": 999}}
    beside = build([make("t"), make("u", "reward_model", result=result, config=long)])
    assert not any("max_new_tokens" in notice.text for notice in beside.notices)
    assert build([make("s", "reward_model", result=result)]).metric == "accuracy"


def test_nothing_to_compare_an_unknown_metric_and_a_bad_out_are_errors_that_say_what_to_do(
    make: Make, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"no finished run to compare(.|\n)*nowhere: there is no such folder"):
        build([tmp_path / "nowhere"])
    path = make("a")
    with pytest.raises(ConfigError, match=r"'bleu': no run holds it; known: accuracy_greedy$"):
        build([path], metric="bleu")
    with pytest.raises(ConfigError, match="--target nan: must be a finite number"):
        build([path], target=math.nan)
    for out in (path / "config.json", tmp_path / "missing" / "out.html"):
        with pytest.raises(RunError, match=r"must end in \.html|cannot write the report"):
            evolign.compare([path], out)


def test_comparing_writes_nothing_into_the_runs(make: Make, tmp_path: Path) -> None:
    path = make("a")
    before = {file: file.read_bytes() for file in path.rglob("*")}
    path.chmod(0o555)
    evolign.compare([path], tmp_path / "out.html")
    assert {file: file.read_bytes() for file in path.rglob("*")} == before


# The page and the Markdown file


VOID = {"meta", "br", "line", "path", "circle"}


class Structure(HTMLParser):
    """Checks that tags nest, and collects tags, attributes and visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_safe_and_needs_nothing_from_outside(make: Make, tmp_path: Path) -> None:
    evil = make("<b>evil", "<script>", kept=samples(HOSTILE, prompt=[{"role": HOSTILE, "content": HOSTILE}]))
    make("good", kept=samples("</style><script>"))
    out = tmp_path / "out.html"
    evolign.compare([f"<img src=x onerror=1>={evil}", tmp_path / "good"], out, markdown=tmp_path / "out.md")
    text = out.read_text()
    found = Structure(text)
    kinds = {tag for tag, _ in found.tags}
    assert (
        kinds.isdisjoint({"script", "img", "link", "iframe", "object", "base"}) and {"svg", "table"} <= kinds
    )
    outside = [value for _, attributes in found.tags for name, value in attributes.items()
               if name in ("src", "href", "action", "data") or name.startswith("on")]  # fmt: skip
    assert outside == []
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style and "http" not in style
    assert not any(ord(sign) < 32 and sign not in "\n\t" for sign in text)
    assert HOSTILE.split("\x00")[0] in found.text and "␀␛[31m? <img" in found.text
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_page_is_the_same_whenever_it_is_made(make: Make) -> None:
    paths = [make("a"), make("b", "sft", completions=(0, 0, 0))]
    assert page(build(paths)) == page(build(paths))


def test_samples_show_every_entry_on_the_same_prompt_and_a_dash_where_one_is_missing(make: Make) -> None:
    found = build([make("a", kept=samples("A", "ab")), make("b", "sft", kept=samples("B", "bc"))])
    text = page(found)
    cards = re.findall(r'<article class="case">(.*?)</article>', text, re.DOTALL)
    assert [re.findall(r"prompt (\w)", card) for card in cards] == [["b"], ["a"], ["c"]]
    assert "final A" in cards[0] and "final B" in cards[0] and "score 1" in cards[0]
    assert '<p class="text">–</p>' in cards[1] and '<p class="text">–</p>' not in cards[0]


def test_a_start_that_all_entries_share_is_shown_once(make: Make) -> None:
    kept = [row | ({"completion": "same"} if row["stage"] == "baseline" else {}) for row in samples("x", "a")]
    text = page(build([make("a", kept=kept), make("b", "sft", kept=kept)]))
    assert text.count(">same<") == 1 and "start of every entry" in text


def test_the_markdown_tables_have_one_cell_per_column_whatever_the_labels(make: Make, tmp_path: Path) -> None:
    out = tmp_path / "out.md"
    evolign.compare({"a|b `c` *d* <e>": make("a"), "two\nlines": make("b", "sft")}, None, markdown=out)
    tables = re.findall(r"(?:^\|.*\|\n)+", out.read_text(), re.MULTILINE)
    assert len(tables) == 3
    for table in tables:
        rows = [re.split(r"(?<!\\)\|", line) for line in table.splitlines()]
        assert len({len(row) for row in rows}) == 1 and len(rows) == 4
        assert set("".join(rows[1])) <= set("-:")
    assert "a\\|b \\`c\\` \\*d\\* &lt;e> | 1 | 0.800 [0.760, 0.840]† | 0.200 |" in tables[0]
    assert "two lines" in tables[0]


def test_figures_of_values_that_never_move_have_axes(make: Make) -> None:
    for value in (0.0, 0.5, 1.0):
        found = page(build([make(f"at {value}", values=(value, value))], target=value))
        assert "nan" not in found and found.count("<svg viewBox") == 4


def test_seeds_whose_costs_do_not_overlap_have_no_mean_and_are_drawn_all_the_same(make: Make) -> None:
    """A slow machine: one seed ends before the other's first validation."""
    runs = [make("early", completions=(1, 2, 3)), make("late", seed=1, completions=(10, 20, 30))]
    comparison = build([str(path) for path in runs])
    assert labels(comparison) == ["evolution"]
    assert "<svg" in page(comparison)


def test_costs_of_very_different_size_have_a_logarithmic_axis_that_begins_at_zero(make: Make) -> None:
    short, long = make("a", completions=(0, 10, 20)), make("b", "grpo", completions=(0, 5000, 20_000))
    charts = curves(build([short, long]).entries, "accuracy_greedy", None)
    assert ["log" in chart.x_label for chart in charts] == [True, True, False]
    assert [tick.text for tick in charts[0].x_ticks] == ["0", "10", "100", "1k", "10k"]
    places = [tick.at for tick in charts[0].x_ticks]
    assert np.ptp(np.diff(places[1:])) <= 0.2 and places == sorted(places)  # rounded to 0.1
    starts = {line.marks[0].x for line in charts[0].lines}
    assert starts == {places[0]} and charts[0].lines[1].marks[-1].x <= charts[0].right
    assert "log" not in page(build([make("c"), make("d", "sft", completions=(0, 0, 0))])).split("</style>")[1]


def test_a_mean_whose_seeds_all_reached_the_target_ends_above_it(make: Make) -> None:
    """A seed that stops at the target is not forgotten while the others go on."""
    quick = make("quick", values=(0.2, 0.5, 0.91), completions=(0, 40, 90))
    slow = make("slow", seed=1, values=(0.2, 0.5, 0.7, 0.93), completions=(0, 40, 90, 200))
    for chart in curves(build([quick, slow]).entries, "accuracy_greedy", 0.9):
        assert chart.target is not None and chart.lines[0].marks[-1].y < chart.target  # downwards


def test_labels_of_the_figures_are_inside_them_and_beside_the_curves(make: Make) -> None:
    """At the size of letters on a phone, 17 in curves and 20 in the forest, at most 0.65 wide."""
    run = make("a", values=(0.9925, 0.995, 0.9975), completions=(0, 125_000, 247_500))
    comparison = build([run], target=0.994)
    entries = comparison.entries
    for chart in curves(entries, "accuracy_greedy", comparison.target):
        for tick in chart.x_ticks:
            half = 17 * 0.65 * len(tick.text) / 2
            assert tick.at - half >= 0 and tick.at + half <= chart.width
        assert all(17 * 0.65 * len(tick.text) <= chart.left - 8 for tick in chart.y_ticks)
    found = forest(entries, "accuracy_greedy")
    assert found is not None
    for tick in found.x_ticks:
        half = 20 * 0.65 * len(tick.text) / 2
        assert tick.at - half >= 0 and tick.at + half <= found.width
    right = curves(entries, "accuracy_greedy", comparison.target)[0].right
    [label] = {*re.findall(r'<text x="(\d+)"[^>]*>target<', page(comparison))}
    assert int(label) > right, "no curve goes there"


def test_the_legend_of_the_curves_has_no_entry_without_one(make: Make) -> None:
    paths = [make("a"), make("b", "grpo"), make("c", "sft")]
    metrics = paths[2] / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("accuracy_greedy", "accuracy_sampled"))
    curves_section = page(build(paths)).split("while the runs went on</h2>")[1].split("</ul>")
    assert [name in curves_section[0] for name in ("evolution", "grpo", "sft")] == [True, True, False]
    assert "Without validations of accuracy_greedy: sft" in curves_section[1]


def test_every_colour_can_be_told_from_its_ground() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    def contrast(one: str, other: str) -> float:  # WCAG 2.2
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    assert all(contrast(light, "#ffffff") >= 4 for light, _ in COLOURS)
    assert all(contrast(dark, "#14171b") >= 4 for _, dark in COLOURS)
    assert len(set(COLOURS)) == len(COLOURS)


def test_more_entries_than_colours_still_differ_by_marker_or_dash(make: Make) -> None:
    found = build([make(str(i), f"method{i:02}") for i in range(12)])
    keys = re.findall(r'<span class="name (e\d)">.*?stroke-dasharray="(.*?)"', page(found))
    assert len(set(keys)) == 12


def test_a_paths_command_is_quoted_for_the_shell(make: Make) -> None:
    found = page(build([make("it's a run")]))
    assert "evolign run" in found and "it&#39;&#34;&#39;&#34;&#39;s a run/config.json" in found


# From end to end


@pytest.fixture(scope="module")
def real_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a very short run of the embedded model."""
    root = tmp_path_factory.mktemp("runs")
    settings = [
        "adapter.warm_start=null", "task.num_train=32", "task.num_validation=8", "task.num_test=8",
        "strategy.population=4", "strategy.sigma=0.3", "evolution.generations=2",
        "evolution.prompts_per_generation=8", "evaluation.every=1",
    ]  # fmt: skip
    for seed in range(2):
        config = evolign.load_config(RECIPE, [*settings, f"seed={seed}"])
        evolign.run(config, root / f"runs/seed{seed}", progress=Silent())
    return root


def evolign_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", "from evolign.cli.app import main; main()", *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, timeout=120)


def test_the_command_compares_real_runs_into_a_page_and_a_markdown_file(real_runs: Path) -> None:
    out, markdown = real_runs / "report.html", real_runs / "report.md"
    process = evolign_command(
        "compare", real_runs / "runs", "--out", out, "--markdown", markdown, "--target", 0.0
    )
    assert process.returncode == 0, process.stderr
    assert "accuracy_sampled" in process.stdout and f"Wrote {out} and {markdown}" in process.stdout
    assert "Two seeds only: evolution." in process.stderr
    found = Structure(out.read_text())
    assert sum(tag == "svg" and "role" in attributes for tag, attributes in found.tags) == 4
    results = [json.loads((real_runs / f"runs/seed{i}/result.json").read_text()) for i in range(2)]
    mean = sum(result["final"]["accuracy_sampled"] for result in results) / 2
    assert f"| evolution | 2 | {mean:.3f}" in markdown.read_text()
    assert "| evolution | 2 of 2 | " in markdown.read_text()
    assert "embedded:arithmetic" in found.text and "Side by side" in found.text


def test_the_command_answers_a_wrong_path_in_one_sentence(tmp_path: Path) -> None:
    process = evolign_command("compare", tmp_path / "nothing")
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert process.stderr.startswith("evolign: there is no finished run to compare")
