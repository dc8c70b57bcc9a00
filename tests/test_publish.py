"""What a sweep leaves says how it was made: the command in the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from neft_lab.plan import make_plan
from neft_lab.publish import command_line

QUICK = ["judge=longest", "leaderboard=none"]


def test_the_command_keeps_what_decides_the_numbers_and_leaves_out_where_it_ran(tmp_path: Path) -> None:
    asked = [
        "+sweep=paper_table12", "scale=tiny", f"results_dir={tmp_path}", "tracker=none", "engine=local",
        "engine.device=cpu", "judge.base_url=http://localhost:8000/v1",
    ]  # fmt: skip
    assert command_line(make_plan(asked)) == (
        "python -m neft_lab.run +sweep=paper_table12 scale=tiny judge.base_url=http://localhost:8000/v1"
    )


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("dataset.path=/home/me/rows.jsonl", "dataset.path=rows.jsonl"),
        ("dataset.path=~/sets/rows.jsonl", "dataset.path=rows.jsonl"),
        ("dataset.path=rows/mine.jsonl", "dataset.path=rows/mine.jsonl"),
        ("dataset.path=/home/me/a.jsonl,/home/me/b.jsonl", "dataset.path=a.jsonl,b.jsonl"),
        ("noise.alpha=0,5", "noise.alpha=0,5"),
    ],
)
def test_folders_above_a_file_stay_out_of_the_command(asked: str, told: str) -> None:
    plan = replace(make_plan([*QUICK, "dataset=starter"]), overrides=(asked,))
    assert command_line(plan) == f"python -m neft_lab.run {told}"


def test_words_that_a_shell_would_split_are_quoted() -> None:
    assert command_line(make_plan([*QUICK, "stages=[train,generate]"])).endswith("'stages=[train,generate]'")
