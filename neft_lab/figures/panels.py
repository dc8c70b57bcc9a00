"""Which arms share a panel and a line, and where the values of an axis lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from neft_lab.claims.comparisons import Arm
from neft_lab.claims.labels import axis_title, short_label, varying_axes
from neft_lab.claims.results import shown
from neft_lab.figures.style import COLUMN, MARKERS, PAGE, PALETTE, set_title


@dataclass(frozen=True)
class Line:
    """Arms that differ in the drawn axis alone, and how they are told from other lines."""

    label: str
    color: str
    marker: str
    arms: list[Arm]


@dataclass(frozen=True)
class Panel:
    title: str
    lines: list[Line]


@dataclass(frozen=True)
class Scale:
    """Where the values of an axis lie: numbers at themselves, names side by side in their order."""

    axis: str
    places: dict[str, float]
    numeric: bool

    @classmethod
    def of(cls, arms: Sequence[Arm], axis: str) -> Scale:
        values = {shown(arm.axes.get(axis)): arm.axes.get(axis) for arm in arms}
        numeric = all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in values.values()
        )
        if numeric:
            return cls(axis, {text: float(text) for text in values}, numeric)
        return cls(axis, {text: float(place) for place, text in enumerate(values)}, numeric)

    def place(self, arm: Arm) -> float:
        return self.places[shown(arm.axes.get(self.axis))]

    def shift(self, line: int, lines: int) -> float:
        """A little sideways, so that the intervals of several lines do not cover each other."""
        reach = max(self.places.values()) - min(self.places.values()) if self.numeric else 6.0
        return (line - (lines - 1) / 2) * 0.016 * reach

    def label(self, axes: Axes) -> None:
        axes.set_xlabel(axis_title(self.axis))
        axes.margins(x=0.06)
        if len(self.places) <= 8:
            turned = not self.numeric and sum(map(len, self.places)) > 36
            axes.set_xticks(list(self.places.values()), list(self.places), rotation=30 if turned else 0)


def split_panels(arms: Sequence[Arm], scale: Scale, *, coloured: bool = True) -> list[Panel]:
    """One panel per combination of the axes that vary besides the drawn one; the last of them is told by colour."""
    others = [name for name in varying_axes([arm.axes for arm in arms]) if name != scale.axis]
    by_color = others[-1] if coloured and others and len(_values(arms, others[-1])) <= len(PALETTE) else ""
    others = [name for name in others if name != by_color]
    colors = _values(arms, by_color)
    grouped: dict[str, dict[str, list[Arm]]] = {}
    for arm in arms:
        lines = grouped.setdefault(short_label(arm.axes, others), {})
        lines.setdefault(shown(arm.axes.get(by_color)), []).append(arm)
    return [
        Panel(title, [_line(found, colors.index(color), by_color, scale) for color, found in lines.items()])
        for title, lines in grouped.items()
    ]


def _line(arms: list[Arm], color: int, by_color: str, scale: Scale) -> Line:
    ordered = sorted(arms, key=scale.place)
    return Line(short_label(arms[0].axes, [by_color]), PALETTE[color], MARKERS[color], ordered)


def _values(arms: Sequence[Arm], name: str) -> list[str]:
    return list(dict.fromkeys(shown(arm.axes.get(name)) for arm in arms))


@dataclass(frozen=True)
class Layout:
    """Rows and columns of panels, and their size in inches: one column wide for one panel, a page for more."""

    rows: int
    columns: int
    width: float
    height: float

    @classmethod
    def of(cls, panels: Sequence[Panel]) -> Layout:
        columns = min(3, len(panels))
        rows = math.ceil(len(panels) / columns)
        return cls(rows, columns, COLUMN, 2.4) if columns == 1 else cls(rows, columns, PAGE, 2.0 * rows + 0.4)


def title_panels(places: Sequence[Axes], panels: Sequence[Panel]) -> list[Axes]:
    """Give each panel its place and title, take the empty places away, and label the outer axes only."""
    for axes in places[len(panels) :]:
        axes.remove()
    used = list(places[: len(panels)])
    for axes, panel in zip(used, panels, strict=True):
        set_title(axes, panel.title)
        axes.label_outer()
    return used
