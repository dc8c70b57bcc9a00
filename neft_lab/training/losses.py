"""The loss of a micro-batch under a model: which logits are needed, and what the noise's rivals make of them.

Shapes: ``b`` rows, ``t`` tokens of a row, ``n`` weighted targets, ``v`` vocabulary.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from neft_lab.interventions import Interventions
from neft_lab.interventions.regularizers import is_cross_entropy, token_losses
from neft_lab.training.attention import settle_packing, tell_segments
from neft_lab.training.head import fused_losses, is_worth_it, settle_head
from neft_lab.training.packing import MicroBatch


class Losses:
    """Loss of micro-batches on one device.

    model: the one that trains, with adapters or without, not yet wrapped; how it attends within packed rows is settled
    here, and whether output layer and loss are fused. autocast: whether it computes in bfloat16 from wider weights.
    fuse: whether they may be, where the loss is the plain cross-entropy.
    """

    def __init__(
        self,
        model: Any,
        interventions: Interventions,
        *,
        packed: bool,
        autocast: bool,
        device: torch.device,
        fuse: bool,
    ) -> None:
        self._interventions = interventions
        self._device = device
        bare = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._keeps = "logits_to_keep" in inspect.signature(bare.forward).parameters
        self._told = packed and settle_packing(bare, autocast=autocast)
        self.attention = str(bare.config._attn_implementation)
        """Which attention the model computes with."""
        fuse = fuse and self._keeps and is_cross_entropy(interventions.regularizer)
        self._head = settle_head(bare, autocast=autocast) if fuse else None

    @property
    def fused(self) -> bool:
        """Whether micro-batches with many targets never have all their logits in memory."""
        return self._head is not None

    def sum(self, model: Any, micro: MicroBatch, base_logits: Tensor | None) -> Tensor:
        """Weighted sum of the losses of all targets, in nats."""
        targets = self._moved(micro.targets)
        if self._head is not None and is_worth_it(self._head, len(targets)):
            with fused_losses(self._head, targets, self._picked(micro)):
                losses = self._forward(model, micro).flatten().float()
        else:
            losses = token_losses(
                self._logits(model, micro), targets, self._interventions.regularizer, base_logits=base_logits
            )
        return (losses * self._moved(micro.weights)).sum()

    def base_logits(self, micro: MicroBatch, autocast: AbstractContextManager[Any]) -> Tensor | None:
        """What the untouched model says of the same targets (n, v), where the loss asks for it."""
        if self._interventions.untouched is None:
            return None
        with self._interventions.untouched.lent() as base, autocast:
            return self._logits(base, micro)

    def _logits(self, model: Any, micro: MicroBatch) -> Tensor:
        """Logits (n, v) that predict the weighted targets, and no others where the model can leave them out."""
        logits = self._forward(model, micro)
        logits = (logits if self._keeps else logits[:, self._moved(micro.columns)]).flatten(0, 1)
        picked = self._picked(micro)
        return logits if picked is None else logits[picked]

    def _forward(self, model: Any, micro: MicroBatch) -> Tensor:
        """What the output layer gives, at the columns that are needed or at all of them."""
        options: dict[str, Any] = {"use_cache": False}
        if micro.position_ids is None:
            options["attention_mask"] = self._moved(micro.attention_mask)
        else:
            options["position_ids"] = self._moved(micro.position_ids)
            if self._told:
                options |= tell_segments(micro.segment_lengths, self._device)
        if self._keeps:
            options["logits_to_keep"] = self._moved(micro.columns)
        logits: Tensor = model(input_ids=self._moved(micro.input_ids), **options).logits
        return logits

    def _picked(self, micro: MicroBatch) -> Tensor | None:
        every = len(micro.picked) == len(micro.input_ids) * len(micro.columns)
        return None if every else self._moved(micro.picked)

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)
