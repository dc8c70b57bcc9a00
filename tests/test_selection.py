"""Arms that are tuned: equal tries, chosen on validation instructions, reported on others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neft_lab.claims.answer import answer_sentence
from neft_lab.claims.arms import make_arms
from neft_lab.claims.comparisons import compare
from neft_lab.claims.items import chooses, read_items
from neft_lab.claims.results import CellResult
from neft_lab.claims.selection import chosen_lines, select_best, tries_table
from neft_lab.config import SelectConfig, SweepConfig, UserError
from neft_lab.plan import Plan, make_plan
from neft_lab.plan.tries import SPLIT
from tests.claim_cases import make_row
from tests.processes import finish

QUICK = ["judge=longest", "tracker=none"]
FAIR = "{SFT: {noise.alpha: [0], seed: [0, 1, 2]}, NEFTune: {noise.alpha: [5, 10, 15], seed: [0]}}"


def write_sweep(folder: Path, arms: str = FAIR, *, more: str = "", select: str = "") -> Path:
    (folder / "sweep").mkdir(parents=True, exist_ok=True)
    (folder / "sweep" / "tuned.yaml").write_text(
        "# @package _global_\nsweep:\n  name: tuned\n  question: Is it better when both are tuned?\n"
        f"  select:\n    arms: {arms}\n{select}  table: {{rows: arm, values: [win_rate]}}\n{more}",
        encoding="utf-8",
    )
    return folder


def plan_of(folder: Path, *overrides: str) -> Plan:
    return make_plan(["+sweep=tuned", *QUICK, *overrides], config_dir=folder)


def test_every_try_answers_validation_and_held_out_instructions(tmp_path: Path) -> None:
    plan = plan_of(write_sweep(tmp_path))
    assert len(plan.cells) == 2 * (3 + 3)
    stages = [step.stage for step in plan.steps.values()]
    assert {name: stages.count(name) for name in ("train", "generate", "judge")} == {
        "train": 6, "generate": 12, "judge": 12
    }  # fmt: skip
    assert stages.count("leaderboard") == stages.count("analyze") == 6, "tasks do not depend on the split"
    sources = {step.sources["instructions"].location.rsplit("/", 1)[-1] for step in plan.steps.values() if step.stage == "generate"}  # fmt: skip
    assert sources == {"validation.jsonl", "evaluation.jsonl"}
    assert {cell.arms for cell in plan.cells} == {("SFT",), ("NEFTune",)}


def test_a_file_of_instructions_is_answered_once(tmp_path: Path) -> None:
    file = tmp_path / "asked.json"
    file.write_text(json.dumps([{"instruction": f"Question {n}?", "output": "Yes."} for n in range(20)]))
    plan = plan_of(write_sweep(tmp_path), f"generation.instructions={file}", f"judge.reference={file}")
    assert len(plan.cells) == 6 and all(SPLIT not in cell.axes for cell in plan.cells)


def test_a_try_of_two_arms_is_one_cell(tmp_path: Path) -> None:
    arms = "{SFT: {noise.alpha: [0], seed: [0, 1]}, NEFTune: {noise.alpha: [0, 5], seed: [0]}}"
    plan = plan_of(write_sweep(tmp_path, arms))
    assert len(plan.cells) == 2 * 3
    assert ("SFT", "NEFTune") in {cell.arms for cell in plan.cells}


@pytest.mark.parametrize(
    ("arms", "select", "more", "overrides", "message"),
    [
        ("{SFT: {seed: [0, 1]}, NEFTune: {seed: [0, 1, 2]}}", "", "", [], "same number of tries, got SFT 2, NEFTune 3"),
        ("{SFT: {seed: [0, 1]}, NEFTune: {noise.alpha: [5, 10]}}", "", "", [], "give every arm the same keys"),
        ("{SFT: {seed: [0, 1]}}", "", "", [], "at least two arms"),
        ("{SFT: {sead: [0]}, NEFTune: {sead: [1]}}", "", "", [], "did you mean 'seed'?"),
        (FAIR, "", "  axes: {seed: [0]}\n", [], "keep it in one"),
        (FAIR, "", "  baseline: {noise.alpha: 0}\n", [], "name the arm in sweep.select.baseline"),
        (FAIR, "", "", ["seed=3"], "seed is what sweep.select chooses"),
        (FAIR, "", "", ["generation.split=validation"], "decides which instructions choose"),
        (FAIR, "    baseline: NEFTun\n", "", [], "did you mean 'NEFTune'?"),
        (FAIR, "    by: win_rat\n", "", [], "did you mean 'win_rate'?"),
        (FAIR, "    by: held_out_loss\n", "  primary: held_out_loss\n", [], "choose by one and claim about another"),
        (FAIR, "    share: 1.5\n", "", [], "sweep.select.share must be in (0, 1)"),
        (FAIR, "", "  family: [dataset]\n", [], "which is no axis"),
    ],
)  # fmt: skip
def test_an_unfair_selection_is_refused_before_anything_runs(
    tmp_path: Path, arms: str, select: str, more: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError) as told:
        plan_of(write_sweep(tmp_path, arms, select=select, more=more), *overrides)
    assert message in str(told.value) and "\n" not in str(told.value)


def test_length_control_cannot_choose_within_one_file(tmp_path: Path) -> None:
    file = tmp_path / "asked.json"
    file.write_text(json.dumps([{"instruction": "Why?", "output": "So."}]))
    with pytest.raises(UserError, match="needs a validation split"):
        plan_of(
            write_sweep(tmp_path, select="    by: length_controlled_win_rate\n"),
            f"generation.instructions={file}",
        )


SWEEP = SweepConfig(
    select=SelectConfig(arms={"SFT": {"noise.alpha": [0], "seed": [0, 1]}, "NEFTune": {"noise.alpha": [5, 15], "seed": [0]}})
)  # fmt: skip
TRIES: list[tuple[str, dict[str, Any]]] = [
    (arm, {"noise.alpha": alpha, "seed": seed}) for arm, alpha, seed in (("SFT", 0, 0), ("SFT", 0, 1), ("NEFTune", 5, 0), ("NEFTune", 15, 0))
]  # fmt: skip


def split_rows(root: Path, validation: list[float], held_out: list[float]) -> list[CellResult]:
    """Tries with these win rates on two sets of 50 instructions."""
    return [
        make_row(root, {**values, SPLIT: split}, won(rate), first=first, arms=(arm,))
        for (arm, values), *rates in zip(TRIES, validation, held_out, strict=True)
        for split, rate, first in zip(("validation", "evaluation"), rates, (0, 1_000), strict=True)
    ]


def won(rate: float) -> list[float]:
    return [1.0 if number < 50 * rate else 0.0 for number in range(50)]


def test_validation_chooses_and_held_out_instructions_report(tmp_path: Path) -> None:
    """The try that is best on held-out instructions is not the one that validation chose, and it is not reported."""
    selection = select_best(split_rows(tmp_path, [0.2, 0.3, 0.6, 0.4], [0.5, 0.3, 0.5, 0.9]), SWEEP)
    assert selection is not None
    sft, neftune = selection.winners
    assert (sft.axes, neftune.axes) == ({"arm": "SFT best of 2"}, {"arm": "NEFTune best of 2"})
    assert (sft.metrics["win_rate"], neftune.metrics["win_rate"]) == (30, 50)
    assert chosen_lines(selection) == [
        "SFT best of 2: noise.alpha=0, seed=1", "NEFTune best of 2: noise.alpha=5, seed=0"
    ]  # fmt: skip
    assert sft.baseline is None and neftune.baseline == sft.axes


def test_the_lowest_wins_where_the_sweep_says_so(tmp_path: Path) -> None:
    assert SWEEP.select is not None
    sweep = replace(SWEEP, select=replace(SWEEP.select, higher=False))
    selection = select_best(split_rows(tmp_path, [0.2, 0.3, 0.6, 0.4], [0.5, 0.3, 0.5, 0.9]), sweep)
    assert selection is not None
    assert [row.metrics["win_rate"] for row in selection.winners] == [50, 90]


def test_the_best_of_one_arm_is_tested_against_the_best_of_the_other(tmp_path: Path) -> None:
    selection = select_best(split_rows(tmp_path, [0.2, 0.3, 0.6, 0.4], [0.5, 0.3, 0.8, 0.9]), SWEEP)
    assert selection is not None
    (one,) = compare(selection.winners, SWEEP, ["win_rate"])
    assert one.difference.value == pytest.approx(50) and one.difference.n == 50
    assert one.verdict == "higher" and one.family == 1 and one.difference.about == "checkpoints"
    told = answer_sentence([one], SWEEP, selection.winners)
    assert told.startswith(
        "Against SFT best of 2, on win rate: the checkpoint of NEFTune best of 2 is higher by 50 ["
    )
    assert [arm.axes["arm"] for arm in make_arms(selection.winners, ["win_rate"])] == [
        "SFT best of 2",
        "NEFTune best of 2",
    ]


def test_a_try_that_is_missing_makes_a_hole_and_no_choice_among_fewer(tmp_path: Path) -> None:
    rows = split_rows(tmp_path, [0.2, 0.3, 0.6, 0.4], [0.5, 0.3, 0.8, 0.9])
    rows[4] = replace(rows[4], metrics={}, folders={}, holes={"generate": "out of memory"})
    selection = select_best(rows, SWEEP)
    assert selection is not None
    neftune = selection.winners[1]
    assert neftune.holes == {"select": "1 of 2 tries have a win_rate to be chosen by"} and not neftune.metrics
    assert compare(selection.winners, SWEEP, ["win_rate"]) == []


def test_outer_seeds_make_arms_of_winners(tmp_path: Path) -> None:
    """Tuned anew in every context: with seeds outside the tries, the claim is about ways of training."""
    arms = {"SFT": {"noise.alpha": [0]}, "NEFTune": {"noise.alpha": [5]}}
    sweep = SweepConfig(select=SelectConfig(arms=arms), axes={"seed": [0, 1, 2]})
    rows = [
        make_row(tmp_path, {"seed": seed, "noise.alpha": alpha, SPLIT: split}, won(rate), first=first)
        for seed in range(3) for alpha, rate in ((0, 0.3), (5, 0.7)) for split, first in (("validation", 0), ("evaluation", 1_000))
    ]  # fmt: skip
    selection = select_best(rows, sweep)
    assert selection is not None and len(selection.winners) == 6
    (one,) = compare(selection.winners, sweep, ["win_rate"])
    assert (one.difference.seeds, one.difference.about) == (3, "arms")


def test_within_one_file_the_instructions_that_chose_do_not_report(tmp_path: Path) -> None:
    texts = [f"instruction {number}" for number in range(400)]
    choosing = np.array([chooses(text, share=0.25) for text in texts])
    assert 70 < choosing.sum() < 130
    rows = [
        make_row(tmp_path, values, np.where(choosing, first, rest).tolist(), arms=(arm,))
        for (arm, values), first, rest in zip(TRIES, [0.0, 1.0, 1.0, 0.0], [0.9, 0.2, 0.6, 1.0], strict=True)
    ]  # fmt: skip
    selection = select_best(rows, SWEEP)
    assert selection is not None
    assert [one.score for one in selection.tries] == [0, 100, 100, 0]
    sft, neftune = selection.winners
    assert (sft.metrics["win_rate"], neftune.metrics["win_rate"]) == pytest.approx((20, 60))
    items = read_items(neftune, "win_rate")
    assert items is not None and len(items.labels) == neftune.metrics["win_rate_n"] == 400 - choosing.sum()
    (one,) = compare(selection.winners, SWEEP, ["win_rate"])
    assert one.difference.value == pytest.approx(40) and one.difference.n == len(items.labels)


def test_what_chooses_depends_on_the_text_alone() -> None:
    """The same instructions choose in every cell and in every version: SHA-256 of the text, first 64 bits."""
    assert [chooses(text, share=0.5) for text in ("a", "b", "c", "hello")] == [False, True, True, True]
    assert not chooses("hello", share=0.1) and chooses("hello", share=0.2)


def test_the_table_of_tries_shows_what_was_not_chosen(tmp_path: Path) -> None:
    selection = select_best(split_rows(tmp_path, [0.2, 0.3, 0.6, 0.4], [0.5, 0.3, 0.8, 0.9]), SWEEP)
    assert selection is not None
    table = tries_table(selection, SWEEP)
    assert [row[-1] for row in table.rows] == ["", "chosen", "chosen", ""]
    assert table.rows[3][:5] == ["NEFTune", "15", "0", "40", "90"]
    assert "Every arm had 2 tries" in table.notes[0]


def test_a_tuned_sweep_runs_and_shows_both_arms(tiny_llama: Path, tmp_path: Path) -> None:
    arms = "{SFT: {noise.alpha: [0], seed: [0, 1]}, NEFTune: {noise.alpha: [5, 15], seed: [0]}}"
    write_sweep(tmp_path / "conf", arms)
    command = [
        "--config-dir", str(tmp_path / "conf"), "+sweep=tuned", "model=local", f"model.path={tiny_llama}",
        "tracker=none", "finetune.max_steps=1", "finetune.max_length=512", "generation.limit=4",
        "generation.max_new_tokens=8", "judge=random", "analysis=none", "leaderboard=none",
    ]  # fmt: skip
    told = finish(command, tmp_path)
    assert "NEFTune best of 2" in told
    page = (tmp_path / "results/sweeps/tuned/table.md").read_text(encoding="utf-8")
    assert "SFT best of 2" in page and "chosen" in page
    assert (tmp_path / "results/sweeps/tuned/report.html").stat().st_size > 0
    assert "nothing to run" in finish(command, tmp_path)
