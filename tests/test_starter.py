"""The package's own instruction set: enough of it, varied, and no leak between its parts."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from neft_lab.paths import STARTER_DIR

SPLITS = {"train": 240, "evaluation": 96, "validation": 48}
FIELDS = {"id", "category", "instruction", "input", "output"}
RUN = 8
"""Words in a row that no two instructions may share."""
NEAR = 0.5
"""Share of common words (Jaccard) from which two instructions count as near copies."""
PUBLIC = Path(__file__).resolve().parents[2] / "shared/data/alpaca_eval/reference_ae1.json"


def read(split: str) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (STARTER_DIR / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


ROWS = {split: read(split) for split in SPLITS}
EVERY = [row for rows in ROWS.values() for row in rows]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_is_as_large_as_promised(split: str) -> None:
    assert len(ROWS[split]) >= SPLITS[split]


@pytest.mark.parametrize("split", SPLITS)
def test_every_row_has_its_fields_as_clean_text(split: str) -> None:
    wanted = FIELDS - {"input"} if split == "evaluation" else FIELDS
    for number, row in enumerate(ROWS[split], start=1):
        assert set(row) == wanted, row["id"]
        assert row["id"] == f"{split}-{number:03}"
        for name, text in row.items():
            assert isinstance(text, str) and text == text.strip(), f"{row['id']} {name}"
            assert text or name == "input", f"{row['id']} {name} is empty"
            assert not re.search(r"[\x00-\x08\x0b-\x1f\ufffd]", text), (
                f"{row['id']} {name} holds control characters"
            )


@pytest.mark.parametrize("split", SPLITS)
def test_every_kind_of_request_is_there(split: str) -> None:
    kinds = Counter(row["category"] for row in ROWS[split])
    assert set(kinds) >= {"open_question", "how_to", "rewriting", "brainstorming", "reasoning", "code"}
    assert min(kinds.values()) >= len(ROWS[split]) / 30, f"too few of some kind: {kinds}"


def test_training_has_rows_with_and_without_input() -> None:
    share = sum(bool(row["input"]) for row in ROWS["train"]) / len(ROWS["train"])
    assert 0.1 < share < 0.6


@pytest.mark.parametrize("split", SPLITS)
def test_answers_run_from_one_line_to_several_paragraphs(split: str) -> None:
    outputs = [row["output"] for row in ROWS[split]]
    short = [text for text in outputs if "\n" not in text and len(words(text)) <= 40]
    long = [text for text in outputs if text.count("\n\n") >= 2 and len(words(text)) >= 120]
    assert len(short) >= len(outputs) / 20 and len(long) >= len(outputs) / 20
    assert max(map(len, outputs)) < 6000


def test_no_instruction_is_there_twice() -> None:
    asked = Counter(" ".join(words(row["instruction"] + " " + row.get("input", ""))) for row in EVERY)
    assert not [text for text, count in asked.items() if count > 1]
    bare = Counter(" ".join(words(row["instruction"])) for row in EVERY)
    assert not [text for text, count in bare.items() if count > 1]


def test_no_two_instructions_share_eight_words_in_a_row() -> None:
    seen: dict[tuple[str, ...], str] = {}
    shared = []
    for row in EVERY:
        told = words(row["instruction"])
        for start in range(len(told) - RUN + 1):
            run = tuple(told[start : start + RUN])
            if seen.setdefault(run, row["id"]) != row["id"]:
                shared.append(f"{seen[run]} and {row['id']}: {' '.join(run)}")
    assert not shared


def test_no_instruction_is_a_near_copy_of_another() -> None:
    sets = [(row["id"], set(words(row["instruction"]))) for row in EVERY]
    near = [
        f"{one} and {other}"
        for (one, first), (other, second) in combinations(sets, 2)
        if len(first & second) >= NEAR * len(first | second)
    ]
    assert not near


def test_no_answer_is_there_twice() -> None:
    assert max(Counter(" ".join(words(row["output"])) for row in EVERY).values()) == 1


def test_no_instruction_comes_from_alpaca_eval() -> None:
    if not PUBLIC.is_file():
        pytest.skip("AlpacaEval's instructions (not ours to ship) are not beside the checkout")
    public = [row["instruction"] for row in json.loads(PUBLIC.read_text(encoding="utf-8"))]
    assert len(public) == 805
    ours = {" ".join(words(row["instruction"])) for row in EVERY}
    assert not ours & {" ".join(words(text)) for text in public}
    runs = {tuple(told[at : at + RUN]) for told in map(words, public) for at in range(len(told) - RUN + 1)}
    copied = [
        row["id"]
        for row in EVERY
        for told in [words(row["instruction"])]
        if any(tuple(told[at : at + RUN]) in runs for at in range(len(told) - RUN + 1))
    ]
    assert not copied


def test_the_starter_set_is_given_away() -> None:
    assert "CC0" in (STARTER_DIR / "LICENSE").read_text(encoding="utf-8")
