"""How well a model knows its training rows, by loss (the paper's figure 4) and by its own words (figure 5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from neft_lab.claims.comparisons import Arm
from neft_lab.claims.labels import short_label
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
    set_title,
)
from neft_lab.store import read_json

Reader = Callable[[Path], Sequence[float | None]]
"""From the folder of an analyze step to the values of its rows."""


def draw_loss_histograms(arms: Sequence[Arm], *, axis: str = "noise.alpha") -> Figure:
    """Draw the response loss of every row from ``losses.json``: training rows left, held-out rows right."""
    readers = {
        "training rows": lambda folder: _read(folder, "losses.json").get("train_rows", []),
        "held-out rows": lambda folder: _read(folder, "losses.json").get("held_out", []),
    }
    return _draw_halves(
        arms, readers, axis=axis, name="losses", title="Loss on training rows and on held-out rows",
        units=["response loss, nats per token"] * 2, caption="Mean loss of each response, noise off.", reach=0.01,
    )  # fmt: skip


def draw_likeness_histograms(arms: Sequence[Arm], *, axis: str = "noise.alpha") -> Figure:
    """Draw how alike answers to training prompts and the responses are, from ``training_answers.json``."""
    readers = {
        title: lambda folder, name=name: [row[name] for row in _read(folder, "training_answers.json") or []]
        for name, title in (("rouge_l", "ROUGE-L"), ("bleu", "BLEU"))
    }
    return _draw_halves(
        arms, readers, axis=axis, name="likeness", title="Answers to training prompts against the responses",
        units=["ROUGE-L F1 %", "BLEU %"], caption=LIKENESS, reach=10,
    )  # fmt: skip


LIKENESS = (
    "Greedy answers without a repetition penalty; the response is cut at the same number of tokens. ROUGE-L of lower-case "
    "words without stemming; BLEU-4 of single answers, 13a tokens, exponential smoothing, effective order."
)


def _draw_halves(
    arms: Sequence[Arm],
    readers: Mapping[str, Reader],
    *,
    axis: str,
    name: str,
    title: str,
    units: Sequence[str],
    caption: str,
    reach: float,
) -> Figure:
    """Two histograms side by side; an arm's seeds are drawn together, the arms of one picture share their bins."""
    panels = split_panels(arms, Scale.of(arms, axis), coloured=False)
    with open_canvas(PAGE, 1.9 * len(panels) + 0.4) as canvas:
        places = make_panels(canvas, len(panels), 2)
        for number, panel in enumerate(panels):
            halves = places[2 * number : 2 * number + 2]
            for axes, (half, read), unit in zip(halves, readers.items(), units, strict=True):
                _draw_histograms(axes, _values(panel, read, axis), least=reach)
                set_title(axes, ", ".join(filter(None, (capital(half), panel.title))))
                axes.set_xlabel(unit)
                axes.set_ylabel("rows")
                axes.label_outer()
        add_legend(canvas, places)
        return finish(canvas, name, title=title, caption=caption)


def _read(folder: Path, file: str) -> Any:
    return read_json(folder / file) if (folder / file).is_file() else {}


def _values(panel: Panel, read: Reader, axis: str) -> dict[str, list[float]]:
    found = {}
    for arm in panel.lines[0].arms:
        folders = [row.folders["analyze"] for row in arm.rows if "analyze" in row.folders]
        every = [value for folder in folders for value in read(folder)]
        found[short_label(arm.axes, [axis])] = [value for value in every if value is not None]
    return {label: values for label, values in found.items() if values}


def _draw_histograms(axes: Axes, groups: Mapping[str, Sequence[float]], *, least: float) -> None:
    """Draw them over the reach of their values, which is ``least`` wide at the least."""
    if not groups:
        return
    every = [value for values in groups.values() for value in values]
    reach = (min(every), max(*every, min(every) + least))
    bins = max(6, min(30, 2 * math.isqrt(max(map(len, groups.values())))))
    for place, (label, values) in enumerate(groups.items()):
        color = PALETTE[place % len(PALETTE)]
        axes.hist(
            values, bins=bins, range=reach, histtype="stepfilled", facecolor=(color, 0.15), edgecolor=color,
            linewidth=1.2, label=label,
        )  # fmt: skip
