"""Finished results to a tracker, after the fact: what stands on disk is replayed, as often as one likes."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from neft_lab.config import TrackerConfig, TrackerKind
from neft_lab.tracking.content import TrackedSweep

__all__ = ["NoTracker", "TrackedSweep", "Tracker", "make_tracker"]


class Tracker(Protocol):
    """Shows a sweep somewhere else. The results folder stays the truth; a tracker only copies from it."""

    def track(self, sweep: TrackedSweep) -> None:
        """Send what is new or changed since the last time. Never raises for a service that fails: one warning."""


class NoTracker:
    """Shows nothing anywhere."""

    def track(self, sweep: TrackedSweep) -> None:
        """Do nothing."""


def make_tracker(config: TrackerConfig, folder: Path) -> Tracker:
    """The tracker that ``config`` names; ``folder`` is the results folder, below which it keeps its files."""
    if config.kind is TrackerKind.none:
        return NoTracker()
    from neft_lab.tracking.wandb import WandbTracker

    return WandbTracker(config, folder)
