"""Output layer and cross-entropy in one, so that the logits of many targets are never in memory all at once.

torch computes them in pieces and again in the backward pass (``torch.nn.functional.linear_cross_entropy``, from 2.13).
Shapes: ``n`` weighted targets, ``d`` width of the output layer's input, ``v`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

DEVICES = ("cuda",)
"""Where it is used. On a CPU the logits of a step fit, and to compute them twice costs time."""


def is_worth_it(head: nn.Linear, targets: int) -> bool:
    """Whether so many targets gain by pieces: torch's own rule, ``n >= d`` and ``v > d``."""
    return targets >= head.in_features and head.out_features > head.in_features


@contextmanager
def fused_losses(head: nn.Linear, targets: Tensor, picked: Tensor | None) -> Iterator[None]:
    """Let the output layer give the losses (n, 1) of targets (n,), in nats, where a model expects its logits.

    picked (n,): which of the layer's flattened inputs predict the targets; None is all of them. The layer is still
    called by its model, so that whatever wraps it (autocast, shards that are gathered) acts as before.
    """
    vars(head)["forward"] = lambda hidden: _losses(head, hidden, targets, picked)
    try:
        yield
    finally:
        del vars(head)["forward"]


def _losses(head: nn.Linear, hidden: Tensor, targets: Tensor, picked: Tensor | None) -> Tensor:
    rows, device = hidden.flatten(0, -2), hidden.device.type
    rows = rows if picked is None else rows[picked]
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.weight.dtype
    bias = None if head.bias is None else head.bias.to(dtype)
    with torch.autocast(device, enabled=False):
        losses = nn.functional.linear_cross_entropy(
            rows.to(dtype), head.weight.to(dtype), targets, linear_bias=bias, reduction="none",
            options=nn.LinearCrossEntropyOptions(),
        )  # fmt: skip
    return losses[:, None]


@torch.no_grad()
def settle_head(model: Any, *, autocast: bool) -> nn.Linear | None:
    """The model's output layer where it may be fused with the loss, else None.

    Decided by what comes out: the losses must be those of the model's logits, which they are not where these are
    scaled or capped after the layer. autocast: whether the model will train under bfloat16's.
    """
    head = model.get_output_embeddings()
    if not hasattr(nn, "LinearCrossEntropyOptions") or type(head) is not nn.Linear:
        return None
    device = head.weight.device
    ids = torch.arange(3, 19, device=device)[None] * 5 % head.out_features
    targets, training = ids.flatten().roll(1), model.training
    model.eval()
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            logits = model(ids, use_cache=False).logits.flatten(0, 1).float()
            with fused_losses(head, targets, None):
                fused = model(ids, use_cache=False).logits.flatten().float()
    finally:
        model.train(training)
    plain = nn.functional.cross_entropy(logits, targets, reduction="none")
    wide = head.weight.dtype in (torch.float32, torch.float64) and not autocast
    exact = fused.shape == plain.shape and torch.allclose(
        fused, plain, rtol=1e-4 if wide else 2e-2, atol=1e-6
    )
    return head if exact else None
