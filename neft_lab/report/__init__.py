"""report.html: one file that answers the sweep's question and lets its evidence be read, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neft_lab.report.facts import Facts
from neft_lab.report.reader import Reader
from neft_lab.store import write_text

if TYPE_CHECKING:
    from neft_lab.claims.comparisons import Comparison
    from neft_lab.figures import Figure
    from neft_lab.tables import Table

__all__ = ["Report", "write_report"]


@dataclass(frozen=True)
class Report:
    """What the page says. Texts are plain, tables are rounded already."""

    name: str
    question: str
    command: str
    answer: str
    """One or two sentences made from the test results."""
    tables: Sequence[Table]
    figures: Sequence[Figure]
    """Without the forest plot: the page draws the differences in their table."""
    comparisons: Sequence[Comparison]
    facts: Facts
    reader: Reader
    paper: Sequence[Table] = ()
    """The paper's numbers beside ours."""
    warnings: Sequence[str] = ()
    """What a reader must know before believing the answer, such as a judge that is not validated."""
    detectable: str = ""
    """How small a difference this design could have seen."""


def write_report(report: Report, path: Path) -> None:
    """Write the page; equal reports give equal bytes."""
    from neft_lab.report.page import render

    # A model may leave half a surrogate pair, which no UTF-8 file can hold.
    write_text(path, render(report).encode("utf-8", "replace").decode("utf-8"))
