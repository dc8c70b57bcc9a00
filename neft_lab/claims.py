"""From rows to claims: arms over seeds, paired differences from the baseline, and what may be said of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from neft_lab.budget import SmallestDifference, smallest_difference
from neft_lab.config import SweepConfig
from neft_lab.items import READERS, Items, align, read_items
from neft_lab.labels import short_label
from neft_lab.results import CellResult, find_cell, shown
from neft_lab.statistics import (
    Estimate,
    PairedDifference,
    accuracy,
    equivalence,
    holm,
    mean_value,
    measure_variation,
    paired_difference,
)

LEVEL = 0.05
STALE = timedelta(days=60)
JUDGED = ("win_rate", "length_controlled_win_rate")
DESCRIBED = ("output_characters", "held_out_loss", "train_rows_loss")


@dataclass(frozen=True)
class Arm:
    """Cells that differ in the seed alone. ``estimates`` by metric; those without an interval have NaN bounds."""

    axes: dict[str, Any]
    rows: list[CellResult]
    estimates: dict[str, Estimate]

    @property
    def label(self) -> str:
        return ", ".join(f"{name}={shown(value)}" for name, value in self.axes.items()) or "run"


@dataclass(frozen=True)
class Comparison:
    """An arm against its baseline on one metric, same items, same seeds: arm minus baseline."""

    metric: str
    arm: dict[str, Any]
    baseline: dict[str, Any]
    difference: PairedDifference
    adjusted_p: float | None
    """Holm over the sweep's comparisons of its primary metric; None where the difference is only described."""
    verdict: str
    flags: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        return short_label(
            self.arm, [name for name, value in self.arm.items() if self.baseline.get(name) != value]
        )


def without_seed(axes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in axes.items() if name != "seed"}


def make_arms(rows: Sequence[CellResult], metrics: Sequence[str]) -> list[Arm]:
    """Group cells by all axes but the seed, in their order."""
    groups: dict[str, list[CellResult]] = {}
    for row in rows:
        groups.setdefault(repr(without_seed(row.axes)), []).append(row)
    return [
        Arm(without_seed(cells[0].axes), cells, {name: _estimate(cells, name) for name in metrics})
        for cells in groups.values()
    ]


def _estimate(rows: Sequence[CellResult], metric: str) -> Estimate:
    have = [row for row in rows if metric in row.metrics]
    if len(have) == 1:
        numbers = have[0].metrics
        low, high = (numbers.get(f"{metric}_{end}", math.nan) for end in ("low", "high"))
        return Estimate(numbers[metric], numbers.get(f"{metric}_standard_error", math.nan), low, high,
                        int(numbers.get(f"{metric}_n", 0)))  # fmt: skip
    items = [found for row in have if (found := read_items(row, metric)) is not None]
    if len(items) < len(have) or not have:
        value = math.fsum(row.metrics[metric] for row in have) / len(have) if have else math.nan
        return Estimate(value, math.nan, math.nan, math.nan, 0, len(have))
    _, scores = align(items)
    if items[0].scale == 100:
        return accuracy(scores, clusters=items[0].clusters, macro=items[0].macro)
    return mean_value(scores)


def compare(rows: Sequence[CellResult], sweep: SweepConfig, metrics: Sequence[str]) -> list[Comparison]:
    """Every arm against its baseline on every metric that has items; the primary metric's p-values by Holm."""
    found = []
    for metric in metrics:
        pairs = _paired_rows(rows)
        of_metric = [one for arm, base in pairs if (one := _compare(arm, base, metric)) is not None]
        found += _decide(of_metric, metric, sweep)
    return found


def detectable_difference(rows: Sequence[CellResult], sweep: SweepConfig) -> SmallestDifference | None:
    """How small a difference of the primary metric this sweep could have seen, from the spread of its own pairs."""
    found = []
    pairs = _paired_rows(rows)
    for arm, base in pairs:
        both = [
            (read_items(row, sweep.primary), read_items(other, sweep.primary))
            for row, other in zip(arm, base, strict=True)
        ]
        kept = [(left, right) for left, right in both if left is not None and right is not None]
        if not kept or kept[0][0].scale != 100:
            continue
        labels, scores = align([*(left for left, _ in kept), *(right for _, right in kept)])
        if len(labels) > 1:
            variation = measure_variation(
                scores[: len(kept)], scores[len(kept) :], source="this sweep's own pairs"
            )
            found.append(
                smallest_difference(
                    items=len(labels), seeds=len(kept), variation=variation, comparisons=len(pairs)
                )
            )
    found = [one for one in found if one.points > 0]  # arms that answered alike say nothing of the spread
    return max(found, key=lambda one: one.points) if found else None


