"""The paper's numbers as data, their runs, and the verdicts."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest

from neft_lab.claims.results import CellResult
from neft_lab.config import UserError
from neft_lab.paper import paper_table, read_numbers, set_beside, write_paper
from neft_lab.paper.cells import EVALUATORS
from neft_lab.paper.numbers import NO_RUN, baseline_of, numbers_of
from neft_lab.plan import make_plan
from neft_lab.plan.keys import options
from tests.paper_cases import cells_of, described, find, judged, plan_of

SWEEPS = [name.removeprefix("paper_") for name in options("sweep") if name.startswith("paper_")]
SWEEPS.remove("published")
ARTIFACTS = {f"table{number}" for number in (1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14)} | {"figure2", "figure3"}


def test_all_399_rows_are_read_and_no_two_say_the_same() -> None:
    numbers = read_numbers()
    keys = {(one.artifact, one.model, one.dataset, one.method, one.variant, one.noise, one.alpha, one.metric, one.judge)
            for one in numbers}  # fmt: skip
    assert len(numbers) == len(keys) == 399


def test_win_rates_of_the_chatgpt_judge_are_half_instructions_of_805() -> None:
    """Win rates printed in tables are k / 1610 at two decimals: 68 cells (checked against the paper)."""
    cells = [one.value for one in read_numbers() if one.judge == "chatgpt" and one.artifact.startswith("table")
             and one.metric == "win_rate"]  # fmt: skip
    assert len(cells) == 68
    assert all(min(abs(value - round(k * 50 / 805, 2)) for k in range(1611)) < 1e-9 for value in cells)


EFFECTS = {
    ("table1", "llama2_7b, alpaca, neftune 5"): 34.90,
    ("table1", "llama2_7b, mean, neftune"): 15.09,
    ("table2", "llama2_70b, evol_instruct, neftune 15"): 13.78,
    ("table2", "llama2_7b_chat, base"): -3.07,
    ("table3", "llama2_13b, evol_instruct, neftune 15"): 0.43,
    ("table5", "llama1_7b, alpaca, sft (min_new_tokens 250)"): 6.22,
    ("table6", "llama2_7b, alpaca, neftune gaussian 5"): 12.67,
    ("table11", "llama2_7b, alpaca, neftune 5 (frozen embeddings)"): 12.80,
    ("table12", "llama1_7b, evol_instruct, freelb"): 1.18,
    ("table13", "llama2_7b, sharegpt, neftune (split 1024)"): 2.67,
    ("table14", "llama2_7b, alpaca, neftune 5 (epochs 9)"): 10.69,
}
"""Differences of printed cells, by hand."""


@pytest.mark.parametrize(("artifact", "label"), EFFECTS)
def test_a_number_is_compared_with_the_plain_fine_tuning_of_its_own_row(artifact: str, label: str) -> None:
    numbers = numbers_of(artifact)
    (number,) = [one for one in numbers if one.label == label and one.metric == "win_rate"]
    baseline = baseline_of(number, numbers)
    assert baseline is not None and baseline.method == "sft"
    assert number.value - baseline.value == pytest.approx(EFFECTS[artifact, label])


def test_plain_fine_tuning_counts_and_answers_of_one_length_have_no_effect() -> None:
    for artifact in ("table14", "published"):
        numbers = numbers_of(artifact)
        for number in numbers:
            if number.label.endswith("sft") or number.unit == "count" or "chars" in number.label:
                assert baseline_of(number, numbers) is None


def test_an_unknown_artifact_is_told_with_the_nearest() -> None:
    with pytest.raises(
        UserError, match="sweep.paper 'tabel5' has no published numbers; did you mean 'table5'"
    ):
        numbers_of("tabel5")


def test_every_artifact_has_its_sweep() -> None:
    assert {plan_of(name).sweep.paper for name in SWEEPS} == ARTIFACTS


@pytest.mark.parametrize("name", SWEEPS)
def test_every_number_of_an_artifact_has_its_run_and_every_run_its_number(name: str) -> None:
    """The paper's models, data, alpha, judge and decoding, cell by cell."""
    plan = plan_of(name)
    cells = cells_of(plan)
    beside = set_beside(plan, cells)
    lost = [one for one in beside if one.differences is None]
    assert all(one.published.method in NO_RUN for one in lost), [
        (one.published.label, one.reason) for one in lost
    ]
    judges = {EVALUATORS.get(one.published.judge) for one in beside if one.published.judge}
    asked = {cell.config.judge.evaluator for cell in cells}
    assert asked == (judges if judges - {None} else {None})
    for cell in cells:
        alone = set_beside(plan, [cell])
        assert any(one.differences is not None for one in alone), f"no number speaks of {cell.label}"


