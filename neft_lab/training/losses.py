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
from neft_lab.interventions.regularizers import token_losses
from neft_lab.training.attention import settle_packing, tell_segments
from neft_lab.training.packing import MicroBatch


class Losses:
    """Loss of micro-batches on one device.

    model: the one that trains, with adapters or without, not yet wrapped; how it attends within packed rows is settled
    here. autocast: whether it computes in bfloat16 from wider weights.
    """

    def __init__(
        self, model: Any, interventions: Interventions, *, packed: bool, autocast: bool, device: torch.device
    ) -> None:
        self._interventions = interventions
        self._device = device
        bare = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._keeps = "logits_to_keep" in inspect.signature(bare.forward).parameters
        self._told = packed and settle_packing(bare, autocast=autocast)
        self.attention = str(bare.config._attn_implementation)
        """Which attention the model computes with."""

    def sum(self, model: Any, micro: MicroBatch, base_logits: Tensor | None) -> Tensor:
        """Weighted sum of the losses of all targets, in nats."""
        losses = token_losses(
            self._logits(model, micro), self._moved(micro.targets), self._interventions.regularizer,
            base_logits=base_logits,
        )  # fmt: skip
        return (losses * self._moved(micro.weights)).sum()

    def base_logits(self, micro: MicroBatch, autocast: AbstractContextManager[Any]) -> Tensor | None:
        """What the untouched model says of the same targets (n, v), where the loss asks for it."""
        if self._interventions.untouched is None:
            return None
        with self._interventions.untouched.lent() as base, autocast:
            return self._logits(base, micro)

    def _logits(self, model: Any, micro: MicroBatch) -> Tensor:
        """Logits (n, v) that predict the weighted targets, and no others where the model can leave them out."""
        options: dict[str, Any] = {"use_cache": False}
        if micro.position_ids is None:
            options["attention_mask"] = self._moved(micro.attention_mask)
        else:
            options["position_ids"] = self._moved(micro.position_ids)
            if self._told:
                options |= tell_segments(micro.segment_lengths, self._device)
        columns = self._moved(micro.columns)
        if self._keeps:
            options["logits_to_keep"] = columns
        logits: Tensor = model(input_ids=self._moved(micro.input_ids), **options).logits
        logits = (logits if self._keeps else logits[:, columns]).flatten(0, 1)
        return logits if len(micro.picked) == len(logits) else logits[self._moved(micro.picked)]

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)
