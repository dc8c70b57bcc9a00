"""Cells to arms: what is done alike but for the seed, its estimates, and which arms may be called the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neft_lab.claims.items import READERS, Items, align, read_items, read_length_table
from neft_lab.claims.results import CellResult, find_cell, shown
from neft_lab.statistics import Estimate, accuracy, compare_with_best, length_controlled_win_rate, mean_value

LENGTH_CONTROLLED = "length_controlled_win_rate"
LOWER_IS_BETTER = ("held_out_loss",)
HIGHER_IS_BETTER = (
    "win_rate", "length_controlled_win_rate", "mmlu", "mmlu_weighted", "arc_challenge", "hellaswag", "truthfulqa_mc2"
)  # fmt: skip
"""Longer answers, more repetition and a better memory of the training rows are not better, nor worse."""


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
class PairedRows:
    """The cells of an arm and of its baseline, seed by seed."""

    arm: list[CellResult]
    baseline: list[CellResult]


@dataclass(frozen=True)
class Paired:
    """Scores of an arm and of its baseline on one metric, (seeds, items) each, on the same items and seeds."""

    arm: list[list[float]]
    baseline: list[list[float]]
    labels: list[str]
    first: Items
    """How these items are read: scale, test, clusters."""
    lost: int
    """Seeds left out because a cell has nothing to read."""

    @property
    def clusters(self) -> list[str] | None:
        return find_clusters(self.labels, self.first)

    @property
    def columns(self) -> list[tuple[float, ...]]:
        """The scores of every item, of all seeds and both sides."""
        return list(zip(*self.arm, *self.baseline, strict=True))


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
    if len(have) == 1 and (f"{metric}_low" in have[0].metrics or metric not in READERS):
        numbers = have[0].metrics
        low, high = (numbers.get(f"{metric}_{end}", math.nan) for end in ("low", "high"))
        return Estimate(numbers[metric], numbers.get(f"{metric}_standard_error", math.nan), low, high,
                        int(numbers.get(f"{metric}_n", 0)))  # fmt: skip
    if metric == LENGTH_CONTROLLED and (table := read_length_table(have)) is not None:
        return length_controlled_win_rate(
            table.preferences, table.lengths, table.reference_lengths, resamples=500
        )
    items = [found for row in have if (found := read_items(row, metric)) is not None]
    if len(items) < len(have) or not have:
        value = math.fsum(row.metrics[metric] for row in have) / len(have) if have else math.nan
        return Estimate(value, math.nan, math.nan, math.nan, 0, len(have))
    return estimate_items(items)


def estimate_items(items: Sequence[Items]) -> Estimate:
    """The mean of one metric over its items and, where there are several seeds, over them."""
    _, scores = align(items)
    if items[0].scale == 100:
        return accuracy(scores, clusters=items[0].clusters, macro=items[0].macro)
    return mean_value(scores)


def pair_rows(rows: Sequence[CellResult]) -> list[PairedRows]:
    """Every arm that has a baseline, with it."""
    groups: dict[str, PairedRows] = {}
    for row in rows:
        base = find_cell(rows, row.baseline) if row.baseline is not None else None
        if base is not None:
            pair = groups.setdefault(repr(without_seed(row.axes)), PairedRows([], []))
            pair.arm.append(row)
            pair.baseline.append(base)
    return list(groups.values())


def read_pairs(rows: PairedRows, metric: str) -> Paired | None:
    """Both sides' items on a metric, aligned; None where no seed has both."""
    both = [
        (left, right)
        for arm, base in zip(rows.arm, rows.baseline, strict=True)
        if (left := read_items(arm, metric)) is not None and (right := read_items(base, metric)) is not None
    ]
    if not both:
        return None
    labels, scores = align([*(left for left, _ in both), *(right for _, right in both)])
    return Paired(scores[: len(both)], scores[len(both) :], labels, both[0][0], len(rows.arm) - len(both))


def find_clusters(labels: Sequence[str], items: Items) -> list[str] | None:
    """The cluster of every label, where the items are in clusters."""
    if items.clusters is None:
        return None
    known = dict(zip(items.labels, items.clusters, strict=True))
    return [known.get(label, "") for label in labels]


def best_arms(arms: Sequence[Arm], metric: str) -> frozenset[int]:
    """The places of the arms that may be called the best: the leader and all that cannot be told from it.

    On the items and seeds that all arms share. Empty where none can be ruled out, where fewer than two arms have
    items, and for metrics of which neither more nor less is better.
    """
    if metric not in (*LOWER_IS_BETTER, *HIGHER_IS_BETTER):
        return frozenset()
    read = {place: _items_by_seed(arm, metric) for place, arm in enumerate(arms)}
    having = [place for place, items in read.items() if items]
    seeds = set.intersection(*(set(read[place]) for place in having)) if having else set()
    if len(having) < 2 or not seeds:
        return frozenset()
    order = sorted(seeds)
    items = [read[place][seed] for place in having for seed in order]
    labels, scores = align(items)
    cells = [scores[start : start + len(order)] for start in range(0, len(scores), len(order))]
    if all(any(math.isnan(row[number]) for row in scores) for number in range(len(labels))):
        return frozenset()
    found = compare_with_best(
        cells, clusters=find_clusters(labels, items[0]), macro=items[0].macro, scale=items[0].scale,
        higher=metric in HIGHER_IS_BETTER,
    )  # fmt: skip
    best = [place for place, told in zip(having, found, strict=True) if told.contends]
    return frozenset(best) if len(best) < len(having) else frozenset()


def _items_by_seed(arm: Arm, metric: str) -> dict[str, Items]:
    found = {shown(row.axes.get("seed")): read_items(row, metric) for row in arm.rows}
    return {seed: items for seed, items in found.items() if items is not None}
