"""Nested values to the flat, finite, plain ones that a tracker can show."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

Flat = dict[str, Any]


def flatten(value: Any, prefix: str = "") -> Flat:
    """One mapping with dotted keys; lists of plain values stay lists, other lists are numbered."""
    if isinstance(value, Mapping):
        parts = list(value.items())
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value):
        parts = list(enumerate(value))
    else:
        return {prefix: _leaf(value)}
    found: Flat = {}
    for name, item in parts:
        found |= flatten(item, f"{prefix}.{name}" if prefix else str(name))
    return found


def _leaf(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_leaf(item) for item in value]
    if value is None or isinstance(value, bool | int | str) or is_finite(value):
        return value
    return str(value)


def is_number(value: Any) -> bool:
    """Whether a value is an int or a float; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Whether a value is a number and neither NaN nor infinite."""
    return is_number(value) and math.isfinite(value)


def split_finite(values: Mapping[str, Any]) -> tuple[Flat, list[str]]:
    """The finite numbers among some values, and the names of those numbers that are not finite."""
    finite = {name: value for name, value in values.items() if is_finite(value)}
    return finite, [name for name, value in values.items() if is_number(value) and name not in finite]


def slug(text: str, *, longest: int = 64) -> str:
    """A text as part of an id or a name: letters, digits, ``_``, ``-`` and ``.``."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-")[:longest] or "untitled"
