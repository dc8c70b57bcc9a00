"""Sweeps as the program leaves them, made up: arms, comparisons, and finished cells on disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

from neft_lab.claims import Arm, Comparison
from neft_lab.results import CellResult
from neft_lab.statistics import Estimate, PairedDifference
from neft_lab.statistics.spread import Spread
from neft_lab.store import write_json

Values = Mapping[str, tuple[float, float]]
"""By metric: the value and half the width of its interval."""


def make_arm(axes: dict[str, Any], values: Values, *, rows: Sequence[CellResult] = ()) -> Arm:
    estimates = {
        name: Estimate(value, half / 2, value - half, value + half, n=100) for name, (value, half) in values.items()
    }
    return Arm(axes, list(rows), estimates)


def make_arms(*, metrics: Sequence[str] = ("win_rate", "output_characters"), **axes: Sequence[Any]) -> list[Arm]:
    """Every combination of the axes (``noise__alpha`` for ``noise.alpha``), each metric rising from arm to arm."""
    names = [name.replace("__", ".") for name in axes]
    return [
        make_arm(
            dict(zip(names, values, strict=True)),
            {metric: (40 + 2 * number + 100 * place, 2.5 + 10 * place) for place, metric in enumerate(metrics)},
        )
        for number, values in enumerate(product(*axes.values()))
    ]


def make_comparison(
    arm: dict[str, Any],
    value: float,
    half: float,
    *,
    metric: str = "win_rate",
    verdict: str = "cannot tell apart",
    about: Literal["checkpoints", "arms"] = "arms",
    adjusted_p: float | None = 0.3,
    flags: Sequence[str] = (),
) -> Comparison:
    seeds = 1 if about == "checkpoints" else 3
    difference = PairedDifference(
        value=value, standard_error=half / 2, low=value - half, high=value + half, p_value=0.2, n=805, dropped=0,
        seeds=seeds, about=about, test="sign_flip" if seeds == 1 else "crossed_t",
        spread=Spread(0.0, (half / 2) ** 2, seeds, 805),
    )  # fmt: skip
    return Comparison(metric, arm, {**arm, "noise.alpha": 0}, difference, adjusted_p, verdict, list(flags))
