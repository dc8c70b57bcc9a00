"""The best try of every tuned arm: chosen on validation instructions, reported on held-out ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neft_lab.claims.arms import estimate_items
from neft_lab.claims.items import OF_ANSWERS, READERS, keep_items, read_items
from neft_lab.claims.labels import title_of
from neft_lab.claims.results import CellResult, find_cell, shown
from neft_lab.config import SelectConfig, SweepConfig
from neft_lab.plan.tries import OF_ANSWERS as CHOSEN_BY_ANSWERS
from neft_lab.plan.tries import SPLIT, baseline_arm, tuned_arms
from neft_lab.tables import Table

ARM = "arm"
"""The axis on which tuned arms stand in tables."""


@dataclass(frozen=True)
class Try:
    """One try of an arm: the cell that reports it, and the value that it is ranked by (NaN: not there yet)."""

    arm: str
    context: dict[str, Any]
    values: dict[str, Any]
    reported: CellResult
    score: float
    chosen: bool = False


@dataclass(frozen=True)
class Selection:
    """All tries, and one row of results per arm and context: that of its best try."""

    tries: list[Try]
    winners: list[CellResult]


def select_best(rows: Sequence[CellResult], sweep: SweepConfig) -> Selection | None:
    """Choose the best try of each arm in each context; None for a sweep that does not select.

    An arm with a try that is not measured has a hole: a choice among fewer would be another arm.
    """
    select = sweep.select
    if select is None:
        return None
    tries: list[Try] = []
    winners: list[CellResult] = []
    for context in _contexts(rows, select):
        for arm, values in tuned_arms(select).items():
            found = [_read_try(rows, select, arm, context, one) for one in values]
            decided = _choose(found, select)
            tries += decided
            winners.append(_winner(decided, select))
    return Selection(tries, winners)


def _contexts(rows: Sequence[CellResult], select: SelectConfig) -> list[dict[str, Any]]:
    """The axis values that the tries of an arm share, in the order of the rows."""
    inner = {SPLIT, *(name for axes in select.arms.values() for name in axes)}
    every = [{name: value for name, value in row.axes.items() if name not in inner} for row in rows]
    return [context for place, context in enumerate(every) if context not in every[:place]]


def _read_try(
    rows: Sequence[CellResult],
    select: SelectConfig,
    arm: str,
    context: dict[str, Any],
    values: dict[str, Any],
) -> Try:
    axes = {**context, **values}
    choosing = find_cell(rows, {**axes, SPLIT: "validation"})
    reported = find_cell(rows, axes if choosing is None else {**axes, SPLIT: "evaluation"})
    if reported is None:
        raise LookupError(f"the plan has no cell for try {axes}")
    return Try(arm, context, values, reported, _score(reported, choosing, select))


def _score(reported: CellResult, choosing: CellResult | None, select: SelectConfig) -> float:
    if choosing is not None:
        return choosing.metrics.get(select.by, math.nan)
    if select.by not in CHOSEN_BY_ANSWERS:
        return reported.metrics.get(select.by, math.nan)
    items = read_items(reported, select.by)
    scores = [] if items is None else keep_items(items, share=select.share, choosing=True).scores
    judged = [score for score in scores if not math.isnan(score)]
    return 100 * math.fsum(judged) / len(judged) if judged else math.nan


def _choose(tries: Sequence[Try], select: SelectConfig) -> list[Try]:
    """Mark the best; the first of equals, in the order of the sweep file."""
    scores = np.array([one.score for one in tries])
    if np.isnan(scores).any():
        return list(tries)
    best = int(np.argmax(scores if select.higher else -scores))
    return [replace(one, chosen=place == best) for place, one in enumerate(tries)]


def _winner(tries: Sequence[Try], select: SelectConfig) -> CellResult:
    arm, context, count = tries[0].arm, tries[0].context, len(tries)
    axes = {**context, ARM: best_of(arm, count)}
    base = {**context, ARM: best_of(baseline_arm(select), count)}
    baseline = None if axes == base else base
    chosen = next((one for one in tries if one.chosen), None)
    if chosen is None:
        done = sum(not math.isnan(one.score) for one in tries)
        why = f"{done} of {count} tries have a {select.by} to be chosen by"
        return replace(tries[0].reported, axes=axes, baseline=baseline, metrics={}, folders={}, records={},
                       holes={"select": why})  # fmt: skip
    row = replace(chosen.reported, axes=axes, baseline=baseline)
    by_hash = select.by in CHOSEN_BY_ANSWERS and SPLIT not in chosen.reported.axes
    return _held_out(row, select.share) if by_hash else row


def best_of(arm: str, tries: int) -> str:
    """How an arm is called in tables."""
    return f"{arm} best of {tries}"


def _held_out(row: CellResult, share: float) -> CellResult:
    """The same cell without the instructions that chose it: metrics of answers are computed anew."""
    row = replace(row, choosing_share=share)
    answered = {
        name for stage in OF_ANSWERS if stage in row.records for name in row.records[stage]["metrics"]
    }
    facts = {"judge_validated"}
    metrics = {name: value for name, value in row.metrics.items() if name not in answered - facts}
    for name, (stage, _) in READERS.items():
        items = read_items(row, name) if stage in OF_ANSWERS and name in row.metrics else None
        if items is not None:
            found = estimate_items([items])
            metrics |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high,
                        f"{name}_n": found.n}  # fmt: skip
    return replace(row, metrics=metrics)


def chosen_lines(selection: Selection) -> list[str]:
    """One line per winner: which try it is."""
    return [
        f"{best_of(one.arm, _count(selection, one))}{_where(one)}: {_values(one)}"
        for one in selection.tries
        if one.chosen
    ]


def _count(selection: Selection, one: Try) -> int:
    return sum(other.arm == one.arm and other.context == one.context for other in selection.tries)


def _where(one: Try) -> str:
    return f" ({', '.join(shown(value) for value in one.context.values())})" if one.context else ""


def _values(one: Try) -> str:
    return ", ".join(f"{name}={shown(value)}" for name, value in one.values.items())


def tries_table(selection: Selection, sweep: SweepConfig) -> Table:
    """Every try with what it was ranked by and what it reports; the chosen one is marked."""
    assert sweep.select is not None
    ranked, claimed = title_of(sweep.select.by), title_of(sweep.primary)
    contexts = list(dict.fromkeys(name for one in selection.tries for name in one.context))
    keys = list(dict.fromkeys(name for one in selection.tries for name in one.values))
    rows = [
        [
            *(shown(one.context[name]) for name in contexts), one.arm, *(shown(one.values[name]) for name in keys),
            _number(one.score), _number(one.reported.metrics.get(sweep.primary, math.nan)),
            "chosen" if one.chosen else "",
        ]
        for one in selection.tries
    ]  # fmt: skip
    header = [*contexts, "arm", *keys, f"{ranked}, to choose", f"{claimed}, reported", ""]
    return Table(
        f"{sweep.name or 'run'}: tries",
        header,
        rows,
        [_told(selection, sweep.select), *chosen_lines(selection)],
    )


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"


def _told(selection: Selection, select: SelectConfig) -> str:
    count = _count(selection, selection.tries[0])
    on = ""
    if select.by in CHOSEN_BY_ANSWERS:
        own = any(SPLIT in one.reported.axes for one in selection.tries)
        on = (", on validation instructions; reported on others" if own else
              f", on {select.share:.0%} of the instructions, taken by hash; arms are reported on the others, the tries "
              "here on all")  # fmt: skip
    return f"Every arm had {count} tries, ranked by {title_of(select.by)}{on}."
