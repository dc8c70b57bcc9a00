"""Scores by instruction or document, read from what the steps left: what paired tests are made of."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from neft_lab.claims.results import CellResult
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
            items = reader(row.folders[stage])
            if row.choosing_share is None or stage not in OF_ANSWERS:
                return items
            return keep_items(items, share=row.choosing_share, choosing=False)
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
        losses = read_json(folder / "losses.json")[name]
        return Items([f"{name}/{number}" for number in range(len(losses))], _holed(losses), scale=1.0)

    return read


def _texts(name: str) -> Callable[[Path], Items]:
    def read(folder: Path) -> Items:
        rows = read_json(folder / "texts.json")
        return Items([row["instruction"] for row in rows], _holed([row[name] for row in rows]), scale=1.0)

    return read


def _likeness(name: str) -> Callable[[Path], Items]:
    def read(folder: Path) -> Items:
        rows = read_json(folder / "training_answers.json")
        return Items([f"train_rows/{row['row']}" for row in rows], [row[name] for row in rows], scale=1.0)

    return read


def _holed(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


READERS: dict[str, tuple[str, Callable[[Path], Items]]] = {
    "win_rate": ("judge", _preferences),
    "output_characters": ("generate", _lengths),
    "held_out_loss": ("analyze", _losses("held_out")),
    "train_rows_loss": ("analyze", _losses("train_rows")),
    "training_rouge_l": ("analyze", _likeness("rouge_l")),
    "training_bleu": ("analyze", _likeness("bleu")),
    "mean_characters": ("describe", _texts("characters")),
    "output_words": ("describe", _texts("words")),
    "repeated_bigrams": ("describe", _texts("repetition")),
    "log_diversity": ("describe", _texts("diversity_intended")),
    "log_diversity_published": ("describe", _texts("diversity_published")),
    "reference_rouge_l": ("describe", _texts("rouge_l")),
    "reference_bleu": ("describe", _texts("bleu")),
}


OF_ANSWERS = ("generate", "describe", "judge")
"""Stages whose items are labelled by the instruction that was answered."""


def keep_items(items: Items, *, share: float, choosing: bool) -> Items:
    """Only the items of the instructions that choose among tries, or only those of the others."""
    kept = [chooses(label, share=share) == choosing for label in items.labels]
    return replace(
        items,
        labels=[label for label, keep in zip(items.labels, kept, strict=True) if keep],
        scores=[score for score, keep in zip(items.scores, kept, strict=True) if keep],
    )


def chooses(instruction: str, *, share: float) -> bool:
    """Whether an instruction is one of the ``share`` that chooses: told from its text, so the same for every cell."""
    digest = hashlib.sha256(instruction.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


@dataclass(frozen=True)
class LengthPair:
    """Two verdicts on one instruction against the same reference, with the lengths in characters behind them."""

    preference: float | None
    length: int
    baseline_preference: float | None
    baseline_length: int
    reference_length: int


def read_length_pair(row: CellResult, base: CellResult) -> dict[str, LengthPair] | None:
    """By instruction, what two judged cells say of it; None where one is not judged or the references differ."""
    if "judge" not in row.folders or "judge" not in base.folders:
        return None
    ours, theirs = (_annotations(one) for one in (row, base))
    shared = [text for text in ours if text in theirs]
    if any(ours[text]["output_1"] != theirs[text]["output_1"] for text in shared):
        return None
    return {
        text: LengthPair(
            ours[text]["preference"], len(ours[text]["output_2"]), theirs[text]["preference"],
            len(theirs[text]["output_2"]), len(ours[text]["output_1"]),
        )
        for text in shared
    }  # fmt: skip


@dataclass(frozen=True)
class LengthTable:
    """Verdicts of several judged cells on the instructions they share: preferences and lengths (s, n), reference lengths (n,)."""

    preferences: list[list[float]]
    lengths: list[list[int]]
    reference_lengths: list[int]


def read_length_table(rows: Sequence[CellResult]) -> LengthTable | None:
    """What is needed to control for length over several seeds; None where a cell is not judged or references differ."""
    if not rows or any("judge" not in row.folders for row in rows):
        return None
    tables = [_annotations(row) for row in rows]
    shared = [text for text in tables[0] if all(text in table for table in tables)]
    references = [{table[text]["output_1"] for table in tables} for text in shared]
    if not shared or any(len(one) > 1 for one in references):
        return None
    return LengthTable(
        [_holed([table[text]["preference"] for text in shared]) for table in tables],
        [[len(table[text]["output_2"]) for text in shared] for table in tables],
        [len(next(iter(one))) for one in references],
    )


def _annotations(row: CellResult) -> dict[str, dict[str, Any]]:
    rows = {one["instruction"]: one for one in read_json(row.folders["judge"] / "annotations.json")}
    if row.choosing_share is None:
        return rows
    return {text: one for text, one in rows.items() if not chooses(text, share=row.choosing_share)}


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
