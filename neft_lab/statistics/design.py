"""How small a difference a sweep can see, before it is run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from neft_lab.statistics.power import Variation, minimum_detectable_difference

PUBLISHED_PAIR = Variation(
    paired_sd=56.16,
    seed_sd=math.nan,
    source="the published pair alpaca-7b-neft and alpaca-7b, GPT-4 verdicts",
)
"""From AlpacaEval's annotations of the two models (803 instructions); nobody has published a second seed."""


@dataclass(frozen=True)
class SmallestDifference:
    """The smallest true difference that a design would find with probability `power`."""

    points: float
    """Percentage points for rates, else in the metric's own unit."""
    items: int
    seeds: int
    variation: Variation
    power: float
    alpha: float
    """Two-sided level of one comparison, after sharing 5 % among the comparisons of the family."""
    unit: str = "points"
    items_are: str = "instructions"

    @property
    def assumes_equal_seeds(self) -> bool:
        """Whether nothing is known of how much seeds differ, so that the true answer is larger if they do."""
        return self.seeds > 1 and math.isnan(self.variation.seed_sd)

    def __str__(self) -> str:
        if_equal = ", if seeds do not differ," if self.assumes_equal_seeds else ""
        unit = f" {self.unit}" if self.unit else ""
        seed_sd = (
            "unknown" if math.isnan(self.variation.seed_sd) else f"{_amount(self.variation.seed_sd, 3)}{unit}"
        )
        about = "these two checkpoints" if self.seeds == 1 else f"arms of {self.seeds} seeds"
        return (
            f"{self.items} {self.items_are} can tell {about} apart{if_equal} from {_amount(self.points, 2)}{unit} on "
            f"({self.power:.0%} power, two-sided {self.alpha:.2g}; paired sd {_amount(self.variation.paired_sd, 3)}{unit}, "
            f"seed sd {seed_sd}; from {self.variation.source})"
        )


def _amount(value: float, digits: int) -> str:
    """A few digits of a number; whole from a hundred on."""
    return f"{value:.{digits}g}" if value < 100 else f"{value:.0f}"


def smallest_difference(
    *,
    items: int,
    seeds: int,
    variation: Variation = PUBLISHED_PAIR,
    comparisons: int = 1,
    power: float = 0.8,
    unit: str = "points",
    items_are: str = "instructions",
) -> SmallestDifference:
    """How small a difference a sweep can see, in points or in the `unit` that `variation` is in.

    `variation` names its source: a pilot (`measure_variation`), the published pair, or the user. `comparisons` is the
    size of the family that claims are made about: each is planned at 5 % divided by it, Holm's first step. Where the
    seed variation is not known it is taken as zero, and the answer says so.
    """
    if comparisons < 1:
        raise ValueError(f"a family has at least 1 comparison, got {comparisons}")
    known = replace(variation, seed_sd=0.0) if math.isnan(variation.seed_sd) else variation
    alpha = 0.05 / comparisons
    points = minimum_detectable_difference(
        items=items, seeds=seeds, variation=known, power=power, alpha=alpha
    )
    return SmallestDifference(points, items, seeds, variation, power, alpha, unit, items_are)
