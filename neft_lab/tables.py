"""Rows and claims to tables: Markdown, LaTeX, CSV and the terminal; nothing is computed here but rounding."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from neft_lab.claims import Arm, Comparison
from neft_lab.config import SweepConfig
from neft_lab.results import CellResult, shown

if TYPE_CHECKING:
    from rich.table import Table as RichTable

ENDS = ("", "_low", "_high", "_n")
UNITS = {
    "win_rate": "win rate %",
    "length_controlled_win_rate": "length-controlled win rate %",
    "output_characters": "output characters",
    "held_out_loss": "held-out loss, nats",
    "train_rows_loss": "training-row loss, nats",
    "mmlu": "MMLU %",
    "mmlu_weighted": "MMLU by document %",
    "arc_challenge": "ARC-Challenge %",
    "hellaswag": "HellaSwag %",
    "truthfulqa_mc2": "TruthfulQA mc2 %",
}


@dataclass(frozen=True)
class Table:
    """A table of text, rounded for printing."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


def leaderboard_csv(rows: Sequence[CellResult], metrics: Sequence[str]) -> str:
    """One line per cell: axes, then metric, its bounds and count for every metric, in full precision."""
    axes = list(dict.fromkeys(name for row in rows for name in row.axes))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*axes, *(f"{metric}{end}" for metric in metrics for end in ENDS)])
    for row in rows:
        values = [_full(row.metrics.get(f"{metric}{end}")) for metric in metrics for end in ENDS]
        writer.writerow([*(_full(row.axes.get(name)) for name in axes), *values])
    return text.getvalue()


