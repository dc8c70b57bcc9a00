"""How much the arms of a sweep vary, measured on what is there of it, and so how small a difference it can see."""

from __future__ import annotations

import math
from collections.abc import Sequence

from neft_lab.claims.arms import PairedRows, pair_rows, read_pairs
from neft_lab.claims.labels import unit_of
from neft_lab.claims.results import CellResult
from neft_lab.config import SweepConfig
from neft_lab.statistics import SmallestDifference, Variation, measure_variation, smallest_difference

OWN_PAIRS = "this sweep's own pairs"
NOT_INSTRUCTIONS = dict.fromkeys(
    ("held_out_loss", "train_rows_loss", "training_rouge_l", "training_bleu"), "rows"
) | (dict.fromkeys(("mmlu", "mmlu_weighted", "arc_challenge", "hellaswag", "truthfulqa_mc2"), "documents"))
"""What is counted, for metrics of other things than answers to instructions."""


def items_of(metric: str) -> str:
    """What the items of a metric are called."""
    return NOT_INSTRUCTIONS.get(metric, "instructions")


def detectable_difference(rows: Sequence[CellResult], sweep: SweepConfig) -> SmallestDifference | None:
    """How small a difference of the primary metric this sweep could have seen, from the spread of its own pairs."""
    pairs = [pair for pair in pair_rows(rows) if not pair.arm[0].control]
    found = []
    for pair in pairs:
        measured = _measure(pair, sweep.primary)
        if measured is not None:
            variation, items, seeds = measured
            found.append(
                smallest_difference(
                    items=items, seeds=seeds, variation=variation, comparisons=len(pairs),
                    unit=unit_of(sweep.primary), items_are=items_of(sweep.primary),
                )
            )  # fmt: skip
    return max(found, key=lambda one: one.points) if found else None


def pilot_variation(rows: Sequence[CellResult], sweep: SweepConfig, *, pairs: int = 20) -> Variation | None:
    """The largest variation among the first ``pairs`` that are finished; None before any is."""
    measured = [_measure(pair, sweep.primary) for pair in pair_rows(rows)[:pairs]]
    found = [one[0] for one in measured if one is not None]
    return max(found, key=lambda one: one.paired_sd) if found else None


def _measure(pair: PairedRows, metric: str) -> tuple[Variation, int, int] | None:
    """Variation, items and seeds of one pair; None where nothing can be read or the arms answered alike."""
    read = read_pairs(pair, metric)
    items = 0 if read is None else sum(not any(map(math.isnan, column)) for column in read.columns)
    if read is None or items < 2:
        return None
    variation = measure_variation(read.arm, read.baseline, source=OWN_PAIRS, scale=read.first.scale)
    if not variation.paired_sd > 0:
        return None
    return variation, items, len(read.arm)
