"""What is known of the judge, as a table beside the win rates it gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from neft_lab.claims.arms import Arm
from neft_lab.claims.labels import short_labels, title_of
from neft_lab.claims.results import CellResult
from neft_lab.store import read_json
from neft_lab.tables import Table, metric_table

AUDITS = {
    "stored_agreement": "agrees with stored verdicts %",
    "longer_rule_agreement": "the longer answer does %",
    "position_consistency": "same winner in both orders %",
    "first_place_preference": "prefers the first place %",
    "repeat_agreement": "same winner asked again %",
    "canary_agreement": "same winner on a later day %",
    "canary_shift": "shift since then, points",
    "judge_holes": "without verdict",
    "length_overlap": "length overlap %",
}
DIFFICULTIES = {
    "given": "AlpacaEval 2's published instruction difficulties",
    "estimated": "instruction difficulties estimated from the other seeds",
    "none": "no instruction difficulties (not AlpacaEval 2's judge and reference, or its file is out of reach)",
}
EXTRAPOLATED = "An extrapolation, since hardly any outputs lie on one side of the reference's length"


def judge_tables(arms: Sequence[Arm]) -> list[Table]:
    """The judge's audits by arm, in percent, with what was found in words; nothing where nobody judged."""
    judged = [(row, _results(row)) for arm in arms for row in arm.rows if "judge" in row.folders]
    if not judged:
        return []
    notes = [*_validations(judged), *_counts(judged), *_versions(judged), *_length_control(arms)]
    table = metric_table("The judge", arms, list(AUDITS), notes)
    titles = {title_of(metric): title for metric, title in AUDITS.items()}
    return [replace(table, header=[titles.get(name, name) for name in table.header])]


def _results(row: CellResult) -> dict[str, Any]:
    found: dict[str, Any] = read_json(row.folders["judge"] / "results.json")
    return found


def _validations(judged: Sequence[tuple[CellResult, dict[str, Any]]]) -> list[str]:
    return list(dict.fromkeys(f"{results['judge']}: {results['validation']}." for _, results in judged))


def _counts(judged: Sequence[tuple[CellResult, dict[str, Any]]]) -> list[str]:
    """Whether all cells have equally many verdicts, and why not."""
    totals = sorted({results["counts"]["total"] for _, results in judged})
    reasons: dict[str, int] = {}
    for _, results in judged:
        for reason, count in results["holes"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    told = f" Without a verdict: {', '.join(f'{count} {reason}' for reason, count in reasons.items())}."
    if len(totals) == 1:
        return [f"Every cell has {totals[0]} verdicts.{told if reasons else ''}"]
    return [
        f"Cells have {totals[0]} to {totals[-1]} verdicts; differences are over what both sides have.{told if reasons else ''}"
    ]


def _versions(judged: Sequence[tuple[CellResult, dict[str, Any]]]) -> list[str]:
    """Who answered over HTTP, and when; a judge that moved between two days."""
    versions = sorted({name for _, results in judged for name in results.get("model_versions", {})})
    times = sorted(time for _, results in judged for time in results.get("answered", []))
    found = []
    if times:
        who = f"Answered by {', '.join(versions) or 'an unnamed model'}"
        found.append(f"{who}, {times[0][:16]} to {times[-1][:16]} UTC.")
    if any(_moved(row) for row, _ in judged):
        found.append(
            "The judge has drifted: asked again on a later day, it decides the canary pairs otherwise."
        )
    return found


def _moved(row: CellResult) -> bool:
    low, high = (row.metrics.get(f"canary_shift_{end}", 0.0) for end in ("low", "high"))
    return low > 0 or high < 0


def _length_control(arms: Sequence[Arm]) -> list[str]:
    sources: dict[str, None] = {}
    extrapolated = []
    for label, arm in zip(short_labels([arm.axes for arm in arms]), arms, strict=True):
        found = [_results(row)["length_control"] for row in arm.rows if "judge" in row.folders]
        sources |= dict.fromkeys(one["difficulty"] for one in found if one["difficulty"])
        if any(one["extrapolates"] for one in found):
            extrapolated.append(label)
    notes = [f"Length control of each cell: {DIFFICULTIES.get(name, name)}." for name in sources]
    return notes + ([f"{EXTRAPOLATED}: {', '.join(extrapolated)}."] if extrapolated else [])
