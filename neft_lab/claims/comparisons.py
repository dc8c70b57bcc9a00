"""From arms to claims: paired differences from the baseline, and what may be said of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from neft_lab.claims.arms import (
    LENGTH_CONTROLLED,
    Arm,
    PairedRows,
    best_arms,
    make_arms,
    pair_rows,
    read_pairs,
    without_seed,
)
from neft_lab.claims.items import READERS, read_length_pair
from neft_lab.claims.labels import short_label, varying_axes
from neft_lab.claims.pilot import detectable_difference
from neft_lab.claims.results import CellResult
from neft_lab.config import NoiseKind, NoiseScale, SweepConfig
from neft_lab.statistics import (
    PairedDifference,
    benjamini_hochberg,
    equivalence,
    holm,
    length_controlled_difference,
    paired_difference,
)

__all__ = ["Arm", "Comparison", "best_arms", "compare", "detectable_difference", "make_arms"]

LEVEL = 0.05
STALE = timedelta(days=60)
JUDGED = ("win_rate", "length_controlled_win_rate")
DESCRIBED = (
    "output_characters", "repeated_bigrams", "log_diversity", "held_out_loss", "train_rows_loss", "training_rouge_l",
    "training_bleu",
)  # fmt: skip


DOSE_MARGIN = 0.05
"""Measured doses of arms that are called matched may differ by this share."""


@dataclass(frozen=True)
class Comparison:
    """An arm against its baseline on one metric, same items, same seeds: arm minus baseline."""

    metric: str
    arm: dict[str, Any]
    baseline: dict[str, Any]
    difference: PairedDifference
    adjusted_p: float | None
    """Corrected over its family; None where the difference is only described."""
    verdict: str
    flags: list[str] = field(default_factory=list)
    correction: str = "Holm"
    """By which ``adjusted_p`` is corrected; Benjamini-Hochberg where the sweep is marked exploratory."""
    family: int = 0
    """How many comparisons are corrected together."""

    @property
    def changed(self) -> list[str]:
        """The axes in which the arm differs from its baseline."""
        return [name for name, value in self.arm.items() if self.baseline.get(name) != value]


def label_comparisons(comparisons: Sequence[Comparison]) -> list[str]:
    """What each arm changes, and what else tells these arms apart, such as their data sets."""
    varying = varying_axes([one.arm for one in comparisons])
    return [short_label(one.arm, [name for name in one.arm if name in {*varying, *one.changed}])
            for one in comparisons]  # fmt: skip


def compare(rows: Sequence[CellResult], sweep: SweepConfig, metrics: Sequence[str]) -> list[Comparison]:
    """Every arm against its baseline on every metric that has items; claims are made of the primary one only."""
    pairs = pair_rows(rows)
    found = []
    for metric in metrics:
        of_metric = [one for pair in pairs if (one := measure(pair, metric, rows, sweep)) is not None]
        found += _decide(of_metric, metric, sweep)
    return found


def measure(
    pair: PairedRows, metric: str, rows: Sequence[CellResult], sweep: SweepConfig
) -> Comparison | None:
    """One difference with its remarks and no verdict yet; None where the cells lack the metric."""
    measured = measure_length_controlled(pair) if metric == LENGTH_CONTROLLED else _measure(pair, metric)
    if measured is None:
        return None
    difference, lost = measured
    arm, base = pair.arm, pair.baseline
    flags = [*_flags(arm, base, metric, difference, lost), *_dose_flags(arm, rows, sweep)]
    return Comparison(
        metric, without_seed(arm[0].axes), without_seed(base[0].axes), difference, None, "", flags
    )


def _measure(pair: PairedRows, metric: str) -> tuple[PairedDifference, int] | None:
    read = read_pairs(pair, metric)
    if read is None:
        return None
    difference = paired_difference(
        read.arm, read.baseline, clusters=read.clusters, macro=read.first.macro, test=read.first.test,
        scale=read.first.scale,
    )  # fmt: skip
    return difference, read.lost


def measure_length_controlled(pair: PairedRows) -> tuple[PairedDifference, int] | None:
    """The difference at equal length over all seeds, and how many seeds have holes; None where nothing is judged."""
    both = [read_length_pair(arm, base) for arm, base in zip(pair.arm, pair.baseline, strict=True)]
    kept = [one for one in both if one is not None]
    shared = [label for label in kept[0] if all(label in one for one in kept)] if kept else []
    if not shared:
        return None
    table = np.array(
        [
            [[math.nan if value is None else value for value in astuple(one[label])] for label in shared]
            for one in kept
        ]
    )
    ours, length, theirs, base_length, reference = np.moveaxis(table, 2, 0)
    difference = length_controlled_difference(ours, length, theirs, base_length, reference[0], resamples=500)
    return difference, len(both) - len(kept)


def verdict_times(record: Mapping[str, Any]) -> list[datetime]:
    """When the first and the last verdict of a judge step were given; none where a file does not tell."""
    answered = record["resolved"].get("verdicts", {}).get("answered")
    if answered is None:
        replayed = record["config"].get("judge", {}).get("kind") == "file"
        answered = [] if replayed else [record["started"]]
    times = map(datetime.fromisoformat, answered)
    return [time if time.tzinfo else time.replace(tzinfo=UTC) for time in times]


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
        time for row in (*arm, *base) if stage in row.records for time in verdict_times(row.records[stage])
    ]
    if metric in JUDGED and times and max(times) - min(times) > STALE:
        flags.append("the verdicts were asked months apart")
    if metric in JUDGED and not all(row.metrics.get("judge_validated") == 1.0 for row in (*arm, *base)):
        flags.append("judge not validated")
    return flags


def _dose_flags(arm: Sequence[CellResult], rows: Sequence[CellResult], sweep: SweepConfig) -> list[str]:
    """Told where an arm's noise is called matched to another arm's, and the measured doses differ."""
    ours = _dose(arm[0])
    peers = [_dose(row) for row in rows if _called_matched(arm[0], row, sweep)]
    unequal = [dose for dose in peers if max(dose, ours) > (1 + DOSE_MARGIN) * min(dose, ours)]
    told = " and ".join(f"{dose:.3g}" for dose in dict.fromkeys([ours, *unequal]))
    return [f"called matched, but measured doses differ: equivalent alpha {told}"] if unequal else []


def _dose(row: CellResult) -> float:
    return row.metrics.get("equivalent_alpha", 0.0)


def _called_matched(row: CellResult, other: CellResult, sweep: SweepConfig) -> bool:
    """Whether two cells are meant to have one dose: ``noise.scale=matched`` is to uniform noise of the same alpha."""
    if not (_dose(row) and _dose(other)) or row.config is None or other.config is None:
        return False
    one, two = row.config, other.config
    if (one.model.name, one.dataset.name, one.seed) != (two.model.name, two.dataset.name, two.seed):
        return False
    kinds = {one.noise.scale, two.noise.scale}
    uniform = NoiseKind.uniform in (one.noise.kind, two.noise.kind)
    scaled = kinds == {NoiseScale.matched} or (NoiseScale.matched in kinds and uniform)
    return sweep.matched_dose or (scaled and one.noise.alpha == two.noise.alpha)


def _decide(comparisons: Sequence[Comparison], metric: str, sweep: SweepConfig) -> list[Comparison]:
    """Verdicts; those of the primary metric after correction over each family."""
    if metric != sweep.primary:
        return [replace(one, verdict=_describe(one, sweep)) for one in comparisons]
    correct, name = _correction(sweep)
    families: dict[str, list[int]] = {}
    for place, one in enumerate(comparisons):
        kept = {axis: value for axis, value in one.arm.items() if sweep.family and axis not in sweep.family}
        families.setdefault(repr(kept), []).append(place)
    decided = list(comparisons)
    for places in families.values():
        adjusted = correct([comparisons[place].difference.p_value for place in places])
        for place, p_value in zip(places, adjusted.tolist(), strict=True):
            one = comparisons[place]
            decided[place] = replace(one, adjusted_p=p_value, verdict=_claim(one, p_value),
                                     correction=name, family=len(places))  # fmt: skip
    return decided


def _correction(sweep: SweepConfig) -> tuple[Callable[[list[float]], Any], str]:
    return (benjamini_hochberg, "Benjamini-Hochberg") if sweep.exploratory else (holm, "Holm")


def _claim(one: Comparison, adjusted_p: float) -> str:
    if "judge not validated" in one.flags:
        return "judge not validated"
    if not adjusted_p < LEVEL:
        return "cannot tell apart"
    return "higher" if one.difference.value > 0 else "lower"


def _describe(one: Comparison, sweep: SweepConfig) -> str:
    if "judge not validated" in one.flags:
        return "judge not validated"
    general = None if one.metric in JUDGED + DESCRIBED else sweep.margin.get("leaderboard")
    margin = sweep.margin.get(one.metric, general)
    return "described" if margin is None else str(equivalence(one.difference, margin))
