"""Cells of a paper sweep with verdicts made up by hand, as the steps would have left them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from neft_lab.claims.results import CellResult
from neft_lab.config import UserError
from neft_lab.metrics import mean_metrics
from neft_lab.paper import Beside, set_beside
from neft_lab.plan import Plan, make_plan
from neft_lab.statistics import win_rate
from neft_lab.store import write_json


def judged(cell: CellResult, wins: Sequence[bool], folder: Path) -> CellResult:
    """The cell with one verdict per instruction."""
    folder.mkdir(parents=True)
    preferences = [2.0 if won else 1.0 for won in wins]
    rows: list[dict[str, Any]] = [
        {"instruction": f"i{number}", "output_1": "r", "output_2": "o", "preference": preference}
        for number, preference in enumerate(preferences)
    ]
    write_json(folder / "annotations.json", rows)
    estimate = win_rate(preferences)
    cell.folders["judge"] = folder
    cell.metrics.update({"win_rate": estimate.value, "win_rate_low": estimate.low, "win_rate_high": estimate.high,
                         "win_rate_n": float(estimate.n)})  # fmt: skip
    return cell


def described(cell: CellResult, characters: Sequence[int], folder: Path) -> CellResult:
    """The cell with one described output per instruction."""
    folder.mkdir(parents=True)
    write_json(folder / "texts.json", [{"instruction": f"i{number}", "characters": length}
                                       for number, length in enumerate(characters)])  # fmt: skip
    cell.folders["describe"] = folder
    cell.metrics.update(mean_metrics("mean_characters", list(characters)))
    return cell


def cells_of(plan: Plan) -> list[CellResult]:
    """The plan's cells with nothing done yet."""
    return [
        CellResult(cell.axes, cell.baseline, cell.added, dict(cell.keys or {}), cell.config, arms=cell.arms)
        for cell in plan.cells
    ]


@cache
def plan_of(artifact: str, *more: str) -> Plan:
    return make_plan([f"+sweep=paper_{artifact}", *more])


def find(beside: Sequence[Beside], label: str, metric: str = "win_rate", judge: str | None = None) -> Beside:
    """The row of a number by its label, as the table prints it."""
    found = [
        one for one in beside
        if one.published.label == label and one.published.metric == metric and judge in (None, one.published.judge)
    ]  # fmt: skip
    if len(found) != 1:
        raise UserError(f"{label}, {metric}: {len(found)} rows")
    return found[0]


__all__ = ["cells_of", "described", "find", "judged", "plan_of", "set_beside"]
