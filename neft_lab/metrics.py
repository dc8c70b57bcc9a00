"""Values of many items as flat metrics: a mean with its interval and its count."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean_metrics(name: str, values: Sequence[float | None]) -> dict[str, float]:
    """The mean of the values that there are, as ``name``, ``name_low``, ``name_high`` (95 %), and ``name_n``.

    Nothing without a single value; no bounds with one alone.
    """
    from neft_lab.statistics import mean_value

    known = [value for value in values if value is not None]
    if not known:
        return {}
    found = mean_value(known)
    metrics = {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high, f"{name}_n": found.n}
    return {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
