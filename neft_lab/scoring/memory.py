"""How many tokens one pass may hold, from the size of the model and of its device."""

from __future__ import annotations

from typing import Any

import torch

CPU_TOKENS = 1024
"""Beyond about this many a CPU gains nothing."""


def token_budget_of(model: Any, device: torch.device, *, asked: int | None) -> int:
    """Tokens of one pass: what was asked for, or less where the device cannot hold it.

    Counted are a token's keys and values in every layer, kept while its rows run, and the widest layer's
    activations; against the device's memory, not what happens to be free of it, so that a plan can be repeated.
    """
    if device.type != "cuda":
        return asked or CPU_TOKENS
    text = model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    numbers = 2 * text.num_hidden_layers * heads * width + 8 * text.hidden_size + 3 * inner
    size = model.get_input_embeddings().weight.element_size()
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    left = 0.8 * torch.cuda.get_device_properties(device).total_memory - weights
    fitting = max(1, int(left / (2 * numbers * size)))
    return min(asked or 65_536, fitting)


def scored_budget(model: Any, device: torch.device) -> int:
    """Positions of one pass whose logits are held: 256 MiB of float32 on a CPU, 1 GiB elsewhere."""
    held = 1 << 28 if device.type == "cpu" else 1 << 30
    return max(1, int(held // (4 * model.config.get_text_config().vocab_size)))
