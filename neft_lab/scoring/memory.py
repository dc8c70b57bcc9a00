"""How many tokens one pass may hold, from the size of the model and of its device; and what passes leave behind."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

CPU_TOKENS = 1024
"""Beyond about this many a CPU gains nothing."""

GPU_TOKENS = 65_536


def token_budget_of(model: Any, device: torch.device, *, asked: int | None) -> int:
    """Tokens of one pass: what was asked for, or less where the device cannot hold it."""
    if device.type != "cuda":
        return asked or CPU_TOKENS
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    # Of the device's memory, not of what happens to be free of it, so that a plan can be repeated.
    left = 0.8 * torch.cuda.get_device_properties(device).total_memory - weights
    size = model.get_input_embeddings().weight.element_size()
    fitting = max(1, int(left / (2 * size * _numbers_held(model.config.get_text_config()))))
    return min(asked or GPU_TOKENS, fitting)


def _numbers_held(config: Any) -> int:
    """What one token of a pass occupies: keys and values of every layer, and the activations of one."""
    hidden: int = config.hidden_size
    layers: int = config.num_hidden_layers
    heads = getattr(config, "num_attention_heads", 1)
    groups = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or hidden // heads
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    return int(2 * layers * groups * width + 8 * hidden + 3 * inner)


def scored_budget(model: Any, device: torch.device) -> int:
    """Positions of one pass whose logits are held: 256 MiB of float32 on a CPU, 1 GiB elsewhere."""
    held = 1 << 28 if device.type == "cpu" else 1 << 30
    return max(1, int(held // (4 * model.config.get_text_config().vocab_size)))


def release_freed(device: torch.device) -> None:
    """Give memory that a pass on a CPU has freed back to the system.

    glibc keeps gaps between the aligned blocks of tensors that the next pass, a little smaller, does not fill: without
    this hundreds of passes grow by gigabytes. On a GPU torch's own allocator keeps order.
    """
    trim = _malloc_trim() if device.type == "cpu" else None
    if trim is not None:
        trim(0)


@lru_cache(maxsize=1)
def _malloc_trim() -> Callable[[int], int] | None:
    """None where the C library is not glibc."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return found
