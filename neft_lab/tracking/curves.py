"""A step's events as curves: numbers only, each kind of event against its own step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from neft_lab.progress import read_events
from neft_lab.tracking.flat import Flat, split_finite


@dataclass(frozen=True)
class Curves:
    """What a step told while it ran; names are ``kind/name``."""

    points: Mapping[str, list[Flat]]
    """Events with a step, by kind, in order of ``kind/step``."""
    facts: Flat
    """Numbers of the events without a step."""
    not_finite: list[str]
    """Names of which some value was NaN or infinite and is left out."""


def read_curves(folder: Path) -> Curves:
    """The curves of the step in ``folder``; empty where it told nothing."""
    points: dict[str, list[Flat]] = {}
    facts: Flat = {}
    dropped: dict[str, None] = {}
    for event in read_events(folder):
        kind = str(event.get("kind", "event"))
        numbers, not_finite = split_finite({f"{kind}/{name}": value for name, value in event.items()})
        dropped |= dict.fromkeys(not_finite)
        if f"{kind}/step" in numbers:
            points.setdefault(kind, []).append(numbers)
        else:
            facts |= numbers
    return Curves(points, facts, list(dropped))
