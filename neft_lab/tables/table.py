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
    """A number with its 95 % interval, to no more digits than the interval supports: 65 [61, 68], 2 [1, 3] × 10⁻⁵."""
    if math.isnan(value):
        return "–"
    if math.isnan(low) or math.isnan(high):
        return _plain(value)
    half, reach = (high - low) / 2, max(abs(low), abs(high))
    known = 1e-9 * reach < half < math.inf  # narrower ones are rounding errors of a constant
    digits = max(0, -_exponent(half) if known else _decimals(value))
    exponent = _exponent(reach) if known else 0
    power = f" × 10{str(exponent).translate(SUPERSCRIPTS)}" if exponent <= SMALL and digits > -SMALL else ""
    shift = exponent if power else 0
    value, low, high = (
        round(number * 10.0**-shift, digits + shift) + 0.0 for number in (value, low, high)
    )  # + 0.0: no minus zero
    return "{0:.{3}f} [{1:.{3}f}, {2:.{3}f}]{4}".format(value, low, high, digits + shift, power)


SMALL = -4
"""Intervals that end within 0.001 of zero are written with a power of ten where four decimals do not show their width."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _plain(value: float) -> str:
    """Three digits of a number whose interval nobody knows, never as a power of ten; counts as they are."""
    digits = _decimals(value)
    return f"{round(value, digits) + 0.0:.{max(0, digits)}f}"


def _decimals(value: float) -> int:
    """Decimals of three digits; none of a count. Negative for what is rounded to tens."""
    return 0 if value % 1 == 0 and abs(value) < 1000 else 2 - _exponent(value)


def _exponent(number: float) -> int:
    return math.floor(math.log10(abs(number)))