def _paired_rows(rows: Sequence[CellResult]) -> list[tuple[list[CellResult], list[CellResult]]]:
    """Cells of each arm with their baselines, seed by seed."""
    groups: dict[str, list[tuple[CellResult, CellResult]]] = {}
    for row in rows:
        base = find_cell(rows, row.baseline) if row.baseline is not None else None
        if base is not None:
            groups.setdefault(repr(without_seed(row.axes)), []).append((row, base))
    return [([row for row, _ in pairs], [base for _, base in pairs]) for pairs in groups.values()]


def _compare(arm: Sequence[CellResult], base: Sequence[CellResult], metric: str) -> Comparison | None:
    both = [
        (read_items(row, metric), read_items(other, metric)) for row, other in zip(arm, base, strict=True)
    ]
    kept = [(left, right) for left, right in both if left is not None and right is not None]
    if not kept:
        return None
    lefts, rights = [left for left, _ in kept], [right for _, right in kept]
    labels, scores = align([*lefts, *rights])
    first = lefts[0]
    clusters = _clusters(labels, first)
    difference = paired_difference(
        scores[: len(kept)], scores[len(kept) :], clusters=clusters, macro=first.macro, test=first.test,
        scale=first.scale,
    )  # fmt: skip
    flags = _flags(arm, base, metric, difference, len(arm) - len(kept))
    return Comparison(
        metric, without_seed(arm[0].axes), without_seed(base[0].axes), difference, None, "", flags
    )


def _clusters(labels: Sequence[str], items: Items) -> list[str] | None:
    if items.clusters is None:
        return None
    known = dict(zip(items.labels, items.clusters, strict=True))
    return [known.get(label, "") for label in labels]


def _flags(
    arm: Sequence[CellResult],
    base: Sequence[CellResult],
    metric: str,
    difference: PairedDifference,
    lost: int,
) -> list[str]:
    stage = READERS[metric][0] if metric in READERS else "leaderboard"
    flags = []
    if lost:
        flags.append(f"{lost} of {len(arm)} seeds have holes")
    if difference.dropped:
        flags.append(
            f"{difference.dropped} of {difference.n + difference.dropped} items lack a score in some arm"
        )
    records = [row.records[name] for row in (*arm, *base) for name in ("train", stage) if name in row.records]
    if (
        len({repr(record["environment"]) for record in records if record["environment"]["device"] != "none"})
        > 1
    ):
        flags.append("the arms ran on different devices or versions")
    times = [
        datetime.fromisoformat(row.records[stage]["started"]) for row in (*arm, *base) if stage in row.records
    ]
    if metric in JUDGED and times and max(times) - min(times) > STALE:
        flags.append("the verdicts were asked months apart")
    if metric in JUDGED and not all(row.metrics.get("judge_validated") == 1.0 for row in (*arm, *base)):
        flags.append("judge not validated")
    return flags


def _decide(comparisons: Sequence[Comparison], metric: str, sweep: SweepConfig) -> list[Comparison]:
    primary = metric == sweep.primary
    adjusted = (
        holm([one.difference.p_value for one in comparisons]).tolist() if primary and comparisons else []
    )
    decided = []
    for number, one in enumerate(comparisons):
        p_value = adjusted[number] if primary else None
        decided.append(replace(one, adjusted_p=p_value, verdict=_verdict(one, p_value, sweep)))
    return decided


def _verdict(one: Comparison, adjusted_p: float | None, sweep: SweepConfig) -> str:
    difference = one.difference
    if "judge not validated" in one.flags:
        return "judge not validated"
    if adjusted_p is not None:
        if not adjusted_p < LEVEL:
            return "cannot tell apart"
        return "higher" if difference.value > 0 else "lower"
    margin = sweep.margin.get(one.metric, sweep.margin.get("leaderboard"))
    if one.metric not in JUDGED + DESCRIBED and margin:
        return str(equivalence(difference, margin))
    return "described"
