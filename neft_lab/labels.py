"""Short names for cells, arms and axes, as figures and the report print them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from neft_lab.results import shown

AXES = {"noise.alpha": "noise scale α"}


def axis_title(name: str) -> str:
    """What stands below an axis: ``noise.alpha`` is the paper's alpha, others lose their group."""
    return AXES.get(name, name.rsplit(".", 1)[-1].replace("_", " "))


def varying_axes(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Axes that take more than one value, in the order of the points."""
    names = dict.fromkeys(name for point in points for name in point)
    return [name for name in names if len({shown(point.get(name)) for point in points}) > 1]


def short_label(point: Mapping[str, Any], axes: Sequence[str]) -> str:
    """The values of some axes: names stand alone, numbers with the name of their axis ("starter, α 5, seed 0")."""
    return ", ".join(_value(name, point[name]) for name in axes if name in point)


def short_labels(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Labels that tell points apart by what varies among them; a point alone is called "run"."""
    axes = varying_axes(points)
    return [short_label(point, axes) or "run" for point in points]


def _value(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{'α' if name == 'noise.alpha' else axis_title(name)} {shown(value)}"
