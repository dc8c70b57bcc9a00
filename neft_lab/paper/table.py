"""The table paper | ours | verdict of one artifact."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neft_lab.claims.arms import Arm, make_arms
from neft_lab.claims.results import CellResult
from neft_lab.config import GenerationSource
from neft_lab.paper.cells import find_arms
from neft_lab.paper.effects import measure_effect, measure_value, metric_of
from neft_lab.paper.numbers import Published, baseline_of, numbers_of
from neft_lab.paper.protocol import differences
from neft_lab.statistics import Estimate, PairedDifference, equivalence, replication
from neft_lab.store import write_text
from neft_lab.tables import Table, rounded
from neft_lab.typeset import to_latex, to_markdown

if TYPE_CHECKING:
    from neft_lab.plan import Plan

MARGIN = 0.5
"""Reproduced: our effect lies within this share of the paper's effect."""

HEADER = ["paper's row", "metric", "paper", "ours", "effect, paper", "effect, ours", "verdict", "differs"]


@dataclass(frozen=True)
class Beside:
    """One published number, and what we have beside it."""

    published: Published
    ours: Estimate | None = None
    published_effect: float | None = None
    """The number minus the paper's plain fine-tuning; None for a baseline."""
    effect: PairedDifference | None = None
    verdict: str = ""
    reason: str = ""
    """Why there is nothing of ours, or no effect."""
    differences: list[str] | None = None
    """What of our protocol differs; None where no run stands beside the number."""


def set_beside(plan: Plan, rows: Sequence[CellResult]) -> list[Beside]:
    """Every published number of the sweep's artifact with ours; none for a sweep that is about no artifact."""
    if plan.sweep.paper is None:
        return []
    numbers = numbers_of(plan.sweep.paper)
    arms = make_arms(rows, [])
    return [_beside(number, numbers, arms, plan) for number in numbers]


def _beside(number: Published, numbers: Sequence[Published], arms: Sequence[Arm], plan: Plan) -> Beside:
    baseline = baseline_of(number, numbers)
    published = None if baseline is None else round(number.value - baseline.value, 4)
    found, reason = find_arms(number, numbers, arms)
    if not found:
        return Beside(number, published_effect=published, reason=reason)
    plain, lacking = find_arms(baseline, numbers, arms) if baseline is not None else ([], "")
    told = differences(number, found, plain)
    metric = metric_of(number, found)
    if metric is None:
        return Beside(number, published_effect=published, reason=_hole(found), differences=told)
    ours = measure_value(number, found, metric)
    verdict = _same(number, ours, found)
    if baseline is None or published is None:
        return Beside(number, ours, verdict=verdict, differences=told)
    effect = measure_effect(found, plain, metric) if plain else None
    reason = ""
    if effect is None:
        reason = f"its baseline: {lacking}" if lacking else f"no effect: {_hole([*found, *plain])}"
    if effect is not None and not verdict:
        verdict = _verdict(effect, published, number, plan)
    return Beside(number, ours, published, effect, verdict, reason, told)


def _verdict(effect: PairedDifference, published: float, number: Published, plan: Plan) -> str:
    verdict = str(replication(effect, published, MARGIN * abs(published)))
    margin = plan.sweep.margin.get("leaderboard")
    if number.judge == "lm_eval_harness" and margin:
        verdict += f"; {equivalence(effect, margin)} (within {margin:g})"
    return verdict


def _same(number: Published, ours: Estimate, arms: Sequence[Arm]) -> str:
    """Of the authors' own outputs a number must come out as it was printed."""
    if arms[0].rows[0].config.generation.source is not GenerationSource.file:
        return ""
    digits = len(f"{number.value!r}".partition(".")[2].rstrip("0"))
    # a count or AlpacaEval's length is printed cut to an integer
    equal = (
        {round(ours.value, digits), math.trunc(ours.value)} if digits == 0 else {round(ours.value, digits)}
    )
    return "same" if number.value in equal else "differs"


def _hole(arms: Sequence[Arm]) -> str:
    holes = [f"{stage}: {why}" for arm in arms for row in arm.rows for stage, why in row.holes.items()]
    return holes[0] if holes else "these runs do not measure it"


def shared_differences(beside: Sequence[Beside]) -> list[str]:
    """Differences that hold for every row that a run stands beside."""
    matched = [one.differences for one in beside if one.differences is not None]
    counts = Counter(told for differences in matched for told in differences)
    return [told for told, count in counts.items() if count == len(matched)]


