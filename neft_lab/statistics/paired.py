"""Differences between two arms on the same instructions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neft_lab.statistics.scores import (
    Floats,
    Labels,
    as_rows,
    as_scores,
    find_complete,
    number_clusters,
    weigh_items,
)
from neft_lab.statistics.spread import Spread, keep_width, measure_spread

DeclaredTest = Literal["sign_flip", "mcnemar"]
TestName = Literal["sign_flip", "mcnemar_mid_p", "crossed_t", "resampled_t"]


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a - b over the same instructions, in points, with its 95 % interval and the p-value of no difference."""

    value: float
    standard_error: float
    low: float
    high: float
    p_value: float
    n: int
    """Instructions or documents scored in both arms and every seed."""
    dropped: int
    """Those left out because a score is missing somewhere."""
    seeds: int
    about: Literal["checkpoints", "arms"]
    """With one seed per arm: these two checkpoints. With more: the two ways of training."""
    test: TestName
    spread: Spread

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The interval at another confidence level."""
        half = self.spread.half_width(level)
        return self.value - half, self.value + half


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    clusters: Labels | None = None,
    macro: bool = False,
    test: DeclaredTest = "sign_flip",
    scale: float = 100.0,
    averaged: int = 1,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Compare two arms: a - b in percentage points.

    `a`, `b`: scores in [0, 1], shape (items,) for one training seed or (seeds, items) with the same seeds in the same
    rows; NaN is a hole. A seed without any score in one arm is left out of both, then any item with a hole anywhere.
    `clusters` and `macro` as in `accuracy`. `test` declares the test of a single seed by the kind of metric, not by
    the values seen: `sign_flip` (permutation; preferences, graded scores, anything in clusters) or `mcnemar` (mid-p;
    0/1). With several seeds the test takes both seeds and instructions as sampled, corrected for few seeds.
    `scale=1` compares quantities of any range in their own unit: losses, lengths. `averaged`: each score is the mean
    of so many (one per data set), so that means of verdicts are known as such.
    """
    read = as_scores if scale == 100 else as_rows
    left, right = read(a), read(b)
    if left.shape != right.shape:
        raise ValueError(f"arms must have the same seeds and items, got {left.shape} and {right.shape}")
    kept, complete = find_complete(left, right)
    groups = number_clusters(clusters, complete)
    left, right = left[kept][:, complete], right[kept][:, complete]
    (seeds, n), asked = left.shape, len(complete)
    if n < 2:
        unknown = Spread(0.0, math.nan, max(seeds, 1), n)
        return summarize(math.nan, unknown, math.nan, "sign_flip", n=n, asked=asked)
    differences = scale * (left - right)
    weights = weigh_items(groups, n, macro=macro)
    spread = measure_spread(differences, clusters=groups, weights=weights)
    halves = 2 * averaged * np.stack([left, right])
    if scale == 100 and np.allclose(halves, halves.round(), rtol=0, atol=1e-9):  # wins, draws and losses
        spread = keep_width(spread, n)
    value = float((differences * weights).mean())
    name: TestName
    if seeds > 1:
        p_value, name = spread.p_value(value), "crossed_t"
    elif test == "mcnemar":
        p_value, name = _mcnemar_of_documents(left[0], right[0], groups), "mcnemar_mid_p"
    else:
        sums = np.bincount(np.arange(n) if groups is None else groups, differences[0] * weights)
        p_value, name = sign_flip_p(sums, resamples=resamples, seed=seed), "sign_flip"
    reach = 100.0 if scale == 100 else math.inf
    return summarize(value, spread, p_value, name, n=n, asked=asked, reach=reach)


def summarize(
    value: float,
    spread: Spread,
    p_value: float,
    test: TestName,
    *,
    n: int,
    asked: int,
    reach: float = 100.0,
) -> PairedDifference:
    """Put a difference and its spread into a record; `n` of the `asked` items were scored.

    `reach`: the largest difference there can be; the printed interval ends there.
    """
    half = spread.half_width()
    return PairedDifference(
        value=value,
        standard_error=spread.standard_error,
        low=max(value - half, -reach),
        high=min(value + half, reach),
        p_value=p_value,
        n=n,
        dropped=asked - n,
        seeds=spread.seeds,
        about="checkpoints" if spread.seeds == 1 else "arms",
        test=test,
        spread=spread,
    )


def sign_flip_p(differences: ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of a zero mean, flipping the sign of each of `differences` (items or cluster sums,).

    Exact when all sign patterns are no more than `resamples`, else a random sample of them. Patterns other than the
    observed one that give the same sum count half (mid-p): wins and losses tie often, graded scores do not.
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[values != 0]  # flipping a zero changes nothing
    total = abs(float(values.sum()))
    if total == 0:
        return 1.0
    rounding = 1e-9 * total
    if len(values) <= int(math.log2(resamples)):
        patterns = (np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1
        excess = np.abs((2 * patterns - 1) @ values) - total
        ties = (
            int((np.abs(excess) <= rounding).sum()) - 2
        )  # the observed pattern and its mirror image count in full
        above = int((excess > rounding).sum())
        return float((above + ties / 2 + 2) / 2 ** len(values))
    generator = np.random.default_rng(seed)
    extreme = 1.0  # the observed pattern
    for start in range(0, resamples, 1000):
        rows = min(1000, resamples - start)
        bits = np.frombuffer(generator.bytes(rows * (len(values) // 8 + 1)), dtype=np.uint8).reshape(rows, -1)
        flipped = np.unpackbits(bits, axis=1, count=len(values))
        excess = np.abs(values.sum() - 2 * (flipped @ values)) - total
        extreme += float((excess > rounding).sum()) + float((np.abs(excess) <= rounding).sum()) / 2
    return extreme / (resamples + 1)


def mcnemar_mid_p(only_a: int, only_b: int) -> float:
    """Two-sided mid-p value of McNemar's test, after Fagerland, Lydersen and Laake (2013).

    `only_a`, `only_b`: items that only one of the two arms has right.
    """
    from scipy.stats import binom

    fewer, discordant = min(only_a, only_b), only_a + only_b
    if discordant == 0:
        return 1.0
    return float(2 * binom.cdf(fewer, discordant, 0.5) - binom.pmf(fewer, discordant, 0.5))


def _mcnemar_of_documents(left: Floats, right: Floats, groups: NDArray[np.intp] | None) -> float:
    if groups is not None:
        raise ValueError("test='mcnemar' takes no clusters; use test='sign_flip', which flips whole clusters")
    if not np.isin([left, right], (0.0, 1.0)).all():
        raise ValueError("test='mcnemar' needs scores of 0 or 1; use test='sign_flip' for graded scores")
    return mcnemar_mid_p(int((left > right).sum()), int((left < right).sum()))
