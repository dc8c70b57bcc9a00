"""Run what a plan lacks: freeze each missing step, hand them to the engine, leave the rest alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neft_lab.engines import Reporter, make_engine
from neft_lab.plan import Plan, Step
from neft_lab.store import Store, read_json, write_json


@dataclass(frozen=True)
class Status:
    """How a plan stands: folders of finished steps by key, errors of failed ones, and the rest."""

    done: Mapping[str, Path]
    failed: Mapping[str, dict[str, Any]]
    missing: list[Step]
    """All steps without a record, failed ones included, upstream first."""

    def of(self, step: Step) -> str:
        if step.key in self.done:
            return "done"
        return "failed" if step.key in self.failed else "missing"


def read_status(plan: Plan, store: Store) -> Status:
    """Compare a plan with the results folder."""
    found = store.done()
    done = {key: found[step.stage, key] for key, step in plan.steps.items() if (step.stage, key) in found}
    missing = [step for step in plan.steps.values() if step.key not in done]
    errors = {step.key: store.error(step.stage, step.key) for step in missing}
    return Status(done, {key: error for key, error in errors.items() if error is not None}, missing)


def execute(plan: Plan, store: Store, reporter: Reporter) -> Status:
    """Run the missing steps of a plan, and say how it then stands."""
    status = read_status(plan, store)
    if status.missing:
        for step in status.missing:
            freeze(step, store)
        make_engine(plan.settings.engine.kind.name).run(status.missing, store, reporter)
        status = read_status(plan, store)
    return status


def freeze(step: Step, store: Store) -> None:
    """Write step.json into the step's work folder; what an earlier try left there stays."""
    path = store.work(step.stage, step.key) / "step.json"
    frozen = step.as_json()
    if not path.is_file() or _differs(path, frozen):
        write_json(path, frozen)


def _differs(path: Path, frozen: dict[str, Any]) -> bool:
    try:
        return bool(read_json(path) != frozen)
    except ValueError:
        return True


def write_plan(plan: Plan, status: Status, folder: Path, *, budget: Mapping[str, Any]) -> None:
    """plan.json: cells with their axes and step keys, steps with their state, how many are missing, and their budget."""
    steps = [
        {"stage": step.stage, "key": step.key, "name": step.name, "status": status.of(step),
         "needs": list(step.needs.values())}
        for step in plan.steps.values()
    ]  # fmt: skip
    cells = [
        {"axes": cell.axes, "steps": dict(cell.keys or {}), "added": cell.added}
        | ({"control": cell.control} if cell.control else {})
        for cell in plan.cells
    ]
    write_json(
        folder / "plan.json",
        {
            "sweep": plan.name,
            "cells": cells,
            "steps": steps,
            "missing": len(status.missing),
            "budget": budget,
        },
    )