@pytest.mark.parametrize("name", SWEEPS)
def test_every_arm_is_compared_with_the_paper_s_own_baseline(name: str) -> None:
    plan = plan_of(name)
    assert not any(cell.added for cell in plan.cells), "each baseline is a cell that the paper has"
    for cell in plan.cells:
        if cell.baseline is not None:
            base = next(one for one in plan.cells if one.axes == cell.baseline)
            assert base.config.noise.silent and base.config.finetune.method.name != "none"


@pytest.fixture
def table1(tmp_path: Path) -> tuple[list[CellResult], object]:
    """805 verdicts a cell for Alpaca and Evol-Instruct, 20 for ShareGPT, none for Platypus."""
    plan = plan_of("table1")
    cells = cells_of(plan)
    wins = {
        ("alpaca", 0): [True] * 240 + [False] * 565,  # 29.8 %
        ("alpaca", 5): [True] * 521 + [False] * 284,  # 64.7 %
        ("evol_instruct", 0): [number % 10 < 7 for number in range(805)],
        ("evol_instruct", 5): [number % 10 < 7 for number in range(805)],
        ("sharegpt", 0): [number % 3 > 0 for number in range(20)],
        ("sharegpt", 10): [number % 4 > 0 for number in range(20)],
    }  # fmt: skip
    for number, cell in enumerate(cells):
        told = wins.get((cell.axes["dataset"], cell.axes["noise.alpha"]))
        if told is not None:
            judged(cell, told, tmp_path / str(number))
        else:
            cell.holes["judge"] = "not run yet"
    return cells, plan


def test_an_effect_like_the_paper_s_is_reproduced(table1: tuple[list[CellResult], object]) -> None:
    """281 of 805 instructions turn from loss to win: 34.9 points; normal interval +- 1.96 sqrt(p (1 - p) / n)."""
    one = find(set_beside(table1[1], table1[0]), "llama2_7b, alpaca, neftune 5")
    share = 281 / 805
    half = 196 * math.sqrt(share * (1 - share) / 805)
    assert one.ours is not None and one.ours.value == pytest.approx(100 * 521 / 805)
    assert one.effect is not None and one.effect.value == pytest.approx(100 * share)
    assert one.effect.low == pytest.approx(100 * share - half, abs=0.02)
    assert (one.published_effect, one.verdict) == (34.9, "reproduced")


def test_no_effect_where_the_paper_has_one_is_outside(table1: tuple[list[CellResult], object]) -> None:
    one = find(set_beside(table1[1], table1[0]), "llama2_7b, evol_instruct, neftune 5")
    assert one.effect is not None and one.effect.value == 0
    assert (one.published_effect, one.verdict) == (9.26, "outside")


def test_too_few_instructions_are_inconclusive(table1: tuple[list[CellResult], object]) -> None:
    one = find(set_beside(table1[1], table1[0]), "llama2_7b, sharegpt, neftune 10")
    assert one.effect is not None and one.effect.low < 0 < one.effect.high
    assert (one.published_effect, one.verdict) == (7.54, "inconclusive")


def test_what_is_not_there_says_why(table1: tuple[list[CellResult], object]) -> None:
    beside = set_beside(table1[1], table1[0])
    one = find(beside, "llama2_7b, open_platypus, neftune 15")
    assert one.ours is None and one.reason == "judge: not run yet"
    narrowed = [cell for cell in table1[0] if cell.axes["dataset"] != "open_platypus"]
    told = set_beside(table1[1], narrowed)
    assert find(told, "llama2_7b, open_platypus, sft").reason == "no run with data set open_platypus"
    assert find(told, "llama2_7b, mean, sft").reason.startswith("open_platypus: no run with")


def test_a_baseline_has_a_value_and_no_verdict(table1: tuple[list[CellResult], object]) -> None:
    one = find(set_beside(table1[1], table1[0]), "llama2_7b, alpaca, sft")
    assert one.ours is not None and one.verdict == "" and one.effect is None


