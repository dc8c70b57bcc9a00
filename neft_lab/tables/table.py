"""A table of text, and how a number becomes text."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """A table of text, rounded for printing."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    strong: frozenset[tuple[int, int]] = frozenset()
    """Cells in bold, by line and column."""


def rounded(value: float, low: float, high: float) -> str:
    """A number with its 95 % interval, to no more digits than the interval supports."""
    if math.isnan(value):
        return "–"
    if math.isnan(low) or math.isnan(high):
        return _plain(value)
    digits = _digits((high - low) / 2)
    value, low, high = (round(number, digits) + 0.0 for number in (value, low, high))  # + 0.0: no minus zero
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _plain(value: float) -> str:
    """Three digits of a number whose interval nobody knows, never as a power of ten; counts as they are."""
    if value.is_integer() and abs(value) < 1000:
        return f"{value:.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits) + 0.0:.{max(0, digits)}f}"


def _digits(half: float) -> int:
    """Decimals that keep one digit of the interval's half width: 0 from 1 on, 1 from 0.1 on, at most 4."""
    return 0 if half <= 0 or not math.isfinite(half) else max(0, min(4, -math.floor(math.log10(half))))
