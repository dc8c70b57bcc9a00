"""What a sweep leaves: leaderboard.csv, tables, figures, report, and the tracker's runs; rebuilt from records."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from rich.console import Console

from neft_lab import tables
from neft_lab.claims import DESCRIBED, Comparison, compare, make_arms
from neft_lab.config import SweepConfig
from neft_lab.execute import Status
from neft_lab.paths import PACKAGE_DIR
from neft_lab.plan import Plan
from neft_lab.results import CellResult, load_results, metric_names
from neft_lab.store import canonical_json, write_text


def publish(plan: Plan, status: Status, folder: Path, console: Console) -> None:
    """Write everything below the sweep's folder and print the ablation table."""
    rows = load_results(plan, status)
    metrics = metric_names(rows, first=plan.sweep.primary)
    arms = make_arms(rows, metrics)
    comparisons = compare(rows, plan.sweep, _compared(metrics, plan.sweep))
    shown = [tables.ablation_table(arms, plan.sweep, metrics)]
    if comparisons:
        shown.append(tables.difference_table(comparisons))
    if any("mean_noise_norm" in row.metrics for row in rows):
        shown.append(tables.dose_table(arms))
    write_text(folder / "leaderboard.csv", tables.leaderboard_csv(rows, metrics))
    write_text(folder / "table.md", tables.to_markdown(shown))
    write_text(folder / "table.tex", tables.to_latex(shown[0]))
    write_text(folder / "table.csv", tables.to_csv(shown[0]))
    console.print(tables.to_rich(shown[0]))
    primary = [one for one in comparisons if one.metric == plan.sweep.primary]
    if primary:
        console.print(tables.to_rich(tables.difference_table(primary)))


def _compared(metrics: list[str], sweep: SweepConfig) -> list[str]:
    tasks = [name for name in metrics if name in ("mmlu", "arc_challenge", "hellaswag", "truthfulqa_mc2")]
    wanted = [sweep.primary, "win_rate", *DESCRIBED, *tasks]
    return [name for name in dict.fromkeys(wanted) if name in metrics]


def content_digest(rows: list[CellResult], comparisons: list[Comparison]) -> str:
    """Changes when a record or the program does; figures and report are redrawn only then."""
    records: list[Any] = [[row.keys, row.holes, sorted(row.metrics.items())] for row in rows]
    code = hashlib.sha256()
    for path in sorted(PACKAGE_DIR.rglob("*")):
        if path.suffix in (".py", ".html", ".css", ".js", ".jinja") and path.is_file():
            code.update(path.read_bytes())
    return hashlib.sha256((canonical_json(records) + code.hexdigest()).encode()).hexdigest()
