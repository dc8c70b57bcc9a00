"""Axis values that are files, told by their names: tables are the same wherever the files lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import PurePath
from typing import Any

from neft_lab.paths import is_path
from neft_lab.plan import Plan


def name_files(plan: Plan) -> Plan:
    """The plan with every path among the axis values cut to its name, or to as much as tells it from the others."""
    names = short_names({value for cell in plan.cells for value in cell.axes.values() if is_path(value)})
    if not names:
        return plan
    cells = [
        replace(cell, axes=_renamed(cell.axes, names), baseline=_renamed(cell.baseline, names))
        for cell in plan.cells
    ]
    return replace(plan, cells=cells, sweep=_renamed(plan.sweep, names))


def short_names(paths: set[str]) -> dict[str, str]:
    """Path -> its last parts, as many as tell all of them apart."""
    parts = {path: PurePath(path).parts for path in paths}
    for count in range(1, max(map(len, parts.values()), default=0) + 1):
        found = {path: "/".join(part[-count:]).lstrip("/") for path, part in parts.items()}
        if len(set(found.values())) == len(found):
            return found
    return {path: path for path in paths}


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, Mapping):
        return {name: _renamed(item, names) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_renamed(item, names) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{item.name: _renamed(getattr(value, item.name), names) for item in fields(value)}
        )
    return value
