"""The precision asked for."""

from __future__ import annotations

from enum import Enum


class Precision(Enum):
    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"
