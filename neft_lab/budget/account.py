"""The estimate as plan.json keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neft_lab.budget.estimate import HOUR, Budget, StepCost, total
from neft_lab.statistics import SmallestDifference


def as_json(budget: Budget, foreseen: SmallestDifference | str | None) -> dict[str, Any]:
    """What is missing of a plan will take, in JSON types; sums are over what is known, ``unknown`` says what is not."""
    return {
        "gpu_hours": budget.gpu_hours,
        "gpu": budget.gpu,
        "wall_seconds": budget.wall,
        "engine": budget.engine,
        "device": budget.device,
        "stages": {stage: _stage(costs) for stage, costs in budget.costs.items()},
        "disk": {"weights_bytes": budget.disk.weights, "checkpoints_bytes": budget.disk.checkpoints},
        "judge": [
            {"judge": one.judge, "cells": one.cells, "calls": one.calls, "usd": one.usd}
            for one in budget.judging.forecasts
        ],
        "usd": budget.judging.usd,
        "smallest_difference": _smallest(foreseen),
        "models": budget.sizes,
        "unknown": budget.unknown,
    }


def _stage(costs: Sequence[StepCost]) -> dict[str, Any]:
    return {
        "steps": len(costs),
        "gpu_hours": total(costs, gpu=True) / HOUR,
        "seconds": total(costs, gpu=False),
        "from": list(dict.fromkeys(cost.told or "no model" for cost in costs)),
    }


def _smallest(foreseen: SmallestDifference | str | None) -> dict[str, Any] | None:
    """None where nothing is compared; points None where they are not known, and why."""
    if foreseen is None:
        return None
    if isinstance(foreseen, str):
        return {"points": None, "reason": foreseen}
    return {"points": foreseen.points, "unit": foreseen.unit, "power": foreseen.power, "alpha": foreseen.alpha,
            "items": foreseen.items, "seeds": foreseen.seeds}  # fmt: skip
