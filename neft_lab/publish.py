"""What a sweep leaves: leaderboard.csv, tables, figures, report, and the tracker's runs; rebuilt from records."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from neft_lab import tables
from neft_lab.answer import answer_sentence, warnings_of
from neft_lab.claims import DESCRIBED, Arm, Comparison, compare, detectable_difference, make_arms
from neft_lab.config import SweepConfig
from neft_lab.execute import Status
from neft_lab.paths import PACKAGE_DIR
from neft_lab.plan import Plan
from neft_lab.results import CellResult, load_results, metric_names
from neft_lab.store import write_text
from neft_lab.tracking import TrackedSweep, make_tracker

TASKS = ("mmlu", "arc_challenge", "hellaswag", "truthfulqa_mc2")
STAMP = ".published"


@dataclass(frozen=True)
class Findings:
    """All that is said of a sweep, computed once."""

    rows: list[CellResult]
    metrics: list[str]
    arms: list[Arm]
    comparisons: list[Comparison]
    tables: list[tables.Table]
    answer: str
    detectable: str
    points: float | None


def publish(plan: Plan, status: Status, folder: Path, console: Console) -> None:
    """Write everything below the sweep's folder, print the ablation table, and hand it to the tracker."""
    found = find(plan, status)
    _write_tables(found, folder)
    stamp = folder / STAMP
    digest = _content_digest(folder, found.rows)
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != digest:
        draw(plan, found, folder)
        write_text(stamp, digest)
    _print(plan, found, folder, console)
    figures = [(path.stem, path) for path in sorted((folder / "figures").glob("*.svg"))]
    tracker = make_tracker(plan.settings.tracker, Path(plan.settings.results_dir))
    tracker.track(TrackedSweep(plan.name, found.rows, found.tables, figures, plan.sweep.primary,
                               detectable_difference=found.points))  # fmt: skip


def find(plan: Plan, status: Status) -> Findings:
    """Rows to arms, comparisons, tables and the answer."""
    rows = load_results(plan, status)
    metrics = metric_names(rows, first=plan.sweep.primary)
    arms = make_arms(rows, metrics)
    comparisons = compare(rows, plan.sweep, _compared(metrics, plan.sweep))
    shown = [tables.ablation_table(arms, plan.sweep, metrics)]
    if comparisons:
        shown.append(tables.difference_table(comparisons))
    if any("mean_noise_norm" in row.metrics for row in rows):
        shown.append(tables.dose_table(arms))
    smallest = detectable_difference(rows, plan.sweep)
    return Findings(
        rows, metrics, arms, comparisons, shown, answer_sentence(comparisons, plan.sweep, rows),
        f"Smallest difference it could have seen: {smallest}." if smallest else "", smallest.points if smallest else None,
    )  # fmt: skip


def _compared(metrics: Sequence[str], sweep: SweepConfig) -> list[str]:
    wanted = [sweep.primary, "win_rate", *DESCRIBED, *TASKS]
    return [name for name in dict.fromkeys(wanted) if name in metrics]


def _write_tables(found: Findings, folder: Path) -> None:
    write_text(folder / "leaderboard.csv", tables.leaderboard_csv(found.rows, found.metrics))
    write_text(folder / "table.md", tables.to_markdown(found.tables))
    write_text(folder / "table.tex", tables.to_latex(found.tables[0]))
    write_text(folder / "table.csv", tables.to_csv(found.tables[0]))


def draw(plan: Plan, found: Findings, folder: Path) -> None:
    """Figures (SVG and PDF) and report.html."""
    from neft_lab.figures import draw_figures, write_figure
    from neft_lab.report import Report, write_report
    from neft_lab.report.facts import collect_facts
    from neft_lab.report.reader import collect_reader

    axis = plan.sweep.table.rows or "noise.alpha"
    curves = [name for name in ("win_rate", "length_controlled_win_rate", "output_characters", "held_out_loss")
              if name in found.metrics]  # fmt: skip
    drawn = draw_figures(found.arms, found.comparisons, axis=axis, metrics=curves,
                         tasks=[name for name in TASKS if name in found.metrics])  # fmt: skip
    for figure in drawn:
        write_figure(figure, folder / "figures")
    report = Report(
        name=plan.name, question=plan.sweep.question, command=_command(plan), answer=found.answer,
        tables=found.tables[:1], figures=[one for one in drawn if not one.name.startswith("differences")],
        comparisons=found.comparisons, facts=collect_facts(found.rows), reader=collect_reader(found.rows),
        warnings=warnings_of(found.comparisons, found.rows), detectable=found.detectable,
    )  # fmt: skip
    write_report(report, folder / "report.html")


def _command(plan: Plan) -> str:
    return f"python -m neft_lab.run +sweep={plan.sweep.name}" if plan.sweep.name else "python -m neft_lab.run"


def _print(plan: Plan, found: Findings, folder: Path, console: Console) -> None:
    console.print(tables.to_rich(found.tables[0]))
    primary = [one for one in found.comparisons if one.metric == plan.sweep.primary]
    if primary:
        console.print(tables.to_rich(tables.primary_table(primary)))
    for line in (found.answer, found.detectable, f"report: {folder / 'report.html'}"):
        if line:
            console.print(Text(line), soft_wrap=True)


def _content_digest(folder: Path, rows: Sequence[CellResult]) -> str:
    """Changes when a record or the program does; figures and report are redrawn only then."""
    digest = hashlib.sha256((folder / "table.md").read_bytes() + (folder / "leaderboard.csv").read_bytes())
    records: list[Any] = [sorted((stage, record["started"], record["seconds"]) for stage, record in row.records.items())
                          for row in rows]  # fmt: skip
    digest.update(repr(records).encode())
    for path in sorted(PACKAGE_DIR.rglob("*")):
        if path.suffix in (".py", ".html", ".css", ".js", ".jinja") and path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()
