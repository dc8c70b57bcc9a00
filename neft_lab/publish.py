"""What a sweep leaves: leaderboard.csv, tables, figures, report, and the tracker's runs; rebuilt from records."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from neft_lab import tables, typeset
from neft_lab.claims.answer import warnings_of
from neft_lab.claims.comparisons import DESCRIBED
from neft_lab.claims.findings import TASKS, Findings, find
from neft_lab.claims.results import CellResult
from neft_lab.execute import Status
from neft_lab.lock.content import write_lock
from neft_lab.paper import write_paper
from neft_lab.paths import PACKAGE_DIR, without_folders
from neft_lab.plan import Plan
from neft_lab.store import write_text
from neft_lab.tracking import TrackedSweep, make_tracker
from neft_lab.tracking.answers import answer_table
from neft_lab.tracking.flat import slug

CURVES = ("win_rate", "length_controlled_win_rate", "output_characters", "repeated_bigrams", "held_out_loss")
"""What is drawn against the axis of a sweep, after its primary metric."""
STAMP = ".published"


def publish(plan: Plan, status: Status, folder: Path, console: Console) -> None:
    """Write everything below the sweep's folder, print the ablation table, and hand it to the tracker."""
    found = find(plan, status)
    write_tables(plan, found, folder)
    stamp = folder / STAMP
    digest = _content_digest(folder, found.rows, command_line(plan))
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != digest:
        draw(plan, found, folder)
        write_text(stamp, digest)
    write_lock(plan, status, folder, command=command_line(plan))
    _print(plan, found, folder, console)
    figures = [(path.stem, path) for path in sorted((folder / "figures").glob("*.svg"))]
    tracker = make_tracker(plan.settings.tracker, Path(plan.settings.results_dir))
    answers = {row.label: table for row in found.rows if (table := answer_table(row)) is not None}
    tracker.track(TrackedSweep(plan.name, found.rows, found.tables, figures, plan.sweep.primary, answers,
                               detectable_difference=found.points))  # fmt: skip


def write_tables(plan: Plan, found: Findings, folder: Path) -> None:
    """All tables on one page of Markdown and one of LaTeX, the sweep's own as table.csv, the others beside it."""
    write_text(folder / "leaderboard.csv", tables.leaderboard_csv(found.rows, found.metrics))
    write_text(folder / "table.md", typeset.to_markdown(found.tables))
    write_text(folder / "table.tex", typeset.to_latex(found.tables))
    first, *others = found.tables
    write_text(folder / "table.csv", typeset.to_csv(first))
    for table in others:
        write_text(folder / "tables" / f"{slug(table.title).lower()}.csv", typeset.to_csv(table))
    if found.published:
        write_paper(plan, found.published, folder)


def draw(plan: Plan, found: Findings, folder: Path) -> None:
    """Figures (SVG and PDF) and report.html."""
    from neft_lab.figures import draw_figures, write_figure
    from neft_lab.report import Report, write_report
    from neft_lab.report.facts import collect_facts
    from neft_lab.report.reader import collect_reader

    axis = plan.sweep.table.rows or "noise.alpha"
    curves = [name for name in dict.fromkeys([plan.sweep.primary, *CURVES]) if name in found.metrics]
    drawn = draw_figures(found.arms, found.comparisons, axis=axis, metrics=curves,
                         tasks=[name for name in TASKS if name in found.metrics])  # fmt: skip
    for figure in drawn:
        write_figure(figure, folder / "figures")
    report = Report(
        name=plan.name, question=plan.sweep.question, command=command_line(plan), answer=found.answer,
        tables=found.shown, paper=found.paper, figures=[one for one in drawn if not one.name.startswith("differences")],
        comparisons=found.comparisons, facts=collect_facts(found.rows), reader=collect_reader(found.reported),
        warnings=warnings_of([one for one in found.comparisons if _claims(one.metric, plan)], found.reported), detectable=found.detectable,
    )  # fmt: skip
    write_report(report, folder / "report.html")


def _claims(metric: str, plan: Plan) -> bool:
    """Whether anything is claimed about a metric; what is only described has its remarks in the table."""
    return metric == plan.sweep.primary or metric not in DESCRIBED


PLACES = ("results_dir", "tracker", "engine", "dry_run")
"""Keys, and groups of keys, that say where somebody works and nothing of what comes out."""


def command_line(plan: Plan) -> str:
    """The command that gives these tables, without what concerns one machine only."""
    kept = [one for one in plan.overrides if re.split(r"[.=]", one, maxsplit=1)[0] not in PLACES]
    return shlex.join(["python", "-m", "neft_lab.run", *map(without_folders, kept)])


def _print(plan: Plan, found: Findings, folder: Path, console: Console) -> None:
    console.print(typeset.to_rich(found.tables[0]))
    primary = [one for one in found.comparisons if one.metric == plan.sweep.primary]
    if primary:
        console.print(typeset.to_rich(tables.primary_table(primary)))
    for line in (found.answer, found.detectable, f"report: {folder / 'report.html'}"):
        if line:
            console.print(Text(line), soft_wrap=True)


def _content_digest(folder: Path, rows: Sequence[CellResult], command: str) -> str:
    """Changes when a record, the program or the command does; figures and report are redrawn only then."""
    digest = hashlib.sha256((folder / "table.md").read_bytes() + (folder / "leaderboard.csv").read_bytes())
    digest.update(command.encode())
    records: list[Any] = [sorted((stage, record["started"], record["seconds"]) for stage, record in row.records.items())
                          for row in rows]  # fmt: skip
    digest.update(repr(records).encode())
    for path in sorted(PACKAGE_DIR.rglob("*")):
        if path.suffix in (".py", ".html", ".css", ".js", ".jinja") and path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()