def test_a_mean_over_data_sets_is_that_of_the_runs(tmp_path: Path) -> None:
    """Four data sets of ten instructions; the arm wins 1, 2, 3, 4 more than its baseline: 25 points on average."""
    plan = plan_of("table1")
    cells = cells_of(plan)
    for number, cell in enumerate(cells):
        place = number // 2
        wins = 2 + (place + 1 if cell.axes["noise.alpha"] else 0)
        judged(cell, [item < wins for item in range(10)], tmp_path / str(number))
    beside = set_beside(plan, cells)
    plain, arm = find(beside, "llama2_7b, mean, sft"), find(beside, "llama2_7b, mean, neftune")
    assert plain.ours is not None and plain.ours.value == pytest.approx(20)
    assert arm.ours is not None and arm.ours.value == pytest.approx(45)
    assert arm.effect is not None and arm.effect.value == pytest.approx(25)


def test_seeds_are_paired_with_their_own_baseline(tmp_path: Path) -> None:
    """Ten instructions x two seeds: the arm wins 3 more with one seed and 1 more with the other: 20 points."""
    plan = plan_of("table1", "dataset=alpaca", "seed=0,1")
    cells = cells_of(plan)
    wins = {(0, 0): 2, (5, 0): 5, (0, 1): 6, (5, 1): 7}
    for number, cell in enumerate(cells):
        count = wins[cell.axes["noise.alpha"], cell.axes["seed"]]
        judged(cell, [item < count for item in range(10)], tmp_path / str(number))
    one = find(set_beside(plan, cells), "llama2_7b, alpaca, neftune 5")
    assert one.effect is not None and one.effect.value == pytest.approx(20) and one.effect.seeds == 2
    assert one.differences is not None and "2 training seeds (paper: one)" in one.differences


def test_lengths_are_compared_in_characters(tmp_path: Path) -> None:
    plan = plan_of("table4", "dataset=alpaca")
    cells = cells_of(plan)
    for number, cell in enumerate(cells):
        extra = 600 + number if cell.axes["noise.alpha"] else 0
        described(cell, [375 + extra + item % 3 for item in range(30)], tmp_path / str(number))
    one = find(set_beside(plan, cells), "llama2_7b, alpaca, neftune 5", "mean_chars")
    assert one.published_effect == 686.67
    assert one.effect is not None and one.effect.value == pytest.approx(601)


def differences(artifact: str, label: str, *more: str) -> list[str]:
    plan = plan_of(artifact, *more)
    found = [one for one in set_beside(plan, cells_of(plan)) if one.published.label == label]
    assert found and found[0].differences is not None
    return found[0].differences


def test_the_paper_s_own_protocol_differs_in_nothing_but_what_is_not_known() -> None:
    assert differences("table1", "llama2_7b, alpaca, neftune 5") == [
        "judge model gpt-4: which snapshot stood behind this name in 2023 is not known",
        "1024 tokens for prompt and answer; whether the paper had 1024 or 2048 is not known",
        "model meta-llama/Llama-2-7b-hf at its newest revision; the paper names none",
        "dataset tatsu-lab/alpaca at its newest revision; the paper names none",
    ]