def _full(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return repr(value) if isinstance(value, float) else str(value)


def rounded(value: float, low: float, high: float) -> str:
    """A number with its 95 % interval, to no more digits than the interval supports."""
    if math.isnan(value):
        return "–"
    if math.isnan(low) or math.isnan(high):
        return f"{value:.4g}"
    digits = _digits((high - low) / 2)
    value, low, high = (round(number, digits) + 0.0 for number in (value, low, high))  # + 0.0: no minus zero
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _digits(half: float) -> int:
    """Decimals that keep one digit of the interval's half width: 0 from 1 on, 1 from 0.1 on, at most 4."""
    return 0 if half <= 0 or not math.isfinite(half) else max(0, min(4, -math.floor(math.log10(half))))


def title_of(metric: str) -> str:
    return UNITS.get(metric, metric.replace("_", " "))


def ablation_table(arms: Sequence[Arm], sweep: SweepConfig, metrics: Sequence[str]) -> Table:
    """The sweep's own layout: one line per value of ``table.rows``, one block of columns per value of ``columns``."""
    values = [name for name in sweep.table.values if name in metrics] or list(metrics)[:4]
    varying = _varying(arms)
    row_key = sweep.table.rows if sweep.table.rows in varying else next(iter(varying), "")
    column_key = sweep.table.columns if sweep.table.columns in varying else None
    columns = list(dict.fromkeys(shown(arm.axes.get(column_key)) for arm in arms)) if column_key else [""]
    rest = [name for name in varying if name not in (row_key, column_key)]
    keys = [*rest, row_key] if row_key else []
    lines = list(dict.fromkeys(tuple(shown(arm.axes.get(name)) for name in keys) for arm in arms))
    header = [*(name.removeprefix("noise.") for name in keys),
              *(" ".join(filter(None, (column, title_of(name)))) for column in columns for name in values)]  # fmt: skip
    rows = []
    for line in lines:
        cells = []
        for column in columns:
            arm = _find(arms, dict(zip(keys, line, strict=True)), column_key, column)
            cells += [_cell(arm, name) for name in values]
        rows.append([*line, *cells])
    return Table(sweep.name or "run", header, rows, _notes(arms, values))


def _varying(arms: Sequence[Arm]) -> list[str]:
    names = dict.fromkeys(name for arm in arms for name in arm.axes)
    return [name for name in names if len({shown(arm.axes.get(name)) for arm in arms}) > 1]


def _find(arms: Sequence[Arm], line: dict[str, str], column_key: str | None, column: str) -> Arm | None:
    for arm in arms:
        same = all(shown(arm.axes.get(name)) == value for name, value in line.items())
        if same and (column_key is None or shown(arm.axes.get(column_key)) == column):
            return arm
    return None


def _cell(arm: Arm | None, metric: str) -> str:
    if arm is None:
        return "–"
    estimate = arm.estimates[metric]
    text = rounded(estimate.value, estimate.low, estimate.high)
    return f"{text} †" if any(row.holes for row in arm.rows) and text == "–" else text


def _notes(arms: Sequence[Arm], metrics: Sequence[str]) -> list[str]:
    notes = ["In brackets: 95 % intervals."]
    counts = {arm.estimates[name].n for arm in arms for name in metrics[:1]} - {0}
    if counts:
        notes[0] += f" {title_of(metrics[0])}: n = {', '.join(map(str, sorted(counts)))}."
    seeds = {len(arm.rows) for arm in arms}
    notes.append(
        "One seed per arm." if seeds == {1} else f"Seeds per arm: {', '.join(map(str, sorted(seeds)))}."
    )
    holes = hole_rows([row for arm in arms for row in arm.rows])
    notes += _told_holes(holes, sum(len(arm.rows) for arm in arms))
    if any(row.added for arm in arms for row in arm.rows):
        notes.append("The baseline was added: other cells are compared with it.")
    return notes


def _told_holes(holes: Sequence[tuple[str, str, str]], cells: int) -> list[str]:
    """One line per reason, with the cells it concerns."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for cell, stage, why in holes:
        by_reason.setdefault((stage, why), []).append(cell)
    return [
        f"† {'all cells' if len(names) == cells else '; '.join(names)}, {stage}: {why}"
        for (stage, why), names in by_reason.items()
    ]


def hole_rows(rows: Sequence[CellResult]) -> list[tuple[str, str, str]]:
    """Cell, stage and reason of everything that is missing."""
    return [(row.label, stage, why) for row in rows for stage, why in row.holes.items()]


def difference_table(comparisons: Sequence[Comparison]) -> Table:
    """Every arm minus its baseline, with interval, test and verdict."""
    rows = []
    for one in comparisons:
        difference = one.difference
        rows.append([
            one.label, title_of(one.metric), rounded(difference.value, difference.low, difference.high),
            f"{difference.n} x {difference.seeds}", _p(difference.p_value),
            "" if one.adjusted_p is None else _p(one.adjusted_p), one.verdict,
            "; ".join(flag for flag in one.flags if flag != one.verdict),
        ])  # fmt: skip
    about = {one.difference.about for one in comparisons}
    notes = [
        "Arm minus baseline on the same items and seeds, with 95 % intervals; Holm over the primary metric."
    ]
    if "checkpoints" in about:
        notes.append(
            "With one seed per arm these are differences of two checkpoints, not of two ways of training."
        )
    return Table("Differences from the baseline", ["arm", "metric", "difference", "items x seeds", "p", "p (Holm)",
                                                   "verdict", "remarks"], rows, notes)  # fmt: skip


def primary_table(comparisons: Sequence[Comparison]) -> Table:
    """The differences of one metric, narrow enough for a terminal."""
    whole = difference_table(comparisons)
    kept = [
        place
        for place, name in enumerate(whole.header)
        if name != "metric" and any(row[place] for row in whole.rows)
    ]
    rows = [[row[place] for place in kept] for row in whole.rows]
    title = f"{whole.title}: {title_of(comparisons[0].metric)}"
    return Table(title, [whole.header[place] for place in kept], rows, whole.notes)


def _p(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def dose_table(arms: Sequence[Arm]) -> Table:
    """The noise that was really given, as measured while training."""
    header = ["arm", "norm per example", "noise RMS / embedding RMS", "equivalent alpha"]
    rows = []
    for arm in arms:
        metrics = arm.rows[0].metrics
        if "mean_noise_norm" in metrics:
            names = ("mean_noise_norm", "noise_to_embedding_rms", "equivalent_alpha")
            rows.append([arm.label, *(f"{metrics[name]:.3g}" for name in names)])
    notes = [
        "Equivalent alpha: the alpha of the paper's training code with the same mean norm, sqrt(3) times it."
    ]
    return Table("Noise given", header, rows, notes)


def to_csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([table.header, *table.rows])
    return text.getvalue()


def to_markdown(tables: Sequence[Table]) -> str:
    """All tables as one Markdown page."""
    from tabulate import tabulate

    parts = []
    for table in tables:
        body = tabulate(_escaped(table.rows), headers=table.header, tablefmt="github", disable_numparse=True)
        notes = "\n".join(f"- {note}" for note in table.notes)
        parts.append(f"## {table.title}\n\n{body}\n\n{notes}\n")
    return "\n".join(parts)


def _escaped(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]


def to_latex(table: Table) -> str:
    """A booktabs table; needs \\usepackage{booktabs}."""
    import pandas

    frame = pandas.DataFrame(table.rows, columns=table.header)
    styled = (
        frame.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
    )
    text: str = styled.to_latex(hrules=True, column_format="l" * len(table.header))
    return text.replace("–", "--").replace("†", "\\dag{}")


def to_rich(table: Table) -> RichTable:
    """The table for the terminal."""
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(
        title=table.title, caption="\n".join(table.notes), caption_justify="left", title_justify="left"
    )
    for name in table.header:
        drawn.add_column(Text(name))
    for row in table.rows:
        drawn.add_row(*map(Text, row))
    return drawn
