"""What is said of a sweep: tables from real steps over made-up answers and verdicts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neft_lab.claims.findings import Findings, find
from neft_lab.execute import freeze, read_status
from neft_lab.plan import make_plan
from neft_lab.step import run_step
from neft_lab.store import Store
from neft_lab.tables import Table

PUBLISHED = Path(__file__).parents[1].parent / "shared" / "data" / "alpaca_eval"
SWEEP = """# @package _global_
sweep:
  name: two_models
  question: Are longer answers preferred?
  zip:
    generation.outputs: [{outputs}]
    judge.annotations: [{annotations}]
    noise.alpha: [0, 10]
  table: {{rows: noise.alpha, columns: generation.outputs, values: [win_rate, output_characters, repeated_bigrams]}}
"""


def run_sweep(folder: Path, outputs: list[Path], annotations: list[Path]) -> Findings:
    """Plan a sweep over files of answers and verdicts, take its steps, and say what was found."""
    (folder / "sweep").mkdir(parents=True)
    text = SWEEP.format(outputs=", ".join(map(str, outputs)), annotations=", ".join(map(str, annotations)))
    (folder / "sweep" / "two_models.yaml").write_text(text, encoding="utf-8")
    plan = make_plan(
        ["+sweep=two_models", "generation=file", "judge=file", "dataset=alpaca", "stages=[generate,describe,judge]"],
        config_dir=folder,
    )  # fmt: skip
    store = Store(folder / "results")
    for step in plan.steps.values():
        freeze(step, store)
        run_step(store, step.stage, step.key)
    return find(plan, read_status(plan, store))


def table(found: Findings, title: str) -> Table:
    return next(one for one in found.tables if one.title == title)


def write_rows(path: Path, answers: list[tuple[str, float]]) -> tuple[Path, Path]:
    outputs = [{"instruction": f"Question {number}?", "output": text, "generator": path.stem, "dataset": "mine"}
               for number, (text, _) in enumerate(answers)]  # fmt: skip
    verdicts = [
        {"instruction": row["instruction"], "output_1": "reference", "output_2": row["output"], "preference": preference,
         "annotator": "somebody"}
        for row, (_, preference) in zip(outputs, answers, strict=True)
    ]  # fmt: skip
    path.with_suffix(".json").write_text(json.dumps(outputs), encoding="utf-8")
    path.with_suffix(".verdicts.json").write_text(json.dumps(verdicts), encoding="utf-8")
    return path.with_suffix(".json"), path.with_suffix(".verdicts.json")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    folder = tmp_path_factory.mktemp("made_up")
    short = write_rows(folder / "short", [("word " * 5, 1.0), ("word " * 4, 2.0), ("word " * 70, 1.0)])
    long = write_rows(folder / "long", [("other words " * 60, 2.0)] * 2 + [("one", 1.0)])
    return run_sweep(folder / "conf", [short[0], long[0]], [short[1], long[1]])


def test_outputs_are_described_with_the_chunk_they_were_counted_over(found: Findings) -> None:
    texts = table(found, "What the outputs look like")
    assert "repeated 2-grams %" in texts.header and "log-diversity as published" in texts.header
    place = texts.header.index("repeated 2-grams %")
    assert [row[place].split(" ")[0] for row in texts.rows] == ["97.9", "95.8"]  # 47 of 48 pairs, 46 of 48
    assert any("first 50 words" in note for note in texts.notes)


def test_win_rates_by_length_count_the_verdicts_of_each_band(found: Findings) -> None:
    bands = table(found, "Win rate by output length")
    counts = [[cell.rpartition("(")[2].rstrip(")") for cell in row[1:]] for row in bands.rows]
    assert counts == [["2", "1", "–", "–", "–"], ["1", "–", "2", "–", "–"]]
    assert bands.rows[0][1].startswith("50 [") and bands.rows[1][3].startswith("100 [")


def test_paths_are_named_by_their_file_and_nothing_is_bold_without_a_validated_judge(found: Findings) -> None:
    whole = found.tables[0]
    assert whole.header[1:4] == [
        "short.json win rate %",
        "short.json output characters",
        "short.json repeated 2-grams %",
    ]
    assert not whole.strong


def test_there_is_no_table_of_what_was_not_measured(found: Findings) -> None:
    titles = [one.title for one in found.tables]
    assert "What the models remember" not in titles and "Noise given" not in titles
    assert found.paper == []


def test_the_public_outputs_have_their_known_win_rates_by_length(tmp_path: Path) -> None:
    names = ["alpaca-7b", "alpaca-7b-neft"]
    files = [
        [PUBLISHED / f"{name}{end}" for name in names]
        for end in (".json", ".alpaca_eval_gpt4.annotations.json")
    ]
    if not all(path.is_file() for group in files for path in group):
        pytest.skip("AlpacaEval's outputs and verdicts are not here: they may not be copied into the project")
    bands = table(run_sweep(tmp_path / "conf", *files), "Win rate by output length")
    assert [cell.split(" ")[0] + " " + cell.rpartition(" ")[2] for cell in bands.rows[1][1:]] == [
        "23 (39)", "37 (114)", "55 (236)", "76 (378)", "75 (36)",
    ]  # fmt: skip
