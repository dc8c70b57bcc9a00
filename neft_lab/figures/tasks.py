"""Scores on the OpenLLM leaderboard's tasks (the paper's figure 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from neft_lab.claims.comparisons import Arm
from neft_lab.claims.labels import name_of, short_label
from neft_lab.figures.panels import Line, Scale, split_panels, title_panels
from neft_lab.figures.style import (
    INK,
    MUTED,
    PAGE,
    Figure,
    add_legend,
    finish,
    interval_reach,
    make_panels,
    open_canvas,
    shades,
)


def draw_task_bars(arms: Sequence[Arm], tasks: Sequence[str], *, axis: str = "noise.alpha") -> Figure:
    """Draw task scores in percent as groups of bars from zero, one bar per value of the axis."""
    scale = Scale.of(arms, axis)
    panels = split_panels(arms, scale, coloured=False)
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    with open_canvas(PAGE, 1.7 * rows + 0.5) as canvas:
        places = make_panels(canvas, rows, columns)
        for axes, panel in zip(places, panels, strict=False):
            _draw_bars(axes, panel.lines[0], tasks, scale)
            axes.set_xticks(range(len(tasks)), [name_of(task) for task in tasks])
            axes.tick_params(axis="x", length=0)
            axes.set_ylabel("score %")
        add_legend(canvas, title_panels(places, panels))
        caption = "Bars start at zero. Thin lines: 95 % intervals."
        return finish(canvas, "tasks", title="Leaderboard tasks", caption=caption)


def _draw_bars(axes: Axes, line: Line, tasks: Sequence[str], scale: Scale) -> None:
    """Every value of the axis keeps its place and its shade in all panels."""
    order = sorted(scale.places.values())
    colors, width = shades(len(order)), 0.8 / len(order)
    for arm in line.arms:
        place = order.index(scale.place(arm))
        estimates = [arm.estimates[task] for task in tasks]
        axes.bar(
            [task + (place - (len(order) - 1) / 2) * width for task in range(len(tasks))],
            [one.value for one in estimates], 0.92 * width, yerr=interval_reach(estimates),
            color=colors[place], edgecolor=INK, linewidth=0.4,
            ecolor=MUTED, error_kw={"elinewidth": 0.9}, label=short_label(arm.axes, [scale.axis]),
        )  # fmt: skip
