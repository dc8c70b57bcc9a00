"""Controls: planned from the baseline, told apart from the arms, and judged by what is known of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from neft_lab.claims.comparisons import compare
from neft_lab.claims.controls import (
    Control,
    beside_effects,
    control_sentence,
    control_table,
    read_controls,
)
from neft_lab.claims.labels import short_labels
from neft_lab.claims.results import CellResult
from neft_lab.config import ControlConfig, SweepConfig, UserError
from neft_lab.plan import Cell, make_plan
from tests.claim_cases import make_row

CONTROLS = {
    "again": ControlConfig(seeds=[3, 4, 5], expect="same"),
    "shuffled": ControlConfig(change={"dataset.responses": "shuffled"}, seeds=[0], expect="higher"),
    "longer": ControlConfig(change={"finetune.epochs": 9.0}, expect="lower"),
}
SWEEP = """\
sweep:
  name: mine
  axes: {{model: [smollm2_135m], noise.alpha: [0, 5], seed: [0, 1, 2]}}
  baseline: {{noise.alpha: 0}}
  primary: held_out_loss
  controls:
    {control}
"""


def plan_with(tmp_path: Path, control: str, *overrides: str) -> list[Cell]:
    (tmp_path / "sweep").mkdir(exist_ok=True)
    text = "# @package _global_\n" + SWEEP.format(control=control)
    (tmp_path / "sweep" / "mine.yaml").write_text(text, encoding="utf-8")
    return make_plan(["+sweep=mine", *overrides], config_dir=tmp_path).cells


def test_other_seeds_are_compared_with_the_sweeps_in_their_order(tmp_path: Path) -> None:
    cells = plan_with(tmp_path, "again: {seeds: [7, 8, 9], expect: same}")
    again = [cell for cell in cells if cell.control == "again"]
    assert [(cell.axes["seed"], cell.baseline and cell.baseline["seed"]) for cell in again] == [
        (7, 0), (8, 1), (9, 2)
    ]  # fmt: skip
    assert all(cell.axes["noise.alpha"] == 0 and cell.config.seed == cell.axes["seed"] for cell in again)
    assert len(cells) == 6 + 3


def test_a_changed_baseline_is_compared_with_the_baseline_of_its_seed(tmp_path: Path) -> None:
    cells = plan_with(tmp_path, "worse: {change: {dataset.responses: shuffled}, seeds: [1], expect: higher}")
    (cell,) = (cell for cell in cells if cell.control)
    assert cell.baseline == {"model": "smollm2_135m", "noise.alpha": 0, "seed": 1}
    assert cell.config.dataset.responses.name == "shuffled"
    assert {other.config.dataset.responses.name for other in cells if not other.control} == {"own"}


def test_a_control_shares_the_steps_of_an_equal_cell(tmp_path: Path) -> None:
    cells = plan_with(tmp_path, "alpha 5: {change: {noise.alpha: 5}, expect: lower}")
    keys = [cell.keys for cell in cells if cell.axes["noise.alpha"] == 5]
    assert len(keys) == 6 and len({json.dumps(one) for one in keys}) == 3


@pytest.mark.parametrize("given", ["seed=0", "seed=0,1", "dataset.responses=own"])
def test_a_control_whose_key_is_given_on_the_command_line_is_left_out(tmp_path: Path, given: str) -> None:
    control = "worse: {change: {dataset.responses: shuffled}, seeds: [1], expect: higher}"
    assert not [cell for cell in plan_with(tmp_path, control, given) if cell.control]


@pytest.mark.parametrize(
    ("control", "message"),
    [
        ("a: {change: {noise.alpha: 200}, expect: worse}", "sweep.controls.a.expect 'worse' is unknown"),
        ("a: {expect: same}", "sweep.controls.a is the baseline itself; give it 'change' or other 'seeds'"),
        ("a: {seeds: [2, 3], expect: same}", "or all be others and no more than these"),
        ("a: {seeds: [3, 4, 5, 6], expect: same}", "or all be others and no more than these"),
        ("a: {change: {noise.alfa: 1}, expect: same}", "did you mean 'alpha'"),
        ("a: {change: {regularizer: kll}, expect: same}", "no such regularizer"),
    ],
)
def test_a_control_that_cannot_be_told_or_compared_is_refused(
    tmp_path: Path, control: str, message: str
) -> None:
    with pytest.raises(UserError, match=message.replace("(", "\\(")):
        plan_with(tmp_path, control)


def losses(generator: np.random.Generator, shift: float, rows: np.ndarray) -> list[float]:
    """Held-out losses of one cell: the rows' own, the cell's noise, and a shift."""
    return list(rows + generator.normal(0, 0.02, len(rows)) + shift)


@pytest.fixture
def rows(tmp_path: Path) -> list[CellResult]:
    """Baseline, arm and controls of three seeds on 40 rows; shuffling costs 0.5 nats, longer training gains 0.3."""
    generator = np.random.default_rng(0)
    items = generator.normal(2, 0.4, 40)

    def row(axes: dict[str, object], base: int | None, shift: float, control: str = "") -> CellResult:
        name = {"control": control} if control else {}
        baseline = None if base is None else {"noise.alpha": 0, "seed": base}
        return make_row(tmp_path, {**axes, **name}, [0.5] * 40, baseline=baseline,
                        losses=losses(generator, shift, items), control=control)  # fmt: skip

    return [
        *(row({"noise.alpha": 0, "seed": seed}, None, 0) for seed in (0, 1, 2)),
        *(row({"noise.alpha": 5, "seed": seed}, seed, -0.1) for seed in (0, 1, 2)),
        *(row({"noise.alpha": 0, "seed": seed + 3}, seed, 0, "again") for seed in (0, 1, 2)),
        row({"noise.alpha": 0, "dataset.responses": "shuffled", "seed": 0}, 0, 0.5, "shuffled"),
        *(row({"noise.alpha": 0, "finetune.epochs": 9, "seed": seed}, seed, 0.3, "longer") for seed in (0, 1, 2)),
    ]  # fmt: skip


def sweep() -> SweepConfig:
    return SweepConfig(primary="held_out_loss", controls=CONTROLS)


def test_controls_find_what_is_known_and_tell_what_is_otherwise(rows: list[CellResult]) -> None:
    found = {control.name: control for control in read_controls(rows, sweep(), ["held_out_loss"])}
    assert {name: control.found for name, control in found.items()} == {
        "again": "same", "shuffled": "higher", "longer": "higher"
    }  # fmt: skip
    assert found["shuffled"].differences[0].difference.value == pytest.approx(0.5, abs=0.02)
    assert found["again"].differences[0].difference.seeds == 3
    assert control_sentence(list(found.values())) == (
        " 2 of 3 controls came out as known. 'longer' did not: known to be lower, found higher."
    )
    table = control_table(list(found.values()), sweep())
    assert [row[-1] for row in table.rows] == ["as known", "as known", "not as known"]


def test_what_the_same_training_differs_by_stands_beside_every_effect(rows: list[CellResult]) -> None:
    metrics = ["held_out_loss", "win_rate"]
    controls = read_controls(rows, sweep(), metrics)
    arms = compare([row for row in rows if not row.control], sweep(), metrics)
    shown = beside_effects(arms, controls)
    assert [(one.metric, one.verdict) for one in shown] == [
        ("held_out_loss", "lower"), ("held_out_loss", "A/A"), ("win_rate", "described"), ("win_rate", "A/A"),
    ]  # fmt: skip
    assert arms[0].family == 1, "a control is no claim, and corrects none"


def test_a_control_is_read_in_every_data_set_of_the_sweep(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    items = generator.normal(2, 0.4, 40)
    rows = []
    for name, cost in (("starter", 0.5), ("alpaca", 0.0)):
        base: dict[str, object] = {"dataset": name, "noise.alpha": 0, "seed": 0}
        changed = base | {"dataset.responses": "shuffled", "control": "shuffled"}
        rows += [
            make_row(tmp_path, base, [0.5] * 40, losses=losses(generator, 0, items)),
            make_row(tmp_path, changed, [0.5] * 40, baseline=base, losses=losses(generator, cost, items), control="shuffled"),
        ]  # fmt: skip
    found = read_controls(rows, sweep(), ["held_out_loss"])
    assert [(control.name, control.found) for control in found] == [
        ("shuffled (starter)", "higher"), ("shuffled (alpaca)", "same")
    ]  # fmt: skip


def test_what_a_control_changes_is_told_by_its_name(rows: list[CellResult]) -> None:
    labels = short_labels([row.axes for row in rows])
    assert labels[0] == "α 0, seed 0" and labels[6] == "α 0, seed 3, again"
    assert labels[9] == "α 0, seed 0, shuffled" and labels[10] == "α 0, seed 0, longer"


def test_a_control_that_has_not_run_is_named_and_not_counted(rows: list[CellResult]) -> None:
    missing = [row for row in rows if row.control != "shuffled"]
    hole = CellResult(
        {"control": "shuffled"}, {"noise.alpha": 0, "seed": 0}, False, {}, None, control="shuffled"
    )
    found = read_controls([*missing, hole], sweep(), ["held_out_loss"])
    assert [row[2] for row in control_table(found, sweep()).rows if row[0] == "shuffled"] == ["not run"]
    assert control_sentence([Control("shuffled", "higher", [])]) == ""
