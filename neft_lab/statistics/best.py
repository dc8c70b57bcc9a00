"""Which cells of a table may be called the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neft_lab.statistics.multiplicity import holm
from neft_lab.statistics.paired import paired_difference
from neft_lab.statistics.scores import (
    Floats,
    Labels,
    as_rows,
    as_scores,
    number_clusters,
    weigh_items,
)


@dataclass(frozen=True)
class BestComparison:
    """How a cell stands to the best of its table."""

    cell: int
    leads: bool
    """Whether it has the highest mean over the shared items."""
    p_value: float
    """One-sided, Holm over the family: the best is no better than this cell. NaN for the leader itself."""

    @property
    def contends(self) -> bool:
        """Whether the data cannot rule out at 5 % that this cell is the best."""
        return self.leads or not self.p_value < 0.05


def compare_with_best(
    cells: Sequence[ArrayLike],
    *,
    clusters: Labels | None = None,
    macro: bool = False,
    scale: float = 100.0,
    higher: bool = True,
    resamples: int = 10_000,
) -> list[BestComparison]:
    """Compare every cell with the leading one, on the items that all cells share.

    `cells`: scores in [0, 1], each (items,) or (seeds, items), NaN is a hole. `clusters`, `macro` and `scale` as in
    `paired_difference`; `higher=False` where the lowest is the best. The set of contenders misses the truly best cell in
    at most 5 % of tables (multiple comparisons with the best; Hsu 1996, with Holm's bound).
    """
    rows = [as_scores(cell) if scale == 100 else as_rows(cell) for cell in cells]
    if len({row.shape for row in rows}) > 1:
        raise ValueError(f"cells must have the same seeds and items, got {[row.shape for row in rows]}")
    shared = ~np.any([np.isnan(row).any(axis=0) for row in rows], axis=0)
    if not shared.any():
        raise ValueError("no item is scored in every cell: leave the empty cells out")
    rows = [row[:, shared] for row in rows]
    groups = None if clusters is None else np.asarray(clusters)[shared]
    means = [float((row @ _weights(groups, row.shape[1], macro=macro)).mean()) for row in rows]
    leader = int(np.argmax(means if higher else np.negative(means)))
    two_sided = [
        np.nan
        if index == leader
        else paired_difference(
            rows[leader], row, clusters=groups, macro=macro, scale=scale, resamples=resamples
        ).p_value
        for index, row in enumerate(rows)
    ]
    adjusted = holm(np.asarray(two_sided) / 2)
    return [BestComparison(index, index == leader, float(p)) for index, p in enumerate(adjusted)]


def _weights(groups: NDArray[np.generic] | None, count: int, *, macro: bool) -> Floats:
    return weigh_items(number_clusters(groups, np.ones(count, dtype=np.bool_)), count, macro=macro)
