"""Many comparisons: p-values adjusted over a declared family."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from neft_lab.statistics.scores import Floats


def holm(p_values: ArrayLike) -> Floats:
    """Adjust p-values so that claims over the family err together at the nominal rate (Holm 1979).

    NaN is a comparison that could not be made: it stays NaN and does not count in the family.
    """
    return _adjust(p_values, "holm")


def benjamini_hochberg(p_values: ArrayLike) -> Floats:
    """Adjust p-values to control the share of false discoveries: for exploration, not for claims. NaN as in `holm`."""
    return _adjust(p_values, "fdr_bh")


def _adjust(p_values: ArrayLike, method: Literal["holm", "fdr_bh"]) -> Floats:
    from statsmodels.stats.multitest import multipletests

    values = np.asarray(p_values, dtype=np.float64)
    made = ~np.isnan(values)
    adjusted = np.full_like(values, math.nan)
    if made.any():
        adjusted[made] = multipletests(values[made], method=method)[1]
    return adjusted
