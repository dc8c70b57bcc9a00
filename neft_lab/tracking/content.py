"""What each tracked run says: one per training, one per cell, one per sweep. Plain data, no tracker in sight."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from neft_lab.config import plain
from neft_lab.store import canonical_json, make_key
from neft_lab.tracking.flat import Flat, flatten, slug, split_finite
from neft_lab.tracking.redaction import Redactor

if TYPE_CHECKING:
    from neft_lab.claims.results import CellResult
    from neft_lab.tables import Table

Item = TypeVar("Item")

LOCAL_PARTS = {"dry_run", "engine", "explain", "results_dir", "stages", "sweep", "tracker"}
"""Parts of a run's configuration that say how it was carried out, not what it is."""


@dataclass(frozen=True)
class TrackedSweep:
    """A sweep as it stands on disk, finished or not.

    figures: (title, path of a png, svg or html file). comparisons: a table of answers side by side for a cell, by
    ``CellResult.label``; the only place where text of models is sent. detectable_difference: the smallest difference
    of the primary metric that the sweep could have seen, in points.
    """

    name: str
    rows: Sequence[CellResult]
    tables: Sequence[Table] = ()
    figures: Sequence[tuple[str, Path]] = ()
    primary: str = "win_rate"
    comparisons: Mapping[str, Table] = field(default_factory=dict)
    detectable_difference: float | None = None


@dataclass(frozen=True)
class TextTable:
    """A table of strings."""

    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class RunContent:
    """All that one run of a tracker says, and nothing about when or how it is sent."""

    id: str
    name: str
    job_type: str
    group: str
    config: Flat
    """Keys are dotted: ``noise.alpha``."""
    summary: Flat
    """Finite numbers, and sentences about what is missing."""
    notes: str = ""
    tags: tuple[str, ...] = ()
    tables: Mapping[str, TextTable] = field(default_factory=dict)
    figures: Mapping[str, Path] = field(default_factory=dict)
    events: Path | None = None
    """Folder of the finished step whose events are the run's curves."""

    def digest(self) -> str:
        """Equal for equal content. Events are told by their size alone: those of a finished step never change."""
        parts = {item.name: plain(getattr(self, item.name)) for item in fields(self)}
        parts["figures"] = {
            name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in self.figures.items()
        }
        log = self.events / "events.jsonl" if self.events else None
        parts["events"] = log.stat().st_size if log and log.is_file() else 0
        return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def describe(sweep: TrackedSweep, redactor: Redactor) -> list[RunContent]:
    """All runs of a sweep, without secrets: trainings, cells, and the sweep last."""
    trained = {row.keys["train"]: row for row in sweep.rows if _was_trained(row)}
    runs = [_training(key, row, sweep.name) for key, row in trained.items()]
    runs += [_cell(row, sweep) for row in sweep.rows]
    return [_redact(run, redactor) for run in (*runs, _whole(sweep))]


def _was_trained(row: CellResult) -> bool:
    record = row.records.get("train")
    return record is not None and record["config"]["finetune"]["method"] != "none"


def _training(key: str, row: CellResult, sweep: str) -> RunContent:
    record = row.records["train"]
    about = {
        name: record.get(name) for name in ("key", "commit", "started", "seconds", "environment", "resolved")
    }
    return RunContent(
        id=f"train-{key}-{slug(sweep)}",
        name=record["name"],
        job_type="train",
        group=sweep,
        config=flatten(record["config"]) | flatten(about),
        summary=_numbers(record["metrics"]),
        events=row.folders["train"],
    )


def _cell(row: CellResult, sweep: TrackedSweep) -> RunContent:
    config = {name: part for name, part in plain(row.config).items() if name not in LOCAL_PARTS}
    about = {"axes": row.axes, "baseline": row.baseline or {}, "keys": row.keys}
    seconds = {f"seconds.{stage}": record.get("seconds") for stage, record in row.records.items()}
    holes = {f"holes.{stage}": why for stage, why in row.holes.items()}
    comparison = sweep.comparisons.get(row.label)
    return RunContent(
        id=f"cell-{make_key({'axes': row.axes, 'steps': row.keys})}-{slug(sweep.name)}",
        name=row.label,
        job_type="cell",
        group=sweep.name,
        config=flatten(config) | flatten(about),
        summary=_numbers(row.metrics | seconds) | holes,
        tags=("baseline",) if row.baseline is None else (),
        tables={} if comparison is None else {"tables/comparison": _text(comparison)},
    )


def _whole(sweep: TrackedSweep) -> RunContent:
    axes: dict[str, list[Any]] = {}
    for row in sweep.rows:
        for name, value in row.axes.items():
            if value not in axes.setdefault(name, []):
                axes[name].append(value)
    counts = {"cells": len(sweep.rows), "cells_with_holes": sum(bool(row.holes) for row in sweep.rows)}
    return RunContent(
        id=f"sweep-{slug(sweep.name)}",
        name=sweep.name,
        job_type="sweep",
        group=sweep.name,
        config={"sweep": sweep.name, "primary": sweep.primary} | flatten({"axes": axes}),
        summary=_numbers(counts | {"detectable_difference": sweep.detectable_difference}),
        notes="\n\n".join("\n- ".join([table.title, *table.notes]) for table in sweep.tables),
        tables=_named("tables", [(table.title, _text(table)) for table in sweep.tables]),
        figures=_named("figures", sweep.figures),
    )


def _numbers(values: Mapping[str, Any]) -> Flat:
    finite, rest = split_finite(values)
    return finite | ({"not_finite": ", ".join(rest)} if rest else {})


def _text(table: Table) -> TextTable:
    return TextTable(list(table.header), [list(row) for row in table.rows])


def _named(kind: str, items: Iterable[tuple[str, Item]]) -> dict[str, Item]:
    """Items by ``kind/title``; a title that comes again is numbered."""
    found: dict[str, Item] = {}
    for title, item in items:
        name = first = f"{kind}/{slug(title)}"
        for number in itertools.count(2):
            if name not in found:
                break
            name = f"{first}-{number}"
        found[name] = item
    return found


def _redact(run: RunContent, redactor: Redactor) -> RunContent:
    return replace(
        run,
        name=redactor.text(run.name),
        config=redactor.value(run.config),
        summary=redactor.value(run.summary),
        notes=redactor.text(run.notes),
        tables={
            name: TextTable(redactor.value(table.header), redactor.value(table.rows))
            for name, table in run.tables.items()
        },
    )
