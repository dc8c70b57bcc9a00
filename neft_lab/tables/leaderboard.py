"""leaderboard.csv: one line per cell, in full precision."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from neft_lab.claims.results import CellResult

ENDS = ("", "_low", "_high", "_n")


def leaderboard_csv(rows: Sequence[CellResult], metrics: Sequence[str]) -> str:
    """One line per cell: axes, then metric, its bounds and count for every metric, in full precision."""
    axes = list(dict.fromkeys(name for row in rows for name in row.axes))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*axes, *(f"{metric}{end}" for metric in metrics for end in ENDS)])
    for row in rows:
        values = [_full(row.metrics.get(f"{metric}{end}")) for metric in metrics for end in ENDS]
        writer.writerow([*(_full(row.axes.get(name)) for name in axes), *values])
    return text.getvalue()


def _full(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return repr(value) if isinstance(value, float) else str(value)
