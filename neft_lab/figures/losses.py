"""How well a model knows its training rows, and rows it has not seen (the paper's figure 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from neft_lab.claims import Arm
from neft_lab.figures.panels import Panel, Scale, split_panels
from neft_lab.figures.style import (
    PAGE,
    PALETTE,
    Figure,
    add_legend,
    capital,
    finish,
    make_panels,
    open_canvas,
)
from neft_lab.labels import short_label
from neft_lab.store import read_json

ROWS = {"train_rows": "training rows", "held_out": "held-out rows"}


def draw_loss_histograms(arms: Sequence[Arm], *, axis: str = "noise.alpha") -> Figure:
    """Draw the response loss of every row from ``losses.json``: training rows left, held-out rows right.

    The seeds of an arm are drawn together; the arms of one picture share their bins.
    """
    panels = split_panels(arms, Scale.of(arms, axis), coloured=False)
    with open_canvas(PAGE, 1.9 * len(panels) + 0.4) as canvas:
        places = make_panels(canvas, len(panels), 2)
        for number, panel in enumerate(panels):
            for axes, rows in zip(places[2 * number : 2 * number + 2], ROWS, strict=True):
                _draw_histograms(axes, _losses(panel, rows, axis))
                axes.set_title(", ".join(filter(None, (capital(ROWS[rows]), panel.title))))
                axes.set_xlabel("response loss, nats per token")
                axes.set_ylabel("rows")
                axes.label_outer()
        add_legend(canvas, places)
        title = "Loss on training rows and on held-out rows"
        return finish(canvas, "losses", title=title, caption="Mean loss of each response, noise off.")


def _losses(panel: Panel, rows: str, axis: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for arm in panel.lines[0].arms:
        folders = [row.folders["analyze"] for row in arm.rows if "analyze" in row.folders]
        losses = [loss for folder in folders for loss in read_json(folder / "losses.json").get(rows, [])]
        found[short_label(arm.axes, [axis])] = losses
    return {label: losses for label, losses in found.items() if losses}


def _draw_histograms(axes: Axes, losses: Mapping[str, Sequence[float]]) -> None:
    if not losses:
        return
    every = [loss for values in losses.values() for loss in values]
    reach = (min(every), max(*every, min(every) + 0.01))
    bins = max(6, min(30, 2 * math.isqrt(max(map(len, losses.values())))))
    for place, (label, values) in enumerate(losses.items()):
        color = PALETTE[place % len(PALETTE)]
        axes.hist(
            values, bins=bins, range=reach, histtype="stepfilled", facecolor=(color, 0.15), edgecolor=color,
            linewidth=1.2, label=label,
        )  # fmt: skip
