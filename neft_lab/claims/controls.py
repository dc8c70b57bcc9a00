"""Controls of a sweep: whether the tests find what is known to be there, and nothing where nothing is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from neft_lab.claims.arms import PairedRows, pair_rows, without_seed
from neft_lab.claims.comparisons import LEVEL, Comparison, measure
from neft_lab.claims.labels import short_label, title_of, varying_axes
from neft_lab.claims.results import CONTROL, CellResult
from neft_lab.config import SweepConfig
from neft_lab.tables import Table, p_text, rounded

SAME, NOTHING = "same", "no difference"
AGAIN = "A/A"
"""Verdict of a difference between cells that were made alike but for their seeds."""
AS_KNOWN, OTHERWISE = "as known", "not as known"


@dataclass(frozen=True)
class Control:
    """One control with its differences from the baseline by metric, the primary one first; none before it has run."""

    name: str
    expect: str
    differences: list[Comparison]

    @property
    def found(self) -> str:
        """What the test of the primary metric says by itself: same, higher or lower; empty before it has run."""
        if not self.differences:
            return ""
        found = self.differences[0].difference
        if not found.p_value < LEVEL:
            return SAME
        return "higher" if found.value > 0 else "lower"


def read_controls(rows: Sequence[CellResult], sweep: SweepConfig, metrics: Sequence[str]) -> list[Control]:
    """Every control that is among the rows, measured on the metrics, of which the first is the primary one."""
    pairs = [pair for pair in pair_rows(rows) if pair.arm[0].control]
    found = []
    for name in dict.fromkeys(row.control for row in rows if row.control):
        mine = [pair for pair in pairs if pair.arm[0].control == name]
        expect = sweep.controls[name].expect
        bases = [pair.baseline[0].axes for pair in mine]
        places = [short_label(axes, varying_axes(list(map(without_seed, bases)))) for axes in bases]
        found += [
            Control(f"{name} ({place})" if place else name, expect, _measure(pair, rows, sweep, metrics))
            for place, pair in zip(places, mine, strict=True)
        ] or [Control(name, expect, [])]
    return found


def _measure(
    pair: PairedRows, rows: Sequence[CellResult], sweep: SweepConfig, metrics: Sequence[str]
) -> list[Comparison]:
    """The differences of one control; none where the primary metric, the first, is not there."""
    verdict = AGAIN if sweep.controls[pair.arm[0].control].expect == SAME else CONTROL
    every = [measure(pair, metric, rows, sweep) for metric in metrics]
    return [replace(one, verdict=verdict) for one in every if one is not None] if every[0] else []


def beside_effects(comparisons: Sequence[Comparison], controls: Sequence[Control]) -> list[Comparison]:
    """The comparisons of each metric, followed by what the same metric shows where nothing differs."""
    again = [one for control in controls if control.expect == SAME for one in control.differences]
    metrics = dict.fromkeys(one.metric for one in comparisons)
    return [one for metric in metrics for one in (*comparisons, *again) if one.metric == metric]


def control_table(controls: Sequence[Control], sweep: SweepConfig) -> Table:
    """What is known of every control and what was found."""
    rows = [_line(control) for control in controls]
    header = ["control", "known to be", "found", "difference", "items × seeds", "p", "verdict"]
    notes = [
        f"Each against the baseline on {title_of(sweep.primary)}, tested by itself at {LEVEL:.0%}; a control that is "
        "known to be the same is found different once in twenty times."
    ]
    return Table("Controls", header, rows, notes)


def _line(control: Control) -> list[str]:
    if not control.found:
        return [control.name, _told(control.expect), "not run", "–", "–", "–", ""]
    found = control.differences[0].difference
    return [
        control.name, _told(control.expect), _told(control.found), rounded(found.value, found.low, found.high),
        f"{found.n} × {found.seeds}", p_text(found.p_value),
        AS_KNOWN if control.found == control.expect else OTHERWISE,
    ]  # fmt: skip


def control_sentence(controls: Sequence[Control]) -> str:
    """One sentence: how many controls came out as known, and which did not; empty where none has run."""
    ran = [control for control in controls if control.found]
    wrong = [control for control in ran if control.found != control.expect]
    if not ran:
        return ""
    told = f" {len(ran) - len(wrong)} of {len(ran)} controls came out as known."
    for control in wrong:
        told += (
            f" '{control.name}' did not: known to be {_told(control.expect)}, found {_told(control.found)}."
        )
    return told


def _told(answer: str) -> str:
    return NOTHING if answer == SAME else answer
