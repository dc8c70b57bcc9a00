"""Win rates, accuracies and means with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from neft_lab.statistics.scores import (
    Floats,
    Labels,
    Preferences,
    as_rows,
    as_scores,
    find_complete,
    number_clusters,
    preference_scores,
    weigh_items,
)
from neft_lab.statistics.spread import Spread, measure_spread


@dataclass(frozen=True)
class Estimate:
    """A mean (rates in percent) with its 95 % interval; a cell without any score has NaN everywhere and n = 0."""

    value: float
    standard_error: float
    low: float
    high: float
    n: int
    """Instructions or documents that have a score in every seed."""
    seeds: int = 1
    difficulty: Literal["given", "estimated", "none"] | None = None
    """Length control only: where the instruction difficulties came from."""
    length_overlap: float | None = None
    """Length control only: percent of outputs on that side of the reference's length where fewer lie."""

    @property
    def extrapolates(self) -> bool:
        """Whether fewer than 5 % of the outputs lie on one side of the length that the estimate speaks of."""
        return self.length_overlap is not None and self.length_overlap < 5.0


@dataclass(frozen=True)
class VerdictCounts:
    """How often the model won, lost and drew, as AlpacaEval counts."""

    wins: int
    losses: int
    draws: int
    missing: int
    discrete_win_rate: float
    """Percent, after rounding each preference to a win, a draw or a loss; NaN without verdicts."""

    @property
    def total(self) -> int:
        return self.wins + self.losses + self.draws


def win_rate(preferences: Preferences) -> Estimate:
    """AlpacaEval's win rate in percent, with a 95 % interval.

    `preferences`: AlpacaEval's, shape (items,) or (seeds, items); null or anything that is no preference is a hole.
    Value and standard error of one seed are those of alpaca_eval's `get_winrate`; with several seeds both seeds and
    instructions count as sampled.
    """
    return accuracy(preference_scores(preferences))


def count_verdicts(preferences: Preferences) -> VerdictCounts:
    """Count wins, losses and draws of `preferences` (items,)."""
    scores = preference_scores(preferences)
    judged = scores[~np.isnan(scores)]
    rounded = np.where(judged == 0.5, 0.5, np.round(judged))
    return VerdictCounts(
        wins=int((judged > 0.5).sum()),
        losses=int((judged < 0.5).sum()),
        draws=int((judged == 0.5).sum()),
        missing=int(scores.size - judged.size),
        discrete_win_rate=100 * float(rounded.mean()) if judged.size else math.nan,
    )


def accuracy(values: ArrayLike, *, clusters: Labels | None = None, macro: bool = False) -> Estimate:
    """Mean document score in percent, with a 95 % interval.

    `values`: 0/1 or graded scores in [0, 1], shape (items,) or (seeds, items), NaN is a hole. `clusters` (items,): the
    subject of every document; documents of one subject are not independent. `macro`: every subject counts the same, as
    the leaderboard of 2023 averaged MMLU; lm-eval weights by size.
    """
    rows = as_scores(values)
    kept, complete = find_complete(rows)
    groups = number_clusters(clusters, complete)
    rows = rows[kept][:, complete]
    seeds, count = rows.shape
    if count == 0:
        return _no_estimate(seeds)
    weights = weigh_items(groups, count, macro=macro)
    spread = measure_spread(rows, clusters=groups, weights=weights)
    mean = float((rows @ weights).mean()) / count
    low, high = _score_interval(mean, count, spread)
    return Estimate(100 * mean, 100 * spread.standard_error, 100 * low, 100 * high, count, seeds)


def mean_value(values: ArrayLike) -> Estimate:
    """Mean of any measured quantity (loss in nats, characters) in its own unit, with a 95 % t interval.

    `values`: (items,) or (seeds, items), NaN is a hole.
    """
    rows: Floats = as_rows(values)
    kept, complete = find_complete(rows)
    rows = rows[kept][:, complete]
    seeds, count = rows.shape
    if count == 0:
        return _no_estimate(seeds)
    mean, spread = float(rows.mean()), measure_spread(rows)
    half = spread.half_width()
    return Estimate(mean, spread.standard_error, mean - half, mean + half, count, seeds)


def _no_estimate(seeds: int) -> Estimate:
    return Estimate(math.nan, math.nan, math.nan, math.nan, 0, seeds)


def _score_interval(mean: float, count: int, spread: Spread) -> tuple[float, float]:
    """Wilson's score interval at the effective sample size (Korn and Graubard 1998).

    It stays inside [0, 1] and keeps a width when every verdict is the same, where a bootstrap has none.
    """
    variance = spread.standard_error**2
    binomial = mean * (1 - mean)
    effective = binomial / variance if variance > 0 and binomial > 0 else float(count)
    if variance > 0:
        quantile = spread.half_width() / spread.standard_error
    else:
        quantile = Spread(0.0, 1.0, 1, max(count, 2)).half_width()
    shrink = 1 / (1 + quantile**2 / effective)
    centre = (mean + quantile**2 / (2 * effective)) * shrink
    half = quantile * shrink * math.sqrt(binomial / effective + quantile**2 / (4 * effective**2))
    return max(centre - half, 0.0), min(centre + half, 1.0)
