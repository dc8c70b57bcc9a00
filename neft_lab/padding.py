"""Rows of ids to one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def pad_rows(
    rows: Sequence[Sequence[int]], filler: int, *, side: Literal["left", "right"], device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Rows as one tensor (b, t), ``filler`` beside the shorter ones, and its mask (b, t): 1 on what was given."""
    parts = [torch.tensor(row) for row in rows]
    padded = pad_sequence(parts, batch_first=True, padding_value=filler, padding_side=side)
    mask = pad_sequence([torch.ones_like(part) for part in parts], batch_first=True, padding_side=side)
    return padded.to(device), mask.to(device)
