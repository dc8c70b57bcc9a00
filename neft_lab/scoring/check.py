"""Does a model give the same answers under tree masks? Asked of the model itself, once, on a few tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

TokenRequest = tuple[tuple[str, str] | None, list[int], list[int]]
"""Strings (or None), context ids, continuation ids: what lm-eval asks to have scored."""

PROBED_WINDOW = 1024
"""Attention windows up to this size are tried at their edge; longer ones would cost too many tokens."""


def probe_requests(
    config: Any, max_length: int, window: int | None
) -> tuple[list[TokenRequest], list[TokenRequest]]:
    """Two questions with three choices each, one choice going on from another; and the same with other contexts.

    The first question fills a small attention window, so that a model which counts it in places of the row and
    not in positions is found out.
    """
    draws = np.random.default_rng(0)
    vocabulary = int(config.get_text_config().vocab_size)
    edge = window if window is not None and window <= PROBED_WINDOW else 32
    length = max(2, min(edge, max_length) - 9)
    asked, control = list[TokenRequest](), list[TokenRequest]()
    for size in (length, max(1, length // 2)):
        context, other = draws.integers(vocabulary, size=(2, size)).tolist()
        choices = draws.integers(vocabulary, size=(3, 9)).tolist()
        choices[2] = [*choices[0][:4], *choices[2][:5]]
        for choice in choices:
            asked.append((None, context, choice[: max_length - 1]))
            control.append((None, other, choice[: max_length - 1]))
    return asked, control


def agrees(
    found: Sequence[tuple[float, bool]],
    expected: Sequence[tuple[float, bool]],
    control: Sequence[tuple[float, bool]],
    *,
    dtype: torch.dtype,
) -> bool:
    """Whether answers are the expected ones.

    In float32 within ``1e-3 + 1e-5 |log-likelihood|``. In half precision, where rounding alone is larger than
    that, within a tenth (root mean square) of what other contexts make of the same continuations.
    """
    right = np.array([answer for answer, _ in expected])
    errors = np.array([answer for answer, _ in found]) - right
    if not np.isfinite(errors).all():
        return False
    if torch.finfo(dtype).bits >= 32:
        return bool((np.abs(errors) <= 1e-3 + 1e-5 * np.abs(right)).all())
    effects = np.array([answer for answer, _ in control]) - right
    return bool(np.sqrt(np.mean(errors**2)) <= 0.1 * np.sqrt(np.mean(effects**2)))


def smallest_window(config: Any) -> int | None:
    """The smallest attention window among a model's layers, or None where every token sees all before it."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if kinds is not None and all(kind == "full_attention" for kind in kinds):
        return None
    names = ("sliding_window", "attention_chunk_size", "window_size")
    sizes = [size for name in names if isinstance(size := getattr(text, name, None), int)]
    return min(sizes, default=None)
