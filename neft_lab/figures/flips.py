"""How many tokens noise turns into others (the paper's figure 6)."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from neft_lab.claims.comparisons import Arm
from neft_lab.claims.labels import short_label
from neft_lab.claims.results import CellResult
from neft_lab.figures.panels import Layout, Scale, split_panels, title_panels
from neft_lab.figures.style import (
    MARKERS,
    PALETTE,
    PAPER,
    Figure,
    add_legend,
    finish,
    make_panels,
    open_canvas,
)
from neft_lab.store import read_json

CAPTION = (
    "Share of tokens of training rows whose nearest vocabulary row changes under the paper's noise, in the trained "
    "models. Hollow: under the noise of the training itself, at its equivalent α, before it began."
)


def draw_flip_curves(arms: Sequence[Arm], *, axis: str = "noise.alpha") -> Figure:
    """Draw the share of changed tokens against the noise scale, from ``flips.json``; seeds are added up."""
    panels = split_panels(arms, Scale.of(arms, axis), coloured=False)
    layout = Layout.of(panels)
    with open_canvas(layout.width, layout.height) as canvas:
        places = make_panels(canvas, layout.rows, layout.columns)
        for axes, panel in zip(places, panels, strict=False):
            axes.set_xscale("log")
            axes.minorticks_off()
            for number, arm in enumerate(panel.lines[0].arms):
                _draw_curve(axes, arm, number % len(PALETTE), short_label(arm.axes, [axis]))
            axes.set_xlabel("noise scale α")
            axes.set_ylabel("changed tokens %")
        add_legend(canvas, title_panels(places, panels))
        return finish(canvas, "flips", title="Tokens that noise turns into others", caption=CAPTION)


def _draw_curve(axes: Axes, arm: Arm, place: int, label: str) -> None:
    counts = [read_json(row.folders["analyze"] / "flips.json") for row in arm.rows if has_flips(row)]
    if not counts:
        return
    tokens = sum(count["tokens"] for count in counts)
    points = [(alpha, 100 * sum(count["changed"][at] for count in counts) / tokens)
              for at, alpha in enumerate(counts[0]["alphas"]) if alpha > 0]  # fmt: skip
    x, y = zip(*points, strict=True)
    axes.plot(x, y, color=PALETTE[place], marker=MARKERS[place], markeredgecolor=PAPER, markeredgewidth=0.5,
              label=label)  # fmt: skip
    axes.set_xticks(x, [f"{alpha:g}" for alpha in x])
    metrics = arm.rows[0].metrics
    if metrics.get("equivalent_alpha", 0) > 0 and "changed_token_share" in metrics:
        axes.plot([metrics["equivalent_alpha"]], [metrics["changed_token_share"]], color=PALETTE[place],
                  marker=MARKERS[place], markersize=7, markerfacecolor="none", linestyle="none")  # fmt: skip


def has_flips(row: CellResult) -> bool:
    """Whether a cell's analysis looked tokens up."""
    return "analyze" in row.folders and (row.folders["analyze"] / "flips.json").is_file()
