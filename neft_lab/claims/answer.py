"""The sweep's answer in a sentence, made from the test results and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence

from neft_lab.claims.comparisons import JUDGED, LEVEL, Comparison
from neft_lab.claims.labels import axis_title, name_of, short_label, unit_of, varying_axes
from neft_lab.claims.results import CellResult, shown
from neft_lab.config import RunConfig, SweepConfig
from neft_lab.plan.confounding import find_confounding
from neft_lab.tables import rounded

UNJUDGED = "judge not validated"
ARM = "arm"


def answer_sentence(comparisons: Sequence[Comparison], sweep: SweepConfig, rows: Sequence[CellResult]) -> str:
    """What may be said about the primary metric; "cannot tell these apart" is an answer."""
    primary = [one for one in comparisons if one.metric == sweep.primary]
    holes = sum(bool(row.holes) for row in rows)
    ending = f" {holes} of {len(rows)} cells have holes." if holes else ""
    if not primary:
        return f"Nothing is compared on {name_of(sweep.primary)}.{ending}"
    if any(UNJUDGED in one.flags for one in primary):
        return (f"No answer: this judge is not validated, so its {name_of(sweep.primary)} decides nothing. "
                f"{_largest(primary)}{ending}")  # fmt: skip
    found = [one for one in primary if one.verdict in ("higher", "lower")]
    if not found:
        against = _baseline_name(primary)
        return f"No {_things(primary)} can be told apart from {against}. {_largest(primary)}{ending}"
    told = "; ".join(f"{_name(one, primary)} is {one.verdict} by {_size(one)}" for one in found)
    rest = len(primary) - len(found)
    others = f" The other {rest} cannot be told apart from it." if rest else ""
    against = f"Against {_baseline_name(primary)}, on {name_of(sweep.primary)}: {told}"
    return f"{against} ({_corrected(primary)}).{others}{ending}"


def _corrected(primary: Sequence[Comparison]) -> str:
    correction, sizes = primary[0].correction, sorted({one.family for one in primary})
    counted = f"{' and '.join(map(str, sizes))} comparison{'' if sizes == [1] else 's'}"
    families = f"families of {counted}" if sizes[0] < len(primary) else counted
    over = f"{correction}, {LEVEL:.0%}, over {families}"
    return f"exploratory, {over}: some may be false" if correction != "Holm" else over


def _baseline_name(primary: Sequence[Comparison]) -> str:
    names = {one.baseline[ARM] for one in primary if ARM in one.baseline}
    return str(names.pop()) if len(names) == 1 else "the baseline"


def _things(primary: Sequence[Comparison]) -> str:
    return "checkpoint" if primary[0].difference.about == "checkpoints" else "arm"


def _name(one: Comparison, primary: Sequence[Comparison]) -> str:
    """What the arm changes, and in parentheses what else tells it from the other arms, such as its data set."""
    label = ", ".join(
        shown(one.arm[name]) if name == ARM else f"{axis_title(name)} {shown(one.arm[name])}"
        for name in one.changed
    )
    others = [name for name in varying_axes([other.arm for other in primary]) if name not in one.changed]
    place = f" ({short_label(one.arm, others)})" if others else ""
    if one.difference.about == "arms":
        return f"{label}{place}"
    return f"the checkpoint {'of' if one.changed == [ARM] else 'with'} {label}{place}"


def _size(one: Comparison) -> str:
    size = rounded(one.difference.value, one.difference.low, one.difference.high)
    return f"{size} {unit_of(one.metric)}".rstrip()


def _largest(primary: Sequence[Comparison]) -> str:
    known = [one for one in primary if math.isfinite(one.difference.value)]
    if not known:
        return "No two arms have scores on the same items."
    largest = max(known, key=lambda one: abs(one.difference.value))
    return f"The largest difference is {_size(largest)}, for {_name(largest, primary)}."


def warnings_of(comparisons: Sequence[Comparison], rows: Sequence[CellResult]) -> list[str]:
    """What a reader must know before believing the tables."""
    told = dict.fromkeys(flag for one in comparisons for flag in one.flags)
    found = []
    if any(UNJUDGED in one.flags for one in comparisons if one.metric in JUDGED):
        told.pop(UNJUDGED, None)
        found.append("Judge not validated: its agreement with stored verdicts was not shown to beat chance and the "
                     "longer-answer rule. Its win rates show that the machine runs; they decide nothing.")  # fmt: skip
    found += [f"{flag[0].upper()}{flag[1:]}." for flag in told]
    found += [f"Confounded: {line}." for line in find_confounding(_planned(rows))]
    if len({row.axes.get("seed") for row in rows}) == 1 and len(rows) > 1:
        found.append("One seed per arm: differences are between checkpoints, not between ways of training.")
    return found


def _planned(rows: Sequence[CellResult]) -> list[CellResult]:
    """Rows whose configuration is known; a report can be drawn without it."""
    return [row for row in rows if isinstance(row.config, RunConfig)]
