"""What an interval lets us say: preserved or lost, reproduced or not."""

from __future__ import annotations

import math
from enum import StrEnum

from neft_lab.statistics.paired import PairedDifference


class Preservation(StrEnum):
    """Whether an arm kept what the baseline can do."""

    PRESERVED = "preserved"
    LOST = "lost"
    GAINED = "gained"
    UNDECIDED = "undecided"


class Replication(StrEnum):
    """How our effect stands to a published one."""

    REPRODUCED = "reproduced"
    INCONCLUSIVE = "inconclusive"
    OUTSIDE = "outside"


def equivalence(difference: PairedDifference, margin: float) -> Preservation:
    """Test whether a difference lies within `margin` points of zero (two one-sided tests at 5 %; Schuirmann 1987).

    The 90 % interval inside the margin: preserved. Beyond it altogether: lost or gained. Anything else, a missing
    difference included: undecided, for the lack of a difference is no evidence of equality.
    """
    if not margin > 0:
        raise ValueError(f"margin must be > 0 points, got {margin:g}")
    low, high = difference.interval(0.90)
    if high < -margin:
        return Preservation.LOST
    if low > margin:
        return Preservation.GAINED
    if -margin < low and high < margin:
        return Preservation.PRESERVED
    return Preservation.UNDECIDED


def replication(difference: PairedDifference, published: float, margin: float) -> Replication:
    """Compare our effect with a `published` one, both arm minus baseline in points.

    Outside: our 95 % interval excludes the published effect. Reproduced: it holds that effect and not zero, and our
    value is within `margin` of it. Inconclusive otherwise.
    """
    if math.isnan(difference.value):
        return Replication.INCONCLUSIVE
    if not difference.low <= published <= difference.high:
        return Replication.OUTSIDE
    excludes_zero = difference.low > 0 or difference.high < 0
    close = abs(difference.value - published) <= margin
    return Replication.REPRODUCED if excludes_zero and close else Replication.INCONCLUSIVE
