"""The plan as it is printed: what all cells share once, and a line per cell with what varies and what is done."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from neft_lab.execute import Status
from neft_lab.explain import print_cells
from neft_lab.plan import Plan, make_plan


def printed(plan: Plan, *, done: int) -> list[str]:
    """The cells where the first steps of the plan are done."""
    steps, told = list(plan.steps.values()), io.StringIO()
    status = Status(done={step.key: Path() for step in steps[:done]}, failed={}, missing=steps[done:])
    print_cells(plan, status, Console(file=told, width=80))
    return told.getvalue().splitlines()


def test_what_all_cells_share_is_told_once_and_the_rest_by_cell() -> None:
    plan = make_plan(["+sweep=paper_table12"])
    shared, *cells = printed(plan, done=0)
    assert shared.startswith("all cells: model=llama1_7b, dataset=evol_instruct, finetune=paper_7b")
    assert cells == [
        "regularizer=none, noise.alpha=0: missing",
        "regularizer=none, noise.alpha=10: missing",
        "regularizer=freelb, noise.alpha=0: missing",
    ]


def test_a_cell_of_which_a_part_is_done_tells_which() -> None:
    plan = make_plan(["+sweep=paper_table12"])
    assert [step.stage for step in plan.steps.values()][:2] == ["train", "generate"]
    _, first, second, _ = printed(plan, done=2)
    assert first.endswith("alpha=0: train, generate done; describe, judge missing")
    assert second.endswith("alpha=10: missing")


def test_a_single_run_is_a_line() -> None:
    assert printed(make_plan(["judge=none", "leaderboard=none", "stages=[train]"]), done=0) == [
        "run: missing"
    ]
