"""Every arm against its baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence

from neft_lab.claims.comparisons import Comparison, label_comparisons
from neft_lab.claims.labels import title_of
from neft_lab.tables.table import Table, rounded


def difference_table(comparisons: Sequence[Comparison]) -> Table:
    """Every arm minus its baseline, with interval, test and verdict."""
    rows = []
    for label, one in zip(label_comparisons(comparisons), comparisons, strict=True):
        difference = one.difference
        rows.append([
            label, title_of(one.metric), rounded(difference.value, difference.low, difference.high),
            f"{difference.n} × {difference.seeds}", p_text(difference.p_value),
            "" if one.adjusted_p is None else p_text(one.adjusted_p), one.verdict,
            "; ".join(flag for flag in one.flags if flag != one.verdict),
        ])  # fmt: skip
    adjusted = corrected_title(comparisons)
    header = ["arm", "metric", "difference", "items × seeds", "p", adjusted, "verdict", "remarks"]
    return Table("Differences from the baseline", header, rows, difference_notes(comparisons))


def _corrections(comparisons: Sequence[Comparison]) -> list[str]:
    return list(dict.fromkeys(one.correction for one in comparisons if one.adjusted_p is not None))


def corrected_title(comparisons: Sequence[Comparison]) -> str:
    """What stands above the corrected p-values."""
    return f"p ({' or '.join(_corrections(comparisons)) or 'corrected'})"


def difference_notes(comparisons: Sequence[Comparison]) -> list[str]:
    """What is compared, how it is corrected, over how many, and of what one seed per arm speaks."""
    notes = ["Arm minus baseline on the same items and seeds, with 95 % intervals."]
    for correction in _corrections(comparisons):
        sizes = sorted({one.family for one in comparisons if one.correction == correction and one.family})
        over = (
            f" over {' and '.join(map(str, sizes))} comparison{'' if sizes == [1] else 's'}" if sizes else ""
        )
        exploratory = "" if correction == "Holm" else "Exploratory: "
        notes.append(f"{exploratory}{correction}{over} of the primary metric; other metrics are described.")
    if any(one.difference.about == "checkpoints" for one in comparisons):
        notes.append(
            "With one seed per arm these are differences of two checkpoints, not of two ways of training."
        )
    return notes


def primary_table(comparisons: Sequence[Comparison]) -> Table:
    """The differences of one metric, narrow enough for a terminal."""
    whole = difference_table(comparisons)
    kept = [
        place
        for place, name in enumerate(whole.header)
        if name != "metric" and any(row[place] for row in whole.rows)
    ]
    rows = [[row[place] for place in kept] for row in whole.rows]
    title = f"{whole.title}: {title_of(comparisons[0].metric)}"
    return Table(title, [whole.header[place] for place in kept], rows, whole.notes)


def p_text(value: float) -> str:
    """A p-value as tables print it."""
    if math.isnan(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
