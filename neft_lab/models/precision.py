"""Which dtype weights are kept in, for each precision that a run may ask for."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from neft_lab.config import FinetuneConfig, Method

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def resolve_precision(asked: str, device: str) -> str:
    """``auto`` to bf16 on a GPU and fp32 on a CPU."""
    if asked != "auto":
        return asked
    return "bf16" if device == "cuda" else "fp32"


@dataclass(frozen=True)
class WeightDtypes:
    """Dtypes of a training's weights: ``trained`` of those that learn, ``base`` of those below adapters."""

    base: torch.dtype
    trained: torch.dtype


def training_dtypes(config: FinetuneConfig, device: str) -> WeightDtypes:
    """What a precision means for the weights.

    fp32: all float32. bf16: what learns is kept in float32 and computed in bfloat16 (autocast); weights below
    adapters, which only compute, are bfloat16. bf16_pure: all bfloat16, as the paper's commands have it.
    """
    precision = resolve_precision(config.precision.name, device)
    if precision == "fp32":
        return WeightDtypes(torch.float32, torch.float32)
    if precision == "bf16_pure":
        return WeightDtypes(torch.bfloat16, torch.bfloat16)
    whole = config.method is Method.full
    return WeightDtypes(torch.float32 if whole else torch.bfloat16, torch.float32)
