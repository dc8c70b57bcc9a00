"""How large a difference a design can see, before it is run. Free of scipy: a dry run answers from here."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from neft_lab.statistics.scores import Floats, as_rows, as_scores, find_complete
from neft_lab.statistics.spread import Spread, measure_spread

_normal_cdf = np.frompyfunc(lambda x: math.erfc(-x / math.sqrt(2)) / 2, 1, 1)


@dataclass(frozen=True)
class Variation:
    """How much the difference between two arms varies, in points or the metric's unit, and where that comes from."""

    paired_sd: float
    """Over instructions, between two checkpoints of one seed."""
    seed_sd: float
    """Over training seeds, of the true difference between two arms; NaN where it is not known."""
    source: str
    """Such as "pilot sweep starter_study", "published pair", "user"."""
    repeatable: float = 1.0
    """Share of the paired variance that comes back with every seed; 1, the cautious value, gains nothing from seeds."""

    def __post_init__(self) -> None:
        if not self.paired_sd >= 0 or self.seed_sd < 0 or not 0 <= self.repeatable <= 1:
            raise ValueError(f"standard deviations must be >= 0 and repeatable in [0, 1], got {self}")


def measure_variation(a: ArrayLike, b: ArrayLike, *, source: str, scale: float = 100.0) -> Variation:
    """Measure from a pilot: scores in [0, 1] of two arms, (items,) or (seeds, items); `scale=1`: any quantity.

    One seed says nothing of the seed variation: NaN, which `power` refuses for designs of several seeds.
    """
    read = as_scores if scale == 100 else as_rows
    left, right = read(a), read(b)
    kept, complete = find_complete(left, right)
    differences = scale * (left - right)[kept][:, complete]
    seeds, count = differences.shape
    paired = float(np.mean(differences.var(axis=1, ddof=1)))
    if seeds == 1:
        return Variation(math.sqrt(paired), math.nan, source)
    spread = measure_spread(differences)
    interaction = min(spread.item_variance * count, paired)
    seed_variance = max(spread.seed_variance * seeds - (paired - interaction) / count, 0.0)
    return Variation(
        math.sqrt(paired), math.sqrt(seed_variance), source, interaction / paired if paired else 1.0
    )


def power(difference: float, *, items: int, seeds: int, variation: Variation, alpha: float = 0.05) -> float:
    """Probability that `paired_difference` finds a true `difference` (points) at two-sided level `alpha`.

    With one seed: a true difference between the two checkpoints. With several: between the two arms.
    """
    return _detect(difference, *_thresholds(items, seeds, variation, alpha))


def minimum_detectable_difference(
    *, items: int, seeds: int, variation: Variation, power: float = 0.8, alpha: float = 0.05
) -> float:
    """The true difference, in points, that the design finds with probability `power` at two-sided level `alpha`."""
    if not alpha < power < 1:
        raise ValueError(f"power must lie between alpha = {alpha:g} and 1, got {power:g}")
    thresholds, weights, error = _thresholds(items, seeds, variation, alpha)
    low, high = 0.0, float(thresholds.max()) + 10 * error
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _detect(middle, thresholds, weights, error) < power else (low, middle)
    return high


def _thresholds(items: int, seeds: int, variation: Variation, alpha: float) -> tuple[Floats, Floats, float]:
    """Observed differences beyond which the test rejects, their probabilities, and the standard error they face.

    The threshold is random because the seed variance is estimated from `seeds` values: a chi-square grid over it.
    """
    if items < 2 or seeds < 1:
        raise ValueError(f"a design needs at least 2 items and 1 seed, got {items} and {seeds}")
    paired = variation.paired_sd**2 / items
    if seeds == 1:
        spread = Spread(0.0, paired, 1, items)
        return np.array([spread.half_width(1 - alpha)]), np.ones(1), spread.standard_error
    if math.isnan(variation.seed_sd):
        raise ValueError(f"seed_sd is not known from {variation.source}: a design of {seeds} seeds needs it")
    item_variance = variation.repeatable * paired
    seed_variance = (variation.seed_sd**2 + (1 - variation.repeatable) * paired) / seeds
    error = math.sqrt(seed_variance + item_variance)
    if seed_variance == 0:
        return np.array([Spread(0.0, item_variance, seeds, items).half_width(1 - alpha)]), np.ones(1), error
    log_ratios = np.linspace(-12, 4, 65)
    log_density = (seeds - 1) / 2 * (log_ratios - np.exp(log_ratios))
    weights = np.exp(log_density - log_density.max())
    widths = [
        Spread(seed_variance * ratio, item_variance, seeds, items).half_width(1 - alpha)
        for ratio in np.exp(log_ratios)
    ]
    return np.asarray(widths), weights / weights.sum(), error


def _detect(difference: float, thresholds: Floats, weights: Floats, error: float) -> float:
    if error == 0:
        return float(difference != 0)
    above = _normal_cdf((difference - thresholds) / error)
    below = _normal_cdf((-difference - thresholds) / error)
    return float(weights @ (above + below).astype(np.float64))
