"""The describe stage: what outputs look like, by hand and for the public NEFTune outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neft_lab.claims.items import read_items
from neft_lab.claims.results import CellResult
from neft_lab.store import read_json
from tests.steps import run_stages

PUBLISHED = Path(__file__).parents[1].parent / "shared" / "data" / "alpaca_eval"
REPEATING = "a b a b a b"  # r2 = 1/2, r3 = 1/3, r4 = 0 over the first six words: see the paper's formula
DIVERSE = "a b c d e f g h"


def describe(outputs: Path, results: Path, *more: str) -> Path:
    overrides = ["generation=file", f"generation.outputs={outputs}", "stages=[generate,describe]", *more]
    return run_stages(overrides, results)["describe"]


def write_outputs(path: Path, texts: list[str]) -> Path:
    rows: list[dict[str, Any]] = [
        {"instruction": f"Question {number}?", "output": text, "generator": "somebody", "dataset": "mine"}
        for number, text in enumerate(texts)
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_metrics_are_the_means_over_outputs_that_reach_the_chunk(tmp_path: Path) -> None:
    outputs = write_outputs(tmp_path / "outputs.json", [REPEATING, DIVERSE, "too short"])
    metrics = read_json(describe(outputs, tmp_path, "analysis.chunks.other=6") / "record.json")["metrics"]
    assert metrics["mean_characters"] == pytest.approx((11 + 15 + 9) / 3)
    assert metrics["output_words"] == pytest.approx((6 + 8 + 2) / 3)
    assert (metrics["output_words_n"], metrics["repeated_bigrams_n"]) == (3, 2)
    assert metrics["repeated_bigrams"] == pytest.approx(25)
    assert metrics["log_diversity"] == pytest.approx((0.405465 + 20) / 2, abs=1e-6)
    assert metrics["log_diversity_published"] == pytest.approx((4.789494 + 20) / 2, abs=1e-6)
    assert metrics["diversity_ceiling"] == 1
    assert "reference_rouge_l" not in metrics, "a file of outputs brings no reference answers"


def test_a_set_of_short_outputs_has_lengths_and_no_diversity(tmp_path: Path) -> None:
    outputs = write_outputs(tmp_path / "outputs.json", ["", "one"])
    metrics = read_json(describe(outputs, tmp_path) / "record.json")["metrics"]
    assert metrics["output_words"] == 0.5
    assert not [name for name in metrics if "diversity" in name or "bigrams" in name]


def test_items_carry_holes_where_an_output_is_too_short(tmp_path: Path) -> None:
    outputs = write_outputs(tmp_path / "outputs.json", [REPEATING, "too short"])
    folder = describe(outputs, tmp_path, "analysis.chunks.other=6")
    row = CellResult({}, None, False, {}, None, folders={"describe": folder})
    items = read_items(row, "repeated_bigrams")
    assert items is not None
    assert items.labels == ["Question 0?", "Question 1?"]
    assert items.scores[0] == 50 and items.scores[1] != items.scores[1]


def test_likeness_to_the_reference_is_measured_where_there_is_one(tiny_llama: Path, tmp_path: Path) -> None:
    folders = run_stages(
        ["model=local", f"model.path={tiny_llama}", "finetune=none", "generation.limit=3", "generation.max_new_tokens=8"],
        tmp_path,
    )  # fmt: skip
    metrics = read_json(folders["describe"] / "record.json")["metrics"]
    assert (metrics["reference_rouge_l_n"], metrics["reference_bleu_n"]) == (3, 3)
    assert 0 <= metrics["reference_bleu"] < 20


@pytest.mark.parametrize(
    ("model", "characters", "words", "kept", "at_cap", "repeats", "published", "intended"),
    [
        ("alpaca-7b-neft", 1067.4957, 170.6969, 759, 538, 1.41908, 16.45439, 15.11847),
        ("alpaca-7b", 396.2932, 66.0609, 468, 135, 5.03472, 11.05396, 7.79536),
    ],
)
def test_the_public_outputs_have_their_known_answers(
    tmp_path: Path, model: str, characters: float, words: float, kept: int, at_cap: int, repeats: float,
    published: float, intended: float,
) -> None:  # fmt: skip
    path = PUBLISHED / f"{model}.json"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here: AlpacaEval's outputs may not be copied into the project")
    metrics = read_json(describe(path, tmp_path, "dataset=alpaca") / "record.json")["metrics"]
    assert metrics["mean_characters"] == pytest.approx(characters, abs=1e-4)
    assert metrics["output_words"] == pytest.approx(words, abs=1e-4)
    assert (metrics["repeated_bigrams_n"], metrics["diversity_ceiling"]) == (kept, at_cap)
    assert metrics["repeated_bigrams"] == pytest.approx(repeats, abs=1e-5)
    assert metrics["log_diversity_published"] == pytest.approx(published, abs=1e-5)
    assert metrics["log_diversity"] == pytest.approx(intended, abs=1e-5)
