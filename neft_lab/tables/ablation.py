"""The sweep's own layout: its axes against its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from neft_lab.claims.comparisons import Arm
from neft_lab.claims.labels import title_of, varying_axes
from neft_lab.claims.results import CellResult, shown
from neft_lab.config import SweepConfig
from neft_lab.tables.table import Table, rounded


def ablation_table(
    arms: Sequence[Arm], sweep: SweepConfig, metrics: Sequence[str], *, best: Mapping[str, frozenset[int]]
) -> Table:
    """The sweep's own layout: one line per value of ``table.rows``, one block of columns per value of ``columns``.

    best: by metric, the places of the arms that a comparison with the best leaves; they are printed in bold.
    """
    values = [name for name in sweep.table.values or [sweep.primary, *USUAL] if name in metrics]
    values = list(dict.fromkeys(values)) or list(metrics)[:4]
    varying = varying_axes([arm.axes for arm in arms])
    row_key = sweep.table.rows if sweep.table.rows in varying else next(iter(varying), "")
    column_key = sweep.table.columns if sweep.table.columns in varying else None
    columns = list(dict.fromkeys(shown(arm.axes.get(column_key)) for arm in arms)) if column_key else [""]
    rest = [
        name for name in varying if name not in (row_key, column_key) and not _follows(arms, name, column_key)
    ]
    keys = [*rest, row_key] if row_key else []
    lines = list(dict.fromkeys(tuple(shown(arm.axes.get(name)) for name in keys) for arm in arms))
    header = [*(name.rsplit(".", 1)[-1] for name in keys),
              *(" ".join(filter(None, (column, title_of(name)))) for column in columns for name in values)]  # fmt: skip
    rows, strong = [], set[tuple[int, int]]()
    for number, line in enumerate(lines):
        row = list(line)
        for column in columns:
            place = _find(arms, dict(zip(keys, line, strict=True)), column_key, column)
            strong |= {
                (number, len(row) + at) for at, name in enumerate(values) if place in best.get(name, ())
            }
            row += [print_estimate(None if place is None else arms[place], name) for name in values]
        rows.append(row)
    notes = _notes(arms, values) + ([BOLD] if strong else [])
    return Table(sweep.name or "run", header, rows, notes, frozenset(strong))


USUAL = ("length_controlled_win_rate", "output_characters", "repeated_bigrams", "held_out_loss")
"""What a table shows that no sweep file lays out, after the primary metric."""
BOLD = "Bold: cannot be ruled out as the best (comparison with the best, 5 %, Holm)."


def _follows(arms: Sequence[Arm], name: str, column_key: str | None) -> bool:
    """Whether an axis has one value in each column, as a data set's own prompt has."""
    pairs = {(shown(arm.axes.get(column_key)), shown(arm.axes.get(name))) for arm in arms if column_key}
    return bool(pairs) and len(pairs) == len({column for column, _ in pairs})


def _find(arms: Sequence[Arm], line: dict[str, str], column_key: str | None, column: str) -> int | None:
    wanted = line | ({column_key: column} if column_key else {})
    for place, arm in enumerate(arms):
        if all(shown(arm.axes.get(name)) == value for name, value in wanted.items()):
            return place
    return None


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


def print_estimate(arm: Arm | None, metric: str) -> str:
    """An arm's estimate of a metric; a dash where there is none, with a dagger where a hole is why."""
    if arm is None:
        return "–"
    estimate = arm.estimates[metric]
    text = rounded(estimate.value, estimate.low, estimate.high)
    return f"{text} †" if any(row.holes for row in arm.rows) and text == "–" else text
