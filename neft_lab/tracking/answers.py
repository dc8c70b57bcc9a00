"""A cell's first answers with their verdicts, as a table for its run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neft_lab.store import read_json

if TYPE_CHECKING:
    from neft_lab.claims.results import CellResult
    from neft_lab.tables import Table

MOST = 50
"""Rows; report.html has them all, and a grid of whole ones would fill the disk of whoever tracks offline."""


def answer_table(row: CellResult) -> Table | None:
    """Instruction, reference, answer and preference of the first judged rows; None for a cell without verdicts."""
    from neft_lab.tables import Table

    if "judge" not in row.folders:
        return None
    found = read_json(row.folders["judge"] / "annotations.json")
    header = ["instruction", "output_1", "output_2", "preference"]
    rows = [["" if one.get(name) is None else str(one[name]) for name in header] for one in found[:MOST]]
    return Table("Answers", ["instruction", "reference", "answer", "preference"], rows,
                 [f"The first {len(rows)} of {len(found)}; preference 1: the reference, 2: the answer."])  # fmt: skip