TOLD = [
    ("table6", "llama2_7b, alpaca, sft", [], "judge model gpt-3.5-turbo-16k-0613: retired by its maker in September 2024"),
    ("table1", "llama2_7b, alpaca, sft", ["judge=longest"], "judge longest in place of alpaca_eval_gpt4"),
    ("table1", "llama2_7b, alpaca, sft", ["judge.served_model=gpt-4o"],
     "judge prompt alpaca_eval_gpt4 asked of gpt-4o in place of gpt-4"),
    ("table1", "llama2_7b, alpaca, sft", ["finetune.batch=64"], "finetune.batch 64 (paper 128)"),
    ("table1", "llama2_7b, alpaca, sft", ["generation=plain"], "repetition penalty 1 (paper 1.2)"),
    ("table1", "llama2_7b, alpaca, sft", ["generation.limit=50"], "only 50 instructions"),
    ("table1", "llama2_7b, alpaca, neftune 5", ["noise.length=padded"], "noise.length padded (paper sample)"),
    ("table1", "llama2_7b, alpaca, sft", ["model.revision=abcdefabcdefabcdef"],
     "model meta-llama/Llama-2-7b-hf at abcdefabcdef; the paper names none"),
    ("table2", "llama2_70b, evol_instruct, sft", [],
     "judge model gpt-4: which snapshot stood behind this name in 2023 is not known"),
    ("table3", "llama2_7b, alpaca, sft", [], "the lengths that QLoRA cut to are not stated; 512 tokens here"),
    ("table3", "llama2_7b, alpaca, sft", ["finetune=lora"], "finetune.method lora (paper qlora)"),
    ("table5", "llama1_7b, alpaca, sft (prompt long)", [],
     "where the sentence stood in the prompt is not stated; after the instruction here"),
    ("table6", "llama2_7b, alpaca, neftune gaussian 5", [], "the scale of the Gaussian is not stated; noise.scale=raw here"),
    ("table10", "llama2_7b, evol_instruct, sft (decode top_p0.9_T0.6)", [], "top_k is not stated; none here"),
    ("table11", "llama2_7b, alpaca, neftune 5", [], "alpha 5 is inferred, not printed"),
    ("table12", "llama1_7b, evol_instruct, freelb", [], "FreeLB's settings are not stated; 3 steps of 0.5 from 5 here"),
    ("table13", "llama2_7b, sharegpt, neftune (split 1024)", [], "alpha is not printed; 15 here"),
    ("figure3", "llama2_7b, alpaca, sft", [],
     "the paper prints no shots; here mmlu 5, arc_challenge 25, hellaswag 10, truthfulqa_mc2 0"),
]  # fmt: skip


@pytest.mark.parametrize(("artifact", "label", "more", "told"), TOLD, ids=lambda value: str(value)[:40])
def test_what_differs_is_read_off_the_configuration(
    artifact: str, label: str, more: list[str], told: str
) -> None:
    assert told in differences(artifact, label, *more)


@pytest.mark.parametrize(
    ("artifact", "label"),
    [("table14", "llama2_7b, alpaca, sft (epochs 9)"), ("table13", "llama2_7b, sharegpt, sft (split 1024)"),
     ("table2", "llama2_70b, evol_instruct, neftune 15"), ("table3", "llama1_30b, alpaca, neftune 10")],
)  # fmt: skip
def test_what_an_artifact_varies_is_no_difference(artifact: str, label: str) -> None:
    assert not [told for told in differences(artifact, label) if told.startswith("finetune.")]


def test_the_table_has_the_paper_s_rows_and_letters_for_what_differs_in_some(
    table1: tuple[list[CellResult], object], tmp_path: Path
) -> None:
    beside = set_beside(table1[1], table1[0])
    table = paper_table(table1[1], beside)
    assert [row[0] for row in table.rows] == [one.label for one in numbers_of("table1")]
    row = dict(zip(table.header, table.rows[1], strict=True))
    assert (row["paper"], row["effect, paper"], row["verdict"]) == ("64.69", "+34.9", "reproduced")
    assert row["ours"] == "65 [61, 68]" and row["effect, ours"] == "35 [32, 38]"
    assert any(
        note.startswith("Differs from the paper in every row: judge model gpt-4") for note in table.notes
    )
    assert any(note.startswith("a: dataset tatsu-lab/alpaca at its newest") for note in table.notes)
    assert row["differs"].split() == ["a"]


def test_paper_csv_keeps_every_number_in_full(
    table1: tuple[list[CellResult], object], tmp_path: Path
) -> None:
    write_paper(table1[1], set_beside(table1[1], table1[0]), tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "paper.csv").read_text(encoding="utf-8"))))
    assert len(rows) == len(numbers_of("table1"))
    assert float(rows[1]["ours"]) == 100 * 521 / 805 and rows[1]["verdict"] == "reproduced"
    assert float(rows[1]["effect_paper"]) == 34.9
    assert rows[1]["note"].startswith("table, verbatim")
    assert "## The paper beside ours: table1" in (tmp_path / "paper.md").read_text(encoding="utf-8")
    assert r"\toprule" in (tmp_path / "paper.tex").read_text(encoding="utf-8")


def test_a_sweep_about_no_artifact_has_nothing_beside_it() -> None:
    plan = make_plan(["+sweep=alpha_grid"])
    assert set_beside(plan, cells_of(plan)) == []
