"""How far a mean over instructions and training seeds may be off."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neft_lab.statistics.scores import Floats

# Prior on the seed variance A given the instruction variance B: ((A + c/k B) / A)^k / (A + B), as seeds - 1: (k, c).
# With few seeds A is hardly known. Satterthwaite's degrees of freedom then reject a true null up to 12.8 % of the time
# at two seeds and 7.8 % at three; integrating over A with these constants holds the 5 % test between 4.0 and 5.8 % at
# two seeds and between 4.5 and 5.2 % above, whatever share of the variance the seeds have.
_SEED_PRIOR = {1: (12.0, 0.2), 2: (4.0, 0.8)}
_SEED_PRIOR_MANY = (3.0, 1.3)
# Two and three seeds cannot be held to 5 % and to smaller levels at once (a 1 % test would reject up to 3.5 and 1.5 %),
# and corrections for many comparisons need the smaller ones. The prior 1 / A, never too bold, therefore bounds them.
_FEW_SEEDS = 3
_CALIBRATED_FROM = 0.049
_LOG_RATIOS = np.arange(-9.0, 45.0, 0.25)
_RATIOS = np.exp(_LOG_RATIOS)

_erfc = np.frompyfunc(math.erfc, 1, 1)


@dataclass(frozen=True)
class Spread:
    """The variance of a mean, split by what was sampled: training seeds and instructions (or clusters of them)."""

    seed_variance: float
    item_variance: float
    seeds: int
    items: int

    @property
    def standard_error(self) -> float:
        return math.sqrt(self.seed_variance + self.item_variance)

    def p_value(self, deviation: float) -> float:
        """Two-sided probability of a deviation at least this large when the true one is zero."""
        if deviation == 0:
            return 1.0
        if self.standard_error == 0:
            return 0.0
        return self._tail(abs(deviation))

    def half_width(self, level: float = 0.95) -> float:
        """Half the width of the interval that covers the truth with probability `level`."""
        if self.standard_error == 0:
            return 0.0
        low, high = -2.0, 40.0  # log of the half width in standard errors
        for _ in range(36):
            middle = (low + high) / 2
            tail = self._tail(self.standard_error * math.exp(middle))
            low, high = (middle, high) if tail > 1 - level else (low, middle)
        return self.standard_error * math.exp(high)

    def _tail(self, deviation: float) -> float:
        """P(|T| > deviation), over what the seed variance may be."""
        if self.seeds == 1 or self.seed_variance == 0:
            variances = np.array([self.seed_variance + self.item_variance])
            return float(_two_sided_tail(deviation, variances, self.item_variance, self.items - 1)[0])
        tail = self._mixed_tail(deviation, _SEED_PRIOR.get(self.seeds - 1, _SEED_PRIOR_MANY))
        if self.seeds > _FEW_SEEDS or tail > _CALIBRATED_FROM:
            return tail
        return max(tail, min(self._mixed_tail(deviation, None), _CALIBRATED_FROM))

    def _mixed_tail(self, deviation: float, prior: tuple[float, float] | None) -> float:
        """The tail averaged over the posterior of the seed variance A under the prior (k, c), or 1 / A without one."""
        seed_variances = self.seed_variance * _RATIOS
        log_weights = -(self.seeds - 1) / 2 * (_LOG_RATIOS + 1 / _RATIOS)
        if prior is not None:
            power, constant = prior
            log_weights += power * np.log1p(constant / power * self.item_variance / seed_variances)
            log_weights += _LOG_RATIOS - np.log(
                seed_variances + self.item_variance
            )  # the grid is even in log A
        weights = np.exp(log_weights - log_weights.max())
        tails = _two_sided_tail(
            deviation, seed_variances + self.item_variance, self.item_variance, self.items - 1
        )
        return float(weights @ tails / weights.sum())


def measure_spread(
    scores: Floats, *, clusters: NDArray[np.intp] | None = None, weights: Floats | None = None
) -> Spread:
    """Split the variance of the mean of `scores` (s seeds, n items) by two-way analysis of variance.

    `clusters` (n) numbers the cluster of every item: clusters, not items, are then what was sampled. `weights` (n) have
    mean one. A cell of one seed has only the instruction part, which is the squared standard error of its mean.
    """
    seeds, count = scores.shape
    weights = np.ones(count) if weights is None else weights
    groups = np.arange(count) if clusters is None else clusters
    group_count = int(groups.max()) + 1
    by_seed = scores @ weights / count
    by_item = scores.mean(axis=0)
    mean = by_seed.mean()
    item_sums = np.bincount(groups, weights * (by_item - mean), group_count)
    item_variance = _per_freedom(float(item_sums @ item_sums) / count**2, group_count)
    if seeds == 1:
        return Spread(0.0, item_variance, 1, group_count)
    deviations = by_seed - mean
    seed_variance = float(deviations @ deviations) / (seeds - 1) / seeds
    residuals = weights * (scores - by_item - deviations[:, None])
    sums = np.stack([np.bincount(groups, row, group_count) for row in residuals])
    # What is left after seeds and items also inflates the spread between items: take it out there once.
    residual_variance = _per_freedom(float((sums**2).sum()) / (count**2 * seeds * (seeds - 1)), group_count)
    return Spread(seed_variance, max(item_variance - residual_variance, 0.0), seeds, group_count)


def keep_width(spread: Spread, items: int) -> Spread:
    """Keep an interval, in points, from vanishing where wins, draws and losses happen to agree on every item.

    Two more items that disagree, one each way, are the least that is assumed (the constant of Bonett and Price 2012).
    Graded scores need no such floor: they may truly differ by less.
    """
    least = 2 * 100.0**2 / items**2
    if spread.seed_variance + spread.item_variance >= least:
        return spread
    return Spread(spread.seed_variance, least, spread.seeds, spread.items)


def _per_freedom(sum_of_squares: float, count: int) -> float:
    return sum_of_squares * count / (count - 1) if count > 1 else math.nan


def _two_sided_tail(deviation: float, variances: Floats, item_variance: float, freedom: int) -> Floats:
    """P(|T| > deviation) for each variance; the instruction part of it is estimated with `freedom` degrees."""
    standardized = deviation / np.sqrt(variances)
    if freedom < 1:
        return np.full_like(standardized, math.nan)
    if item_variance > 0:
        # Satterthwaite's degrees for a known plus an estimated part, then Wallace (1959): Student's t as a normal
        # deviate, good to 0.001 from four degrees on, and free of scipy, which a dry run must not import.
        degrees = freedom * (variances / item_variance) ** 2
        standardized = (
            (8 * degrees + 1) / (8 * degrees + 3) * np.sqrt(degrees * np.log1p(standardized**2 / degrees))
        )
    return np.asarray(_erfc(standardized / math.sqrt(2)), dtype=np.float64)
