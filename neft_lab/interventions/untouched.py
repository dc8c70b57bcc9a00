"""The model as it was before training, beside the one that trains: what a divergence is measured from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class UntouchedModel:
    """Lends the untouched model for passes without gradients, dropout or noise.

    model: the one that trains, maybe wrapped for data-parallel training. frozen: a copy of what it was, which
    nobody changes; None where the model carries adapters, which are then switched off for the pass and cost no
    memory.
    """

    def __init__(self, model: nn.Module, frozen: nn.Module | None) -> None:
        if frozen is None and not hasattr(_unwrapped(model), "disable_adapter"):
            raise ValueError(f"{type(model).__name__} has no adapters to switch off: pass a frozen copy")
        self._model = model
        self._frozen = frozen

    @contextmanager
    def lent(self) -> Iterator[nn.Module]:
        """The untouched model in eval mode, without gradients; the training model is as before afterwards."""
        if self._frozen is not None:
            with torch.no_grad():
                yield self._frozen.eval()
            return
        model = _unwrapped(self._model)
        training = model.training
        model.eval()
        try:
            with torch.no_grad(), model.disable_adapter():
                yield model
        finally:
            model.train(training)


def _unwrapped(model: Any) -> Any:
    return getattr(model, "module", model)