def paper_table(plan: Plan, beside: Sequence[Beside]) -> Table:
    """The paper's artifact with ours beside it, rounded for printing."""
    shared = shared_differences(beside)
    marks = _marks(beside, shared)
    notes = [
        "In brackets: 95 % intervals. Effects are differences from plain fine-tuning (SFT) on the same items.",
        "The paper has one run per cell and prints no intervals; at 805 instructions an effect of its own is known to "
        "about 4 points, which the verdict does not count.",
        *(told for word, told in VERDICTS.items() if any(word in one.verdict for one in beside)),
    ]  # fmt: skip
    if shared:
        notes.append("Differs from the paper in every row: " + "; ".join(shared) + ".")
    notes += [f"{mark}: {told}." for told, mark in marks.items()]
    lines = [_line(one, marks) for one in beside]
    return Table(f"The paper beside ours: {plan.sweep.paper}", HEADER, lines, notes)


VERDICTS = {
    "reproduced": (
        "Reproduced: our interval holds the paper's effect and not zero, and our effect is within "
        f"{MARGIN:.0%} of the paper's."
    ),
    "inconclusive": "Inconclusive: our interval holds the paper's effect, and zero or an effect far from the paper's.",
    "outside": "Outside: our interval excludes the paper's effect.",
    "same": "Same: to every printed digit. Differs: not so.",
}
"""What the words of the column mean; same and differs stand beside the authors' own outputs."""


def _marks(beside: Sequence[Beside], shared: Sequence[str]) -> dict[str, str]:
    """A letter for every difference that is not everybody's, in the order of the rows."""
    every = dict.fromkeys(told for one in beside for told in one.differences or [] if told not in shared)
    return {told: _letters(number) for number, told in enumerate(every)}


def _letters(number: int) -> str:
    """Letters in order: a to z, aa, ab and on."""
    more, place = divmod(number, 26)
    return (_letters(more - 1) if more else "") + chr(ord("a") + place)


def _line(one: Beside, marks: Mapping[str, str]) -> list[str]:
    number, effect = one.published, one.effect
    judge = f" ({number.judge})" if number.judge and number.judge != "lm_eval_harness" else ""
    suspect = "the paper's number is suspect (see numbers.csv)" if "SUSPECT" in number.note else ""
    letters = " ".join(marks[told] for told in one.differences or [] if told in marks)
    return [
        number.label,
        f"{number.metric}{judge}",
        f"{'≈ ' if number.note.startswith('chart transcription') else ''}{number.value:g}",
        _shown(one.ours),
        "" if one.published_effect is None else f"{one.published_effect:+g}",
        "" if effect is None else rounded(effect.value, effect.low, effect.high),
        one.verdict,
        "; ".join(filter(None, [one.reason, suspect, letters])),
    ]


def _shown(ours: Estimate | None) -> str:
    if ours is None:
        return "–"
    return f"{ours.value:.6g}" if math.isnan(ours.low) else rounded(ours.value, ours.low, ours.high)


COLUMNS = (
    "artifact", "model", "dataset", "method", "variant", "noise", "alpha", "metric", "judge", "unit", "paper", "ours",
    "ours_low", "ours_high", "effect_paper", "effect_ours", "effect_ours_low", "effect_ours_high", "verdict", "reason",
    "differences", "note",
)  # fmt: skip


def to_full_csv(beside: Sequence[Beside]) -> str:
    """One line per published number, in full precision; differences are separated by semicolons."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_full_line(one) for one in beside)
    return text.getvalue()


def _full_line(one: Beside) -> list[str]:
    number, ours, effect = one.published, one.ours, one.effect
    return [
        number.artifact, number.model, number.dataset, number.method, "=".join(number.variant or ()), number.noise,
        _full(number.alpha), number.metric, number.judge, number.unit, _full(number.value),
        *(_full(value) for value in ((ours.value, ours.low, ours.high) if ours else (None,) * 3)),
        _full(one.published_effect),
        *(_full(value) for value in ((effect.value, effect.low, effect.high) if effect else (None,) * 3)),
        one.verdict, one.reason, "; ".join(one.differences or []), number.note,
    ]  # fmt: skip


def _full(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(float(value))


def write_paper(plan: Plan, beside: Sequence[Beside], folder: Path) -> None:
    """Write paper.md and paper.tex, rounded, and paper.csv in full precision."""
    table = paper_table(plan, beside)
    write_text(folder / "paper.md", to_markdown([table]))
    write_text(folder / "paper.tex", to_latex([table]))
    write_text(folder / "paper.csv", to_full_csv(beside))
