"""Scores as arrays: (seeds, items), with NaN where a score is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Labels = Sequence[object] | NDArray[np.generic]
Preferences = ArrayLike | Sequence[float | None]


def preference_scores(preferences: Preferences) -> Floats:
    """Turn AlpacaEval preferences into scores: 1 -> 0 (reference wins), 2 -> 1 (model wins), 0 and 1.5 -> 0.5.

    Any shape. Null, and anything outside 0 and [1, 2], becomes NaN: a hole, as AlpacaEval drops it.
    """
    values = np.asarray(preferences, dtype=np.float64)
    values = np.where(values == 0, 1.5, values)
    return np.where((values >= 1) & (values <= 2), values - 1, math.nan)


def as_rows(values: ArrayLike) -> Floats:
    """Values of (items,) or (seeds, items) as (seeds, items)."""
    rows = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if rows.ndim != 2:
        raise ValueError(f"scores must have shape (items,) or (seeds, items), got {rows.shape}")
    return rows


def as_scores(scores: ArrayLike) -> Floats:
    """Scores of (items,) or (seeds, items) as (seeds, items), checked to lie in [0, 1] or to be NaN."""
    rows = as_rows(scores)
    if (outside := rows[(rows < 0) | (rows > 1)]).size:
        raise ValueError(f"scores must lie in [0, 1], got {outside[0]:g}; turn preferences into scores first")
    return rows


def find_complete(*arms: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Seeds (s) that every arm has scores of, and items (n) scored in all arms and all those seeds."""
    missing = np.isnan(np.stack(arms))
    seeds = np.asarray(~missing.all(axis=2).any(axis=0))
    items = ~missing[:, seeds].any(axis=(0, 1))
    return seeds, np.asarray(items & seeds.any())


def number_clusters(clusters: Labels | None, kept: NDArray[np.bool_]) -> NDArray[np.intp] | None:
    """Number the cluster labels of the `kept` items (of n) from zero."""
    if clusters is None:
        return None
    labels = np.asarray(clusters)
    if labels.shape != kept.shape:
        raise ValueError(f"clusters must name one cluster per item, got {labels.shape} for {kept.shape}")
    return np.unique(labels[kept], return_inverse=True)[1]


def weigh_items(groups: NDArray[np.intp] | None, count: int, *, macro: bool) -> Floats:
    """Weights of mean one: every item counts the same, or with `macro` every cluster."""
    if not macro:
        return np.ones(count)
    if groups is None:
        raise ValueError("macro=True needs clusters: the subject of every document")
    sizes = np.bincount(groups)
    return count / (len(sizes) * sizes[groups])
