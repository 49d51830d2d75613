"""The win rate of verdicts, and the agreement and biases of the judge."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from evolign.judging.base import Answer
from evolign.judging.pairs import Pair, Pairs
from evolign.metrics import bootstrap_share, wilson

ORDERS = ("ours first", "theirs first")
WINNERS = {
    "ours first": {"A": "ours", "B": "theirs", "tie": "tie"},
    "theirs first": {"A": "theirs", "B": "ours", "tie": "tie"},
}
Row = Mapping[str, Any]


def verdict_rows(pairs: Sequence[Pair], answers: Mapping[tuple[int, str], Answer]) -> list[dict[str, Any]]:
    """Two rows per pair, one per order: id, sample, order, verdict, winner, reply.

    Equal completions are a tie that nobody is asked about: their `verdict` is "tie", their `reply` None.
    """
    rows = []
    for i, pair in enumerate(pairs):
        for order in ORDERS:
            row: dict[str, Any] = {"id": pair.id, "sample": pair.sample, "order": order}
            answer = answers.get((i, order))
            if answer is None:
                rows.append(row | {"verdict": "tie", "winner": "tie", "reply": None, "identical": True})
                continue
            row |= {
                "verdict": answer.verdict,
                "winner": WINNERS[order].get(answer.verdict),
                "reply": answer.reply.text,
            }
            if answer.reply.problem:
                row["problem"] = answer.reply.problem
            rows.append(row)
    return rows


def summarise(paired: Pairs, rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """Counts of verdicts, the win rate, and the judge's agreement and biases, each with a 95 % interval.

    win_rate = (wins + ties / 2) / valid verdicts, over both orders; intervals resample prompts. None stands
    where nothing was counted. `rows` are those of `verdict_rows`.
    """
    pairs = paired.pairs
    winners = [row["winner"] for row in rows]
    verdicts = [row["verdict"] for row in rows]
    asked = [row for row in rows if not row.get("identical")]
    found: dict[str, Any] = {
        "pairs": len(pairs),
        "identical": sum(bool(row.get("identical")) for row in rows) // 2,
        "unmatched": paired.unmatched,
        "without_reference": paired.without_reference,
        "verdicts": len(rows),
        "wins": winners.count("ours"),
        "losses": winners.count("theirs"),
        "ties": winners.count("tie"),
        "invalid": verdicts.count("invalid"),
        "failed": verdicts.count("failed"),
    }
    worth = {"ours": 1.0, "tie": 0.5, "theirs": 0.0}
    found |= _share("win_rate", rows, lambda row: worth.get(row["winner"]), seed)
    found |= _agreement(rows)
    found |= _share("first_shown_wins", asked, _first_shown_won, seed)
    length = {(pair.id, pair.sample): {"ours": len(pair.ours), "theirs": len(pair.theirs)} for pair in pairs}

    def longer_won(row: Row) -> float | None:
        characters = length[row["id"], row["sample"]]
        if row["winner"] not in characters or characters["ours"] == characters["theirs"]:
            return None
        return float(row["winner"] == max(characters, key=lambda side: characters[side]))

    found |= _share("longer_wins", asked, longer_won, seed)
    for side in ("ours", "theirs"):
        found[f"mean_characters_{side}"] = float(np.mean([row[side] for row in length.values()]))
        found[f"empty_{side}"] = sum(row[side] == 0 for row in length.values())
    return found


def _first_shown_won(row: Row) -> float | None:
    """1 where a decisive verdict is for the answer that was shown first."""
    return {"A": 1.0, "B": 0.0}.get(row["verdict"])


def _agreement(rows: Sequence[Row]) -> dict[str, float | None]:
    """The share of pairs with two valid verdicts whose orders name the same winner."""
    both = [
        (one["winner"], other["winner"])
        for one, other in zip(rows[::2], rows[1::2], strict=True)
        if one["winner"] and other["winner"] and not one.get("identical")
    ]
    if not both:
        return dict.fromkeys(("agreement", "agreement_low", "agreement_high"))
    same = sum(one == other for one, other in both)
    low, high = wilson(same, len(both))
    return {"agreement": same / len(both), "agreement_low": low, "agreement_high": high}


def _share(
    name: str, rows: Sequence[Row], value: Callable[[Row], float | None], seed: int
) -> dict[str, float | None]:
    """The mean of `value` over the rows for which it is not None, with a bootstrap over prompts."""
    hits: dict[str, float] = {}
    trials: dict[str, int] = {}
    for row in rows:
        one = value(row)
        if one is not None:
            hits[row["id"]] = hits.get(row["id"], 0.0) + one
            trials[row["id"]] = trials.get(row["id"], 0) + 1
    if not trials:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    hits_P, trials_P = np.array(list(hits.values())), np.array(list(trials.values()))
    low, high = bootstrap_share(hits_P, trials_P, seed)
    return {name: float(hits_P.sum() / trials_P.sum()), f"{name}_low": low, f"{name}_high": high}
