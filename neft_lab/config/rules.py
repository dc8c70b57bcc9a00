"""How fields take part in keys, and how a broken rule is told."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import field, fields, is_dataclass
from enum import Enum
from typing import Any


class UserError(Exception):
    """A mistake of the user's, told in one line: key, value, rule, remedy (exit code 2)."""


def key() -> Any:
    """A field that decides the content of what a step writes."""
    return field(metadata={"role": "key"})


def neutral() -> Any:
    """A field that does not decide content, or does so only through the digest of what it names."""
    return field(metadata={"role": "neutral"})


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, and the others."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}known: {', '.join(names)}"


def require(holds: bool, name: str, value: object, rule: str) -> None:
    """Raise a one-line UserError unless the rule holds."""
    if not holds:
        shown = value.name if isinstance(value, Enum) else repr(value)
        raise UserError(f"{name} {rule}, got {shown}")


def role(owner: type, name: str) -> str | None:
    """How a field takes part in keys: ``key``, ``neutral``, or None where nobody has said."""
    for item in fields(owner):
        if item.name == name:
            return item.metadata.get("role")
    raise KeyError(name)


def identity(value: Any) -> Any:
    """The plain, canonical form of a config value with its neutral fields left out."""
    if is_dataclass(value) and not isinstance(value, type):
        kept = [item.name for item in fields(value) if item.metadata.get("role") != "neutral"]
        return {name: identity(getattr(value, name)) for name in kept}
    return plain(value)


def plain(value: Any) -> Any:
    """A config value as JSON types: dataclasses to dicts, enums to their names."""
    if isinstance(value, Enum):
        return value.name
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
