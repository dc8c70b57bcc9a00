"""Means of many cells over resampled instructions, all cells on the same draws."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from neft_lab.statistics.scores import Floats


def resample_means(scores: ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> Floats:
    """Bootstrap distribution of every cell's mean, shape (resamples, cells).

    `scores`: (cells, items), NaN is a hole. An instruction is drawn for all cells at once, so a row of the answer is
    one possible leaderboard and differences between its columns are paired.
    """
    rows = np.asarray(scores, dtype=np.float64)
    if rows.ndim != 2:
        raise ValueError(f"scores must have shape (cells, items), got {rows.shape}")
    judged = ~np.isnan(rows)
    counts = draw_counts(rows.shape[1], resamples=resamples, generator=np.random.default_rng(seed))
    sums: Floats = counts @ np.where(judged, rows, 0.0).T
    totals: Floats = counts @ judged.T.astype(np.float64)
    return np.divide(sums, totals, out=np.full_like(sums, math.nan), where=totals > 0)


def draw_counts(items: int, *, resamples: int, generator: np.random.Generator) -> Floats:
    """How often each of `items` is drawn in each of `resamples` bootstrap samples, shape (resamples, items)."""
    draws = generator.integers(items, size=(resamples, items), dtype=np.int64)
    draws += np.arange(resamples)[:, None] * items
    counts = np.bincount(draws.ravel(), minlength=resamples * items)
    return counts.reshape(resamples, items).astype(np.float64)
