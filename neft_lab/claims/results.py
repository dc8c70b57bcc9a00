"""Records to one row per cell: metrics, folders, holes and on what they were made. Read anew every time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neft_lab.execute import Status
from neft_lab.paths import without_folders
from neft_lab.plan import Cell, Plan
from neft_lab.store import read_json

CONTROL = "control"
"""The axis on which controls stand in tables."""


@dataclass(frozen=True)
class CellResult:
    """What is known of one cell.

    metrics: flat numbers of all its finished steps. folders: finished steps' folders by stage. holes: stage or task ->
    why there is nothing. records: stage -> record.json.
    """

    axes: dict[str, Any]
    baseline: dict[str, Any] | None
    added: bool
    keys: dict[str, str]
    config: Any
    metrics: dict[str, float] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    holes: dict[str, str] = field(default_factory=dict)
    arms: tuple[str, ...] = ()
    """The tuned arms (``sweep.select``) of which this is a try."""
    choosing_share: float | None = None
    """The share of the instructions that chose this cell and do not count in what it reports; None: all count."""
    control: str = ""
    """The control of which this is a cell; it stands on an axis of that name."""

    @property
    def label(self) -> str:
        """The axis values in one line."""
        return ", ".join(f"{name}={shown(value)}" for name, value in self.axes.items()) or "run"


def shown(value: Any) -> str:
    """An axis value as tables print it: 5.0 and 5 alike."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def load_results(plan: Plan, status: Status) -> list[CellResult]:
    """One row per cell of the plan, in its order."""
    records: dict[str, dict[str, Any]] = {}
    return [_cell_result(cell, plan, status, records) for cell in plan.cells]


def _cell_result(cell: Cell, plan: Plan, status: Status, records: dict[str, dict[str, Any]]) -> CellResult:
    axes = cell.axes | ({CONTROL: cell.control} if cell.control else {})
    row = CellResult(axes, cell.baseline, cell.added, dict(cell.keys or {}), cell.config, arms=cell.arms,
                     control=cell.control)  # fmt: skip
    for stage, key in row.keys.items():
        if key in status.done:
            if key not in records:
                records[key] = read_json(status.done[key] / "record.json")
            row.folders[stage] = status.done[key]
            row.records[stage] = records[key]
            row.metrics.update(records[key]["metrics"])
            if stage == "leaderboard":
                row.holes.update(read_json(status.done[key] / "results.json")["holes"])
        else:
            row.holes[stage] = _reason(key, plan, status)
    row.holes.update({stage: without_folders(reason) for stage, reason in row.holes.items()})
    return row


def _reason(key: str, plan: Plan, status: Status) -> str:
    if key in status.failed:
        return str(status.failed[key].get("message", "failed"))
    for needed in plan.steps[key].needs.values():
        if needed not in status.done:
            return f"{plan.steps[needed].stage}: {_reason(needed, plan, status)}"
    return "not run yet"


def metric_names(rows: Sequence[CellResult], *, first: str) -> list[str]:
    """All metrics of some cells, the sweep's primary one first; bounds and counts of a metric are not metrics."""
    every = dict.fromkeys(name for row in rows for name in row.metrics)
    ends = ("_low", "_high", "_n", "_standard_error")
    names = [name for name in every if not (name.endswith(ends) and _stem(name, ends) in every)]
    return sorted(names, key=lambda name: (name != first, names.index(name)))


def _stem(name: str, ends: Sequence[str]) -> str:
    return next(name.removesuffix(end) for end in ends if name.endswith(end))


def find_cell(rows: Sequence[CellResult], axes: Mapping[str, Any]) -> CellResult | None:
    """The row with exactly these axis values."""
    return next((row for row in rows if row.axes == axes), None)
