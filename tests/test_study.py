"""The study that the repository holds: as its lock says, and as the README tells it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from neft_lab.lock.__main__ import SAME, main

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "results" / "starter_study" / "sweeps" / "starter_study"


def told() -> list[list[str]]:
    """The README's rows of the study: arm, metric, difference, verdict."""
    _, _, section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## A study that ran")
    block = section.split("```")[1]
    return [[cell.strip() for cell in line.split("|")] for line in block.strip().splitlines()[1:]]


def test_the_study_is_what_its_lock_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(STUDY)]) == SAME
    assert "tables rebuilt from records are the same" in capsys.readouterr().out


def test_the_readme_tells_the_studys_differences() -> None:
    with (STUDY / "tables" / "differences-from-the-baseline.csv").open(encoding="utf-8") as file:
        rows = [
            [row["arm"], row["metric"], row["difference"], row["verdict"]] for row in csv.DictReader(file)
        ]
    with (STUDY / "tables" / "controls.csv").open(encoding="utf-8") as file:
        rows += [
            [row["control"], "held-out loss, nats", row["difference"], row["verdict"]]
            for row in csv.DictReader(file)
        ]
    assert len(told()) >= 8
    assert [row for row in told() if row not in rows] == []


def test_the_study_has_no_holes() -> None:
    with (STUDY / "leaderboard.csv").open(encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == 14
    assert all(cell["held_out_loss"] and cell["output_characters"] and cell["mmlu"] for cell in cells)
