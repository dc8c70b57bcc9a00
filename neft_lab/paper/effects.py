"""Our own value beside a published number, and our effect beside the published one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from neft_lab.claims.arms import LENGTH_CONTROLLED, Arm, PairedRows, estimate_items, find_clusters
from neft_lab.claims.comparisons import measure_length_controlled
from neft_lab.claims.items import Items, align, read_items
from neft_lab.claims.results import CellResult, shown
from neft_lab.paper.numbers import BAND, Published
from neft_lab.paper.verdicts import COUNTS, band_estimate, count_verdicts, exactly
from neft_lab.statistics import Estimate, PairedDifference, paired_difference

METRICS = {
    "win_rate": ("win_rate",),
    "win_rate_lc": ("length_controlled_win_rate",),
    "win_rate_se": ("win_rate_standard_error",),
    "n_judged": ("win_rate_n",),
    "mean_chars": ("mean_characters", "output_characters"),
    "mean_whitespace_tokens": ("output_words",),
    "rep2_pct": ("repeated_bigrams",),
    "n_kept": ("repeated_bigrams_n",),
    "log_diversity": ("log_diversity_published",),
    "log_diversity_intended": ("log_diversity",),
    "n_at_cap": ("diversity_ceiling",),
    "arc": ("arc_challenge",),
    "hellaswag": ("hellaswag",),
    "mmlu": ("mmlu",),
    "truthfulqa": ("truthfulqa_mc2",),
}
"""Our metrics for the paper's; the first that a run has counts. `log_diversity` is the paper's with its slip."""

CHUNK = "chunk_tokens"
"""A setting rather than a metric: the tokens over which repetition is counted."""


def metric_of(number: Published, arms: Sequence[Arm]) -> str | None:
    """Our metric for a number; None where these runs have none."""
    if number.metric == CHUNK:
        return CHUNK
    if number.metric in COUNTS:
        return number.metric if arms and "judge" in arms[0].rows[0].folders else None
    names = METRICS.get(number.metric, ())
    return next((name for name in names if arms and all(name in arm.rows[0].metrics for arm in arms)), None)


def measure_value(number: Published, arms: Sequence[Arm], metric: str) -> Estimate:
    """Our value with its interval; for several arms (one per data set) the mean over them, by instruction."""
    if number.variant is not None and number.variant[0] == BAND:
        return band_estimate(arms[0].rows[0], number.variant[1], metric)
    config = arms[0].rows[0].config
    if metric == CHUNK:
        return exactly(config.analysis.chunk_of(config.dataset.name))
    if metric in COUNTS:
        return count_verdicts(arms[0].rows[0], metric)
    if len(arms) == 1 and len(arms[0].rows) == 1:
        return _of_record(arms[0].rows[0], metric)
    items = _by_seed(arms, metric)
    if items:
        return estimate_items(list(items.values()))
    values = [row.metrics[metric] for arm in arms for row in arm.rows if metric in row.metrics]
    return Estimate(math.fsum(values) / len(values), math.nan, math.nan, math.nan, 0, len(values))


def _of_record(row: CellResult, metric: str) -> Estimate:
    names = ("_standard_error", "_low", "_high")
    error, low, high = (row.metrics.get(f"{metric}{name}", math.nan) for name in names)
    return Estimate(row.metrics[metric], error, low, high, int(row.metrics.get(f"{metric}_n", 0)))


def measure_effect(arms: Sequence[Arm], baselines: Sequence[Arm], metric: str) -> PairedDifference | None:
    """Arm minus baseline on the same items and seeds; None where no seed has both.

    Several arms, one per data set with its baseline, are averaged over the data sets item by item.
    """
    if metric == LENGTH_CONTROLLED:
        return _length_controlled(arms[0], baselines[0])
    left, right = _by_seed(arms, metric), _by_seed(baselines, metric)
    seeds = [seed for seed in left if seed in right]
    if not seeds:
        return None
    labels, scores = align([*(left[seed] for seed in seeds), *(right[seed] for seed in seeds)])
    first = left[seeds[0]]
    return paired_difference(
        scores[: len(seeds)], scores[len(seeds) :], clusters=find_clusters(labels, first), macro=first.macro,
        test=first.test, scale=first.scale, averaged=len(arms), resamples=1,  # the interval is asked for, not the p-value
    )  # fmt: skip


def _length_controlled(arm: Arm, baseline: Arm) -> PairedDifference | None:
    """The difference at equal length, over the seeds that both have."""
    by_seed = {shown(row.axes.get("seed")): row for row in baseline.rows}
    rows = [row for row in arm.rows if shown(row.axes.get("seed")) in by_seed]
    measured = measure_length_controlled(
        PairedRows(rows, [by_seed[shown(row.axes.get("seed"))] for row in rows])
    )
    return None if measured is None else measured[0]


def _by_seed(arms: Sequence[Arm], metric: str) -> dict[str, Items]:
    """Items by training seed, of the seeds that every arm has."""
    read = [
        {
            shown(row.axes.get("seed")): items
            for row in arm.rows
            if (items := read_items(row, metric)) is not None
        }
        for arm in arms
    ]
    seeds = [seed for seed in read[0] if all(seed in one for one in read)] if read else []
    return {seed: _average([one[seed] for one in read]) for seed in seeds}


def _average(items: Sequence[Items]) -> Items:
    if len(items) == 1:
        return items[0]
    labels, scores = align(items)
    means = [math.fsum(column) / len(column) for column in zip(*scores, strict=True)]
    return replace(items[0], labels=labels, scores=means, test="sign_flip")
