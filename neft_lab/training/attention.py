"""Attention of packed rows: every segment attends to itself alone, and nothing is computed between segments.

A mask over the whole row gives the same numbers, but pays for the square of the row's length.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SEGMENTS = "neft_lab_segments"
"""Name under which transformers knows this attention."""
HALF = (torch.bfloat16, torch.float16)


def attend_segments(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    segment_lengths: tuple[int, ...] | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each segment: query (b, heads, t, c) -> (b, t, heads, c).

    segment_lengths: tokens of the segments of every row, one after another, together t. Without them a mask says what
    is seen; without a mask a row is one segment.
    """
    if segment_lengths is None and attention_mask is None:
        segment_lengths = (query.shape[2],)
    if segment_lengths is None or options.get("softcap") is not None:
        masked: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return masked
    groups, dtype = query.shape[1] // key.shape[1], value.dtype
    query, key, value = (part.to(_computing_dtype(query)) for part in (query, key, value))
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    with torch.autocast(query.device.type, enabled=False):
        if query.is_cuda and query.dtype in HALF and not dropout:
            attended = _attend_fused(query, key, value, scaling, segment_lengths, sliding_window)
        else:
            parts = zip(*(part.split(segment_lengths, dim=2) for part in (query, key, value)), strict=True)
            each = [
                _attend_one(*one, dropout=dropout, scaling=scaling, window=sliding_window) for one in parts
            ]
            attended = torch.cat(each, dim=2).transpose(1, 2).contiguous()
    return attended.to(dtype), None


def tell_segments(lengths: tuple[int, ...], device: torch.device) -> dict[str, Any]:
    """What a model that attends by ``attend_segments`` is given beside the positions: a row's segments.

    And a mask of one number, which nobody reads: without any, transformers looks for segments in the positions, and
    the host waits for the device in every pass.
    """
    return {"segment_lengths": lengths, "attention_mask": torch.zeros(1, 1, 1, 1, device=device)}


def _computing_dtype(query: Tensor) -> torch.dtype:
    """Autocast's, where it is on; but on a CPU torch's attention is faster in float32 than in half precision."""
    device = query.device.type
    wanted = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    return torch.float32 if device == "cpu" and wanted in HALF else wanted


def _attend_one(
    query: Tensor, key: Tensor, value: Tensor, *, dropout: float, scaling: float | None, window: int | None
) -> Tensor:
    """Causal attention of one segment: (b, heads, t, c) each."""
    length, banded = query.shape[2], window is not None and query.shape[2] > window
    return nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=_banded(length, window, query.device) if banded else None,
        dropout_p=dropout,
        is_causal=not banded,
        scale=scaling,
    )


def _banded(length: int, window: int | None, device: torch.device) -> Tensor:
    """Which key (column) a query (row) sees: itself and the ``window - 1`` before it."""
    assert window is not None
    places = torch.arange(length, device=device)
    behind = places[:, None] - places[None, :]
    return (behind >= 0) & (behind < window)


def _attend_fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    lengths: tuple[int, ...],
    window: int | None,
) -> Tensor:
    """All segments of all rows in one kernel of torch (CUDA, half precision)."""
    from torch.nn.attention.varlen import varlen_attn

    rows, _, tokens, _ = query.shape
    flat_query, flat_key, flat_value = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
    ends = torch.tensor(list(accumulate(lengths * rows, initial=0)), dtype=torch.int32)
    ends = ends.to(query.device, non_blocking=True)
    longest = max(lengths)
    left = -1 if window is None else window - 1
    output = varlen_attn(
        flat_query, flat_key, flat_value, ends, ends, longest, longest, scale=scaling, window_size=(left, 0)
    )
    assert isinstance(output, Tensor)
    return output.view(rows, tokens, *output.shape[1:])


def _mask(*arguments: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    if attention_mask is None:
        return None  # rows without padding: the segments and the window say the rest
    mask: Tensor | None = sdpa_mask(*arguments, attention_mask=attention_mask, **options)
    return mask


AttentionInterface.register(SEGMENTS, attend_segments)
AttentionMaskInterface.register(SEGMENTS, _mask)


@torch.no_grad()
def settle_packing(model: Any, *, autocast: bool = False) -> bool:
    """Choose how a model attends within packed rows; whether segments are to be told to it.

    Decided by what comes out: two segments in one row must give the logits they give alone. First the attention of
    this module is tried, then the masks that transformers makes from restarting positions. Raises ValueError when
    neither is exact (a recurrent model, say). autocast: whether the model will train under bfloat16's.
    """
    before = model.config._attn_implementation
    for told in (True, False):
        try:
            model.set_attn_implementation(SEGMENTS if told else before)
            exact = _is_exact(model, told=told, autocast=autocast)
        except (ValueError, TypeError, KeyError, RuntimeError):
            exact = False
        if exact:
            return told
    model.set_attn_implementation(before)
    raise ValueError(f"{type(model).__name__} mixes the examples of a packed row; use finetune.layout=padded")


def _is_exact(model: Any, *, told: bool, autocast: bool) -> bool:
    device = model.get_input_embeddings().weight.device
    size = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(3, 19, device=device).remainder(size)[None] * 5 % size
    lengths = (7, 9)
    parts = torch.split(ids, list(lengths), dim=1)
    positions = torch.cat([torch.arange(length, device=device) for length in lengths])[None]
    training = model.training
    model.eval()
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            alone = torch.cat([model(part, use_cache=False).logits for part in parts], dim=1).float()
            options = tell_segments(lengths, device) if told else {}
            packed = model(ids, position_ids=positions, use_cache=False, **options).logits.float()
    finally:
        model.train(training)
    tolerance = 1e-3 if _is_wide(model) and not autocast else 5e-2
    return bool((packed - alone).abs().max() <= tolerance * alone.abs().max().clamp(min=1e-6))


def _is_wide(model: Any) -> bool:
    return all(weight.dtype in (torch.float32, torch.float64) for weight in model.parameters())
