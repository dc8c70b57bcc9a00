"""Single steps of the real program, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from neft_lab.execute import freeze
from neft_lab.plan import make_plan
from neft_lab.step import run_step
from neft_lab.store import Store


def run_stages(overrides: Sequence[str], results: Path) -> dict[str, Path]:
    """Plan one run, take its steps in turn as the engine does; the folder of each finished step by stage."""
    store = Store(results)
    plan = make_plan(["judge=none", "leaderboard=none", "analysis=none", "tracker=none", *overrides])
    assert len(plan.cells) == 1
    folders = {}
    for step in plan.steps.values():
        freeze(step, store)
        folders[step.stage] = run_step(store, step.stage, step.key)
    return folders
