"""What a plan would do, and why: the plan with its state, and each stale step beside its nearest finished one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from neft_lab.claims.labels import varying_axes
from neft_lab.claims.results import CellResult, load_results
from neft_lab.config import identity
from neft_lab.execute import Status
from neft_lab.plan import Cell, Plan, Step
from neft_lab.plan.confounding import find_confounding
from neft_lab.stages import STAGES
from neft_lab.store import Store, read_json

if TYPE_CHECKING:
    from neft_lab.budget import Budget, SmallestDifference


Foreseen = tuple["Budget", "SmallestDifference | str | None"]
"""What the missing part of a plan will take, and the smallest difference that the plan can see."""


def foresee(plan: Plan, status: Status, store: Store) -> Foreseen:
    """Estimate the missing part of a plan, and what the whole can show."""
    from neft_lab.budget import estimate_budget, foresee_difference

    return estimate_budget(plan, status, store), foresee_difference(plan, _reported(plan, status))


def print_plan(plan: Plan, status: Status, foreseen: Foreseen, console: Console) -> None:
    """Cells and steps by stage with their state, what the missing ones will take, and what the plan can show."""
    from neft_lab.budget.words import budget_lines, stage_seconds

    budget, smallest = foreseen
    table = Table(
        title=f"{plan.name}: {len(plan.cells)} cells, {len(plan.steps)} steps", title_justify="left"
    )
    for name in ("stage", "steps", "done", "missing", "failed", "left"):
        table.add_column(name)
    for stage in STAGES:
        steps = [step for step in plan.steps.values() if step.stage == stage]
        if steps:
            missing = [step for step in steps if step.key not in status.done]
            failed = sum(step.key in status.failed for step in missing)
            left = stage_seconds(budget.costs[stage]) if missing else ""
            numbers = (len(steps), len(steps) - len(missing), len(missing), failed)
            table.add_row(stage, *map(str, numbers), left)
    console.print(table)
    print_cells(plan, status, console)
    lines = [f"confounded: {line}" for line in find_confounding(plan.cells)]
    if status.missing:
        lines += ["The missing part is expected to take (an estimate):"]
    lines += budget_lines(budget, plan.settings.budget, smallest)
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _reported(plan: Plan, status: Status) -> list[CellResult]:
    from neft_lab.claims.selection import select_best

    rows = load_results(plan, status) if status.done else []
    selection = select_best(rows, plan.sweep) if rows else None
    return rows if selection is None else selection.winners


def print_cells(plan: Plan, status: Status, console: Console) -> None:
    """A line per cell with what varies among them; what all share stands above."""
    varying = varying_axes([cell.axes for cell in plan.cells]) or list(plan.cells[0].axes)
    shared = {name: value for name, value in plan.cells[0].axes.items() if name not in varying}
    if shared:
        console.print(Text(f"all cells: {_axes(shared)}"), soft_wrap=True)
    for cell in plan.cells[:40]:
        label = _axes({name: cell.axes[name] for name in varying if name in cell.axes}) or "run"
        mark = " (baseline, added)" if cell.added else ""
        mark += f" (control {cell.control})" if cell.control else ""
        tried = f" (a try of {', '.join(cell.arms)})" if cell.arms else ""
        console.print(Text(f"{label}{mark}{tried}: {_states(cell, plan, status)}"), soft_wrap=True)
    if len(plan.cells) > 40:
        console.print(f"... and {len(plan.cells) - 40} more cells, all in plan.json", highlight=False)
    for key, error in status.failed.items():
        step = plan.steps[key]
        console.print(Text(f"{step.stage} {step.name} failed last time: {error.get('message')}", style="red"))


def _axes(axes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in axes.items())


def _states(cell: Cell, plan: Plan, status: Status) -> str:
    """The stages of a cell by their state: "missing", or "train done; generate, judge missing"."""
    stages: dict[str, list[str]] = {}
    for stage, key in (cell.keys or {}).items():
        stages.setdefault(status.of(plan.steps[key]), []).append(stage)
    if len(stages) == 1:
        return next(iter(stages))
    return "; ".join(f"{', '.join(names)} {state}" for state, names in stages.items())


def print_explanation(plan: Plan, status: Status, store: Store, console: Console) -> None:
    """Why each step is done or not, field by field against the finished step that is nearest to it."""
    records: dict[str, list[dict[str, Any]]] = {}
    for (stage, _), folder in store.done().items():
        records.setdefault(stage, []).append(_comparable(read_json(folder / "record.json")))
    for step in plan.steps.values():
        head = f"{step.stage:<12} {step.key} {step.name}"
        if step.key in status.done:
            console.print(Text(f"{head}: done, {_shorten(status.done[step.key], store)}"), soft_wrap=True)
            continue
        console.print(Text(f"{head}: {status.of(step)}"), soft_wrap=True)
        for line in _reasons(step, records.get(step.stage, []), status):
            console.print(Text(f"    {line}"), soft_wrap=True)


def _shorten(folder: Path, store: Store) -> str:
    return f"{store.root}/{folder.relative_to(store.root)}"


def _reasons(step: Step, finished: list[dict[str, Any]], status: Status) -> list[str]:
    if step.key in status.failed:
        return [f"failed: {status.failed[step.key].get('message')}"]
    if not finished:
        return [f"no {step.stage} step has ever been finished here"]
    asked = _asked(step)
    changes = min((list(differing(record, asked)) for record in finished), key=len)
    return changes or ["equal to a finished step but for its version"]


def _asked(step: Step) -> dict[str, Any]:
    return {
        "version": step.version,
        "config": {name: identity(getattr(step.inputs, name)) for name in vars(step.inputs)},
        "needs": dict(step.needs),
        "sources": {name: source.identity for name, source in step.sources.items() if source.keyed},
    }


def _comparable(record: dict[str, Any]) -> dict[str, Any]:
    from neft_lab.sources import Source

    told = {name: Source(**source) for name, source in record["sources"].items()}
    sources = {name: source.identity for name, source in told.items() if source.keyed}
    return {name: record[name] for name in ("version", "config", "needs")} | {"sources": sources}


def differing(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Lines ``field: old -> new`` for every field of the new value that differs."""
    if isinstance(new, Mapping):
        for name, value in new.items():
            inner = old.get(name) if isinstance(old, Mapping) else None
            yield from differing(inner, value, f"{path}.{name}" if path else name)
    elif old != new:
        yield f"{path.removeprefix('config.')}: {_brief(old)} -> {_brief(new)}"


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
