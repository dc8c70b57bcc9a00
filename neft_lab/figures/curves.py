"""Metrics against the noise scale, and win rate against the length it may come from."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from neft_lab.claims.comparisons import Arm
from neft_lab.claims.labels import axis_title, name_of, title_of
from neft_lab.claims.results import shown
from neft_lab.figures.panels import Layout, Line, Scale, split_panels, title_panels
from neft_lab.figures.style import (
    PAPER,
    Figure,
    add_legend,
    capital,
    finish,
    interval_reach,
    make_panels,
    open_canvas,
)
from neft_lab.statistics import Estimate


def draw_alpha_curve(arms: Sequence[Arm], metric: str, *, axis: str = "noise.alpha") -> Figure:
    """Draw a metric against an axis with 95 % intervals; lines join the values of a numeric axis only."""
    scale = Scale.of(arms, axis)
    panels = split_panels(arms, scale)
    layout = Layout.of(panels)
    with open_canvas(layout.width, layout.height) as canvas:
        places = make_panels(canvas, layout.rows, layout.columns)
        for axes, panel in zip(places, panels, strict=False):
            for number, line in enumerate(panel.lines):
                x = [scale.place(arm) + scale.shift(number, len(panel.lines)) for arm in line.arms]
                _draw_line(axes, line, x, [arm.estimates[metric] for arm in line.arms], joined=scale.numeric)
            scale.label(axes)
            axes.set_ylabel(title_of(metric))
        add_legend(canvas, title_panels(places, panels))
        title = f"{capital(name_of(metric))} against {axis_title(axis)}"
        return finish(canvas, f"{metric}_curve", title=title, caption="Bars: 95 % intervals.")


def draw_length_scatter(
    arms: Sequence[Arm],
    *,
    metric: str = "win_rate",
    length: str = "output_characters",
    axis: str = "noise.alpha",
) -> Figure:
    """Draw a win rate against output length.

    Points carry their value on the axis; where several lines may cross, only the first of each is marked, hollow.
    """
    scale = Scale.of(arms, axis)
    panels = split_panels(arms, scale)
    layout = Layout.of(panels)
    named = not scale.numeric or max(len(panel.lines) for panel in panels) == 1
    with open_canvas(layout.width, layout.height) as canvas:
        places = make_panels(canvas, layout.rows, layout.columns)
        for axes, panel in zip(places, panels, strict=False):
            for line in panel.lines:
                x = [arm.estimates[length] for arm in line.arms]
                y = [arm.estimates[metric] for arm in line.arms]
                _draw_line(axes, line, [one.value for one in x], y, joined=scale.numeric, across=x)
                mark = _name_points if named else _mark_first
                mark(axes, line, x, y, axis)
            axes.set_xlabel(title_of(length))
            axes.set_ylabel(title_of(metric))
            axes.margins(0.12)
        add_legend(canvas, title_panels(places, panels))
        told = f"At the points: {axis_title(axis)}." if named else f"Hollow: the smallest {axis_title(axis)}."
        title = f"{capital(name_of(metric))} against output length"
        return finish(canvas, f"{metric}_by_length", title=title, caption=f"{told} Bars: 95 % intervals.")


def _draw_line(
    axes: Axes,
    line: Line,
    x: Sequence[float],
    y: Sequence[Estimate],
    *,
    joined: bool,
    across: Sequence[Estimate] | None = None,
) -> None:
    axes.errorbar(
        x, [one.value for one in y], yerr=interval_reach(y), xerr=interval_reach(across) if across else None,
        color=line.color, marker=line.marker, markeredgecolor=PAPER, markeredgewidth=0.5,
        linestyle="-" if joined else "none", elinewidth=1.0, label=line.label,
    )  # fmt: skip


def _name_points(axes: Axes, line: Line, x: Sequence[Estimate], y: Sequence[Estimate], axis: str) -> None:
    """Names stand above to the left and below to the right in turn, clear of a rising line."""
    for number, (arm, across, up) in enumerate(zip(line.arms, x, y, strict=True)):
        if math.isfinite(across.value + up.value):
            axes.annotate(
                shown(arm.axes.get(axis)), (across.value, up.value), textcoords="offset points",
                xytext=(4, -11) if number % 2 else (-4, 4), ha="left" if number % 2 else "right",
                fontsize=7.5, color=line.color,
            )  # fmt: skip


def _mark_first(axes: Axes, line: Line, x: Sequence[Estimate], y: Sequence[Estimate], axis: str) -> None:
    axes.plot(
        [x[0].value], [y[0].value], marker=line.marker, color=line.color, markerfacecolor=PAPER, zorder=5
    )
