"""Scores by instruction or document, read from what the steps left: what paired tests are made of."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from neft_lab.results import CellResult
from neft_lab.store import read_json


@dataclass(frozen=True)
class Items:
    """Scores of one cell on one metric, one per instruction, document or row.

    scores lie in [0, 1] where ``scale`` is 100, else in the metric's own unit; NaN is a hole. ``clusters`` names the
    subject of each item where items of a subject are not independent; ``macro`` counts subjects alike.
    """

    labels: Sequence[str]
    scores: Sequence[float]
    scale: float = 100.0
    clusters: Sequence[str] | None = None
    macro: bool = False
    test: Literal["sign_flip", "mcnemar"] = "sign_flip"


def read_items(row: CellResult, metric: str) -> Items | None:
    """The items behind a metric of a cell; None where it has none or its step is not done."""
    for name, (stage, reader) in READERS.items():
        if metric == name and stage in row.folders:
            return reader(row.folders[stage])
    if "leaderboard" in row.folders and metric in row.metrics:
        return _documents(row.folders["leaderboard"], metric)
    return None


def _preferences(folder: Path) -> Items:
    from neft_lab.statistics import preference_scores

    rows = read_json(folder / "annotations.json")
    scores = preference_scores([row["preference"] for row in rows])
    return Items([row["instruction"] for row in rows], scores.tolist())


def _lengths(folder: Path) -> Items:
    rows = read_json(folder / "outputs.json")
    return Items([row["instruction"] for row in rows], [len(row["output"]) for row in rows], scale=1.0)


def _losses(name: str) -> Callable[[Path], Items]:
    def read(folder: Path) -> Items:
        losses: list[float] = read_json(folder / "losses.json")[name]
        return Items([f"{name}/{number}" for number in range(len(losses))], losses, scale=1.0)

    return read


READERS: dict[str, tuple[str, Callable[[Path], Items]]] = {
    "win_rate": ("judge", _preferences),
    "output_characters": ("generate", _lengths),
    "held_out_loss": ("analyze", _losses("held_out")),
    "train_rows_loss": ("analyze", _losses("train_rows")),
}


def _documents(folder: Path, metric: str) -> Items | None:
    benchmark = metric.removesuffix("_weighted")
    rows = [row for row in _read_lines(folder / "documents.jsonl") if row["benchmark"] == benchmark]
    if not rows:
        return None
    scores = [float(row["correct"]) for row in rows]
    labels = [f"{row['task']}/{row['doc_id']}" for row in rows]
    grouped = any(row["task"] != benchmark for row in rows)
    if grouped:
        return Items(labels, scores, clusters=[row["task"] for row in rows], macro=metric == benchmark)
    binary = all(score in (0.0, 1.0) for score in scores)
    return Items(labels, scores, test="mcnemar" if binary else "sign_flip")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def align(items: Sequence[Items]) -> tuple[list[str], list[list[float]]]:
    """Scores of several cells on the same labels, in the order they are first seen; a label a cell lacks is NaN."""
    labels = list(dict.fromkeys(label for one in items for label in one.labels))
    tables = [dict(zip(one.labels, one.scores, strict=True)) for one in items]
    return labels, [[table.get(label, math.nan) for label in labels] for table in tables]
