"""What a run or sweep may cost before it is allowed to start."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from neft_lab.config.rules import neutral, require


class Gpu(Enum):
    """GPUs whose speed is known to the estimate (``neft_lab.budget.speed``)."""

    v100 = "v100"
    a100 = "a100"
    l40s = "l40s"
    rtx_4090 = "rtx_4090"
    h100 = "h100"
    h200 = "h200"


@dataclass
class BudgetConfig:
    """Limits on what is missing of a plan; null is no limit."""

    max_gpu_hours: float | None = neutral()
    max_usd: float | None = neutral()
    """Dollars for verdicts."""
    gpu: Gpu = neutral()
    """The GPU that hours are estimated for where none has been measured."""

    def __post_init__(self) -> None:
        for name in ("max_gpu_hours", "max_usd"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"budget.{name}", value, "must be >= 0 or null")
