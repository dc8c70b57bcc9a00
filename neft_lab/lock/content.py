"""What lock.json says: the plan, each step with its origins, its environment and the digests of what it left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from neft_lab.config import RunConfig, plain, role
from neft_lab.execute import Status
from neft_lab.lock.files import (
    Digests,
    digest_of,
    is_weight,
    step_files,
    weight_digest,
    without_places,
)
from neft_lab.plan import Cell, Plan, Step
from neft_lab.plan.names import name_files
from neft_lab.store import read_json, write_text

LOCK = "lock.json"
SCHEMA = 1
NOT_LOCKED = (LOCK, "plan.json")
"""Files of a sweep's folder that the lock holds no digest of; the lock is the plan as it was carried out."""
PARTS = tuple(
    item.name for item in fields(RunConfig) if role(RunConfig, item.name) == "key" and item.name != "seed"
)
BESIDE = ("seed", "scale", "paper")
"""Values of a run that stand beside its parts."""


def write_lock(plan: Plan, status: Status, folder: Path, *, command: str) -> None:
    """Write lock.json beside the tables; the file is left alone where nothing has changed.

    command: what gives these tables, on any machine.

    A step that the former lock holds with the same record keeps the digests it had, so that a change since then is
    found, and weights that were removed stay named.
    """
    path = folder / LOCK
    former = read_lock(path)
    text = _text(make_lock(plan, status, folder, former, command))
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def read_lock(path: Path) -> dict[str, Any]:
    """What a lock file says; nothing where there is none, or none of this schema."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("schema") == SCHEMA else {}


def _text(lock: Mapping[str, Any]) -> str:
    return json.dumps(lock, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def make_lock(
    plan: Plan, status: Status, folder: Path, former: Mapping[str, Any], command: str
) -> dict[str, Any]:
    """The lock of a plan as it stands, as JSON types without folders of this machine."""
    named, tables = name_files(plan), _Tables()
    known = {step["key"]: step for step in former.get("steps", [])}
    told = {
        "schema": SCHEMA,
        "sweep": plan.name,
        "command": command,
        "comparison": plain(named.sweep),
        "cells": [_cell(cell, tables) for cell in named.cells],
        "steps": [_step(step, status, known.get(step.key), tables) for step in plan.steps.values()],
    }
    published = {
        name: digest_of(folder / name)
        for name in step_files(folder)
        if name not in NOT_LOCKED and not any(part.startswith(".") for part in name.split("/"))
    }
    shared: dict[str, Any] = without_places(told | tables.lists)
    return shared | {"published": published}


class _Tables:
    """Distinct values, each written once and referred to by its number."""

    def __init__(self) -> None:
        self.lists: dict[str, list[Any]] = {name: [] for name in (*PARTS, "environments", "packages")}
        self._numbers: dict[tuple[str, str], int] = {}
        self._seen: dict[tuple[str, int], tuple[Any, int]] = {}

    def number(self, name: str, value: Any) -> int:
        text = json.dumps(value, sort_keys=True)
        if (name, text) not in self._numbers:
            self._numbers[name, text] = len(self.lists[name])
            self.lists[name].append(value)
        return self._numbers[name, text]

    def part(self, name: str, value: Any) -> int:
        """A part of a configuration; cells share parts, which are written out once."""
        if (name, id(value)) not in self._seen:
            self._seen[name, id(value)] = (value, self.number(name, plain(value)))
        return self._seen[name, id(value)][1]


def _cell(cell: Cell, tables: _Tables) -> dict[str, Any]:
    return {
        "axes": cell.axes,
        "baseline": cell.baseline,
        "added": cell.added,
        "arms": list(cell.arms),
        "control": cell.control,
        "steps": dict(cell.keys or {}),
        "parts": {name: tables.part(name, getattr(cell.config, name)) for name in PARTS},
        **{name: plain(getattr(cell.config, name)) for name in BESIDE},
    }


def _step(step: Step, status: Status, known: Mapping[str, Any] | None, tables: _Tables) -> dict[str, Any]:
    head = {"stage": step.stage, "name": step.name, "key": step.key, "needs": dict(step.needs)}
    if step.key not in status.done:
        message = (
            {"message": status.failed[step.key].get("message", "failed")} if step.key in status.failed else {}
        )
        return head | {"status": status.of(step)} | message
    folder = status.done[step.key]
    record = read_json(folder / "record.json")
    environment = record["environment"] | {
        "commit": record.get("commit"),
        "packages": tables.number("packages", record.get("packages", {})),
    }
    return head | {
        "status": "done",
        "version": record["version"],
        "sources": record["sources"],
        "resolved": record.get("resolved", {}),
        "started": record["started"],
        "seconds": record["seconds"],
        "environment": tables.number("environments", environment),
        **_digests(folder, known),
    }


def _digests(folder: Path, known: Mapping[str, Any] | None) -> dict[str, Digests]:
    record = digest_of(folder / "record.json")
    if known is not None and known.get("files", {}).get("record.json") == record:
        return {"files": known["files"], "weights": known["weights"]}
    names = list(step_files(folder))
    return {
        "files": {name: digest_of(folder / name) for name in names if not is_weight(name)},
        "weights": {name: weight_digest(folder / name) for name in names if is_weight(name)},
    }
