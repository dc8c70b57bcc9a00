"""Figures in one style: estimates in, SVG and PDF out, the same bytes for the same numbers. Nothing is estimated here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from neft_lab.claims.comparisons import Arm, Comparison
from neft_lab.figures.curves import draw_alpha_curve, draw_length_scatter
from neft_lab.figures.differences import draw_forest
from neft_lab.figures.flips import draw_flip_curves
from neft_lab.figures.histograms import draw_likeness_histograms, draw_loss_histograms
from neft_lab.figures.style import Figure
from neft_lab.figures.tasks import draw_task_bars
from neft_lab.store import write_text

__all__ = [
    "Figure",
    "draw_alpha_curve",
    "draw_figures",
    "draw_flip_curves",
    "draw_forest",
    "draw_length_scatter",
    "draw_likeness_histograms",
    "draw_loss_histograms",
    "draw_task_bars",
    "write_figure",
]


def draw_figures(
    arms: Sequence[Arm],
    comparisons: Sequence[Comparison],
    *,
    axis: str,
    metrics: Sequence[str],
    tasks: Sequence[str] = (),
) -> list[Figure]:
    """Draw all that there are results for: ``metrics`` against ``axis``, length, tasks, differences, analyses."""
    metrics = [name for name in metrics if _known(arms, name)]
    tasks = [name for name in tasks if _known(arms, name)]
    drawn = [draw_alpha_curve(arms, name, axis=axis) for name in metrics]
    if {"win_rate", "output_characters"} <= set(metrics):
        drawn.append(draw_length_scatter(arms, axis=axis))
    if tasks:
        drawn.append(draw_task_bars(arms, tasks, axis=axis))
    if any(math.isfinite(one.difference.value) for one in comparisons):
        drawn += draw_forest(comparisons)
    return drawn + [draw(arms, axis=axis) for file, draw in ANALYSES.items() if _left(arms, file)]


ANALYSES = {
    "losses.json": draw_loss_histograms,
    "training_answers.json": draw_likeness_histograms,
    "flips.json": draw_flip_curves,
}
"""Figures of the analyze stage, by the file that they are drawn from."""


def _left(arms: Iterable[Arm], file: str) -> bool:
    folders = (row.folders.get("analyze") for arm in arms for row in arm.rows)
    return any(folder is not None and (folder / file).is_file() for folder in folders)


def _known(arms: Iterable[Arm], metric: str) -> bool:
    return any(metric in arm.estimates and math.isfinite(arm.estimates[metric].value) for arm in arms)


def write_figure(figure: Figure, folder: Path) -> None:
    """Write ``<name>.svg`` and ``<name>.pdf``."""
    write_text(folder / f"{figure.name}.svg", figure.svg)
    partial = folder / f".{figure.name}.pdf.partial"
    partial.write_bytes(figure.pdf)
    partial.replace(folder / f"{figure.name}.pdf")
