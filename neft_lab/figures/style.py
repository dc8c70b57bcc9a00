"""How every figure looks, and how it becomes SVG and PDF without a date or a random id."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure as Canvas

from neft_lab.statistics import Estimate

COLUMN, PAGE = 3.35, 6.9
"""Widths in inches of one column and of a page of a two-column paper."""

INK, MUTED, RULE, PAPER = "#24292f", "#6b7280", "#d8dce1", "#ffffff"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's colours, which people with any colour vision tell apart; the faint ones come last."""
BASELINE, PALE, DEEP = "#a9b1ba", "#a6d3ef", "#00568a"
MARKERS = ("o", "s", "^", "D", "v", "P")

STYLE = {
    "font.family": ["DejaVu Sans", "sans-serif"], "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8,
    "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "legend.fontsize": 7.5, "legend.frameon": False,
    "text.color": INK, "axes.labelcolor": INK, "axes.titlelocation": "left", "axes.edgecolor": MUTED,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "axes.linewidth": 0.7, "xtick.major.width": 0.7, "ytick.major.width": 0.7, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True,
    "grid.color": RULE, "grid.linewidth": 0.6, "lines.linewidth": 1.4, "lines.markersize": 4.5,
    "figure.facecolor": PAPER, "axes.facecolor": PAPER, "svg.fonttype": "none", "svg.hashsalt": "neft_lab",
    "pdf.fonttype": 42,
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A drawn figure; ``wide`` ones are made for the width of a page, the others for one column."""

    name: str
    title: str
    caption: str
    svg: str
    pdf: bytes
    wide: bool


@contextmanager
def open_canvas(width: float, height: float) -> Iterator[Canvas]:
    """An empty figure in the common style, sizes in inches; draw and finish it before the context ends."""
    with rc_context(STYLE):
        yield Canvas(figsize=(width, height), layout="constrained")


def make_panels(canvas: Canvas, rows: int, columns: int) -> list[Axes]:
    """A grid of panels with one vertical scale, row by row."""
    return list(canvas.subplots(rows, columns, squeeze=False, sharey=True).flat)


def finish(canvas: Canvas, name: str, *, title: str, caption: str) -> Figure:
    """Save a canvas; equal drawings give equal bytes."""
    svg, pdf = io.StringIO(), io.BytesIO()
    canvas.savefig(svg, format="svg", metadata={"Date": None, "Title": title})
    canvas.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Title": title})
    return Figure(name, title, caption, svg.getvalue(), pdf.getvalue(), wide=canvas.get_figwidth() == PAGE)


def add_legend(canvas: Canvas, panels: Sequence[Axes]) -> None:
    """One legend above all panels with each label once; none where a single line needs no name."""
    entries: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries |= {label: handle for handle, label in zip(handles, labels, strict=True) if label}
    if len(entries) > 1:
        columns = min(len(entries), 6 if canvas.get_figwidth() == PAGE else 3)
        canvas.legend(
            entries.values(),
            entries.keys(),
            loc="outside upper left",
            ncols=columns,
            handlelength=1.4,
            columnspacing=1.2,
        )


def set_title(axes: Axes, text: str) -> None:
    """A title above a panel, in as many lines as its width needs."""
    spec = axes.get_subplotspec()
    assert isinstance(axes.figure, Canvas)
    columns = 1 if spec is None else spec.get_gridspec().ncols
    letters = int(axes.figure.get_figwidth() / columns / LETTER)
    axes.set_title("\n".join(textwrap.wrap(text, letters)))


LETTER = 0.08
"""Inches of a letter of a panel's title, the room between panels counted in."""


def interval_reach(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Distances from the values down and up to the ends of their intervals, (2, n); NaN draws none."""
    down = [one.value - one.low for one in estimates]
    up = [one.high - one.value for one in estimates]
    return [[length if math.isnan(length) else max(0.0, length) for length in side] for side in (down, up)]


def shades(count: int) -> list[str]:
    """Colours of ordered values: grey for the first, the baseline, then blue from pale to deep."""
    ramp = LinearSegmentedColormap.from_list("blues", [PALE, DEEP])
    return [BASELINE, *(to_hex(ramp(place / max(1, count - 2))) for place in range(count - 1))]


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]
