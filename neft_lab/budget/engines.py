"""How long the steps of a plan take together on an engine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from neft_lab.config import EngineConfig, EngineKind
from neft_lab.plan import Step


def running_at_once(engine: EngineConfig, steps: int) -> int:
    """How many steps run side by side at most."""
    if engine.kind is EngineKind.local:
        return min(1, steps)
    limit: int | None = getattr(engine, "max_parallel", None)
    return steps if limit is None else min(limit, steps)


def wall_seconds(
    steps: Sequence[Step], seconds: Mapping[str, float], engine: EngineConfig, asked: float
) -> float:
    """Wall time of steps (upstream first) with these seconds each, and ``asked`` seconds of verdicts over HTTP.

    One after the other on the local engine; on others no shorter than the longest chain, nor than the sum over the
    steps that run at once.
    """
    total = math.fsum(seconds[step.key] for step in steps)
    ends: dict[str, float] = {}
    for step in steps:
        ends[step.key] = seconds[step.key] + max(
            (ends.get(key, 0.0) for key in step.needs.values()), default=0.0
        )
    at_once = running_at_once(engine, len(steps))
    return asked + max(max(ends.values(), default=0.0), total / max(at_once, 1))
