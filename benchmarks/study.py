"""The study of docs/results.md: makes its runs, or goes on with them, and rewrites the tables on the page.

    python benchmarks/study.py                       # all of it: `make study`
    python benchmarks/study.py B --seeds 3 4         # one study, further seeds
    python benchmarks/study.py A --seeds 3 4 --entries grpo essa-likelihood
    python benchmarks/study.py --tables              # the tables alone, from the runs that there are

benchmarks/study.yaml says which runs. Two processes of one thread work at a time, each on one run; a finished
run is left as it is, an interrupted one is resumed. Runs land in runs/study/<study>/<entry>/seed<n>.
"""

import argparse
import json
import os
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "results.md"
RUNS = HERE.parent / "runs" / "study"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", nargs="*", help="A to E; default: all")
    parser.add_argument("--seeds", nargs="*", type=int)
    parser.add_argument("--entries", nargs="*", help="default: all of the study")
    parser.add_argument("--tables", action="store_true", help="run nothing")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    spec = yaml.safe_load((HERE / "study.yaml").read_text())
    for name in options.studies or spec["studies"]:
        study = spec["studies"][name]
        seeds = options.seeds if options.seeds is not None else study.get("seeds", spec["seeds"])
        if not options.tables:
            for stage in ("first", "entries"):
                entries = (stage == "entries" and options.entries) or study.get(stage, {})
                jobs = [(name, entry, seed) for seed in seeds for entry in entries]
                with ProcessPoolExecutor(
                    options.workers, get_context("spawn"), max_tasks_per_child=1
                ) as pool:
                    for told in pool.map(make, *zip(*jobs, strict=True)) if jobs else ():
                        print(told, flush=True)
        if "against" in study:
            compare_pairs(name, study, seeds)
        write_tables(name, study)


def make(name: str, entry: str, seed: int) -> str:
    """One run, finished; and what is measured of it beside its own test."""
    import evolign
    from evolign.config.recipe import parse
    from evolign.runs.progress import Silent

    study = yaml.safe_load((HERE / "study.yaml").read_text())["studies"][name]
    out = RUNS / name / entry / f"seed{seed}"
    if (out / "result.json").is_file():
        result = evolign.resume(out)
    elif (out / "config.json").is_file():
        result = evolign.resume(out, progress=Silent())
    else:
        tree = filled(merged(study["base"], (study.get("first", {}) | study["entries"])[entry]), name, seed)
        result = evolign.run(parse(tree, [f"seed={seed}"], source=entry), out, progress=Silent())
    if entry in study["entries"]:
        for label, overrides in study.get("elsewhere", {}).items():
            judged(out, label, filled(overrides, name, seed))
    return f"{name} {entry:28} seed {seed}: {result.summary['final']}"


def merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """`more` on top of `base`, section by section."""
    result = dict(base)
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def filled(tree: Any, name: str, seed: int) -> Any:
    """`tree` with {study} and {seed} in its texts filled in."""
    text = json.dumps(tree).replace("{study}", str(RUNS / name)).replace("{seed}", str(seed))
    return json.loads(text)


def judged(run: Path, label: str, overrides: list[str]) -> None:
    """Judge a run elsewhere, once: <label>.json and <label>.jsonl beside its directory."""
    import evolign

    out = run.with_name(f"{run.name}-{label.replace(' ', '-')}.json")
    if not out.is_file():
        found = evolign.evaluate(str(run), overrides=overrides, out=out.with_suffix(".jsonl"))
        out.write_text(json.dumps(found.metrics))


def compare_pairs(name: str, study: dict[str, Any], seeds: list[int]) -> None:
    """How often every run's completions win against those of the entry `against` of the same seed.

    By the score that they were judged by elsewhere, and by a scripted judge: <label>-wins.json.
    """
    import evolign

    for entry in study["entries"]:
        for seed in seeds:
            for label in study["elsewhere"]:
                file = f"seed{seed}-{label.replace(' ', '-')}.jsonl"
                ours, theirs = RUNS / name / entry / file, RUNS / name / study["against"] / file
                gap = [a - b for a, b in zip(scores(ours), scores(theirs), strict=True)]
                wins = sum((g > 0) + (g == 0) / 2 for g in gap) / len(gap)
                wins_file(ours, label).write_text(json.dumps(wins))
            found = evolign.judge(ours, theirs, by=f"{HERE}/{study['judge']}").summary
            wins_file(ours, "judge").write_text(json.dumps(found["win_rate"]))


def scores(file: Path) -> list[float]:
    """The scores of greedy completions, in the order of the examples."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row["score"] for row in rows if row["decoding"] == "greedy"]


def wins_file(beside: Path, label: str) -> Path:
    seed = beside.name.partition("-")[0]
    return beside.with_name(f"{seed}-{label.replace(' ', '-')}-wins.json")


def write_tables(name: str, study: dict[str, Any]) -> None:
    """Rewrite the part of the page between the study's markers."""
    import evolign

    entries = {entry: sorted((RUNS / name / entry).glob("seed[0-9]*/")) for entry in study["entries"]}
    entries = {entry: [p for p in paths if (p / "result.json").is_file()] for entry, paths in entries.items()}
    text = RUNS / name / "report.md"
    evolign.compare(
        {entry: [str(path) for path in paths] for entry, paths in entries.items() if paths},
        out=RUNS / name / "report.html",
        markdown=text,
        metric=study["metric"],
    )
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    tables = re.search(r"^## Results.*?(?=^## Commands)", text.read_text(), re.DOTALL | re.MULTILINE)
    assert tables is not None, f"{text} has no tables"
    shown = tables[0].strip().replace("\n## ", "\n### ").replace("## Results", "### Results", 1)
    table = "\n".join([begin, "", shown, *elsewhere(study, entries), "", end])
    page = PAGE.read_text()
    assert begin in page and end in page, f"{PAGE} has no markers of {name}"
    PAGE.write_text(re.sub(f"{begin}.*{end}", lambda _: table, page, flags=re.DOTALL))


def elsewhere(study: dict[str, Any], entries: dict[str, list[Path]]) -> list[str]:
    """A table of what was measured beside the runs' own tests: mean over seeds, lowest and highest."""
    wins, judge = "against" in study, ["judge"] if "judge" in study else []
    labels = [*study.get("elsewhere", {}), *judge]
    if not labels:
        return []
    title = f"Wins against {study['against']}" if wins else "Elsewhere"
    lines = ["", f"### {title}", "", f"| entry | {' | '.join(labels)} |", "|---" * (len(labels) + 1) + "|"]
    for entry, runs in entries.items():
        cells = []
        for label in labels:
            files = [
                wins_file(run, label) if wins else run.with_name(f"{run.name}-{label.replace(' ', '-')}.json")
                for run in runs
            ]
            found = [json.loads(file.read_text()) for file in files if file.is_file()]
            values = [value if wins else value[study["metric"]] for value in found]
            mean = sum(values) / max(len(values), 1)
            cells.append(f"{mean:.3f} ({min(values):.3f} to {max(values):.3f})" if values else "-")
        lines.append(f"| {entry} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
