"""Parts of a model that are not trained (paper, table 11)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from neft_lab.config import FrozenPart, UserError


def freeze_parts(model: Any, parts: Sequence[FrozenPart]) -> None:
    """Take parts of a model out of training: token embeddings, the head, or all attention (adapters on it too).

    Raises UserError where the parts share a table, and so cannot be told apart.
    """
    _require_separable(model, parts)
    for part in parts:
        for module in _modules(model, part):
            module.requires_grad_(False)


def _require_separable(model: Any, parts: Sequence[FrozenPart]) -> None:
    asked = [part for part in (FrozenPart.embeddings, FrozenPart.lm_head) if part in parts]
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if len(asked) == 1 and table is head and table.requires_grad:
        raise UserError(f"finetune.freeze=[{asked[0].name}] cannot be: this model has one table for embeddings and "
                        "lm_head; freeze both or neither, or take a model with untied tables")  # fmt: skip


def _modules(model: Any, part: FrozenPart) -> Iterator[nn.Module]:
    if part is FrozenPart.embeddings:
        yield model.get_input_embeddings()
    elif part is FrozenPart.lm_head:
        yield model.get_output_embeddings()
    else:
        found = [module for module in model.modules() if type(module).__name__.endswith("Attention")]
        if not found:
            raise UserError(
                f"finetune.freeze=[attention] finds no attention in {type(model).__name__}; leave it out"
            )
        yield from found
