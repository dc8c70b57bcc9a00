"""The sweeps about noise and its rivals: what they compare, and that they run from end to end."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from neft_lab.plan import Plan, make_plan
from neft_lab.run import main

SWEEPS = ("noise_kind", "noise_dose", "noise_place", "regularizers", "length_controls", "frozen_parts")


def plan(sweep: str, *overrides: str) -> Plan:
    return make_plan([f"+sweep={sweep}", "leaderboard=none", "analysis=none", *overrides])


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_has_seeds_a_baseline_a_primary_metric_a_margin_and_a_table(sweep: str) -> None:
    made = plan(sweep)
    assert len(made.sweep.axes["seed"]) >= 3
    assert made.sweep.primary and made.sweep.margin and made.sweep.table.values
    assert made.sweep.baseline or made.sweep.select
    if made.sweep.select is None:
        arms = {
            tuple((name, str(value)) for name, value in cell.axes.items() if name != "seed")
            for cell in made.cells
        }
        assert len(made.cells) == len(arms) * len(made.sweep.axes["seed"]), "every arm has every seed"
        assert not any(cell.added for cell in made.cells), "the baseline is an arm"


def arms_of(sweep: str, *names: str) -> list[tuple[Any, ...]]:
    cells = plan(sweep, "seed=0").cells
    return [tuple(cell.axes[name] for name in names) for cell in cells]


def dose(noise: Any) -> float:
    """The paper's alpha with the second moment of a kind's noise: variance 1/3 uniform, else 1 (matched 1/3)."""
    raw = noise.kind.name != "uniform" and noise.scale.name == "raw"
    return round(noise.alpha * (3**0.5 if raw else 1), 2)


def test_noise_kinds_are_compared_at_equal_doses() -> None:
    kinds: dict[float, set[tuple[str, bool]]] = {}
    for cell in plan("noise_kind", "seed=0").cells:
        noise = cell.config.noise
        kinds.setdefault(dose(noise), set()).add((noise.kind.name, noise.symmetric))
    assert kinds[5.0] == {("uniform", False), ("gaussian", False), ("rademacher", False)}
    assert kinds[8.66] == kinds[5.0] | {("rademacher", True)}
    assert {10.0, 15.0} <= set(kinds), "the scales of the paper's table 6"


def test_symnoise_is_compared_with_plain_training_on_the_doubled_batch() -> None:
    cells = {cell.axes["noise"]: cell for cell in plan("noise_kind", "seed=0").cells}
    symmetric = cells["symnoise"]
    assert symmetric.baseline is not None
    assert symmetric.baseline["noise"] == "none" and symmetric.baseline["finetune.doubled_batch"]
    assert cells["gaussian"].baseline is not None
    assert not cells["gaussian"].baseline["finetune.doubled_batch"]


def test_noise_dose_changes_the_length_law_alone() -> None:
    assert arms_of("noise_dose", "noise.length", "noise.alpha") == [
        ("sample", 0), ("sample", 5), ("padded", 5), ("sample", 4.19), ("packed_row", 5), ("sample", 2.46),
    ]  # fmt: skip
    laid = {
        (cell.config.finetune.layout.name, cell.config.finetune.micro_batch)
        for cell in plan("noise_dose").cells
    }
    assert laid == {("padded", 4)}


def test_noise_place_gives_each_part_the_alpha_and_the_dose_of_both() -> None:
    assert arms_of("noise_place", "noise.place", "noise.alpha") == [
        ("both", 0), ("both", 5), ("prompt", 5), ("response", 5), ("prompt", 8.19), ("response", 6.6),
    ]  # fmt: skip


def test_every_regularizer_has_as_many_tries() -> None:
    made = plan("regularizers", "seed=0")
    assert made.sweep.select is not None
    trained: dict[str, set[str]] = {}
    for cell in made.cells:
        for arm in cell.arms:
            trained.setdefault(arm, set()).add(dict(cell.keys or {})["train"])
    assert set(map(len, trained.values())) == {3}
    assert {"plain", "NEFTune", "label smoothing", "FreeLB", "weight decay"} < set(trained)
    assert {cell.axes["generation.split"] for cell in made.cells} == {"validation", "evaluation"}


def test_length_controls_train_for_equal_steps_and_share_what_is_only_asked_otherwise() -> None:
    cells = plan("length_controls", "seed=0").cells
    assert {cell.config.finetune.max_steps for cell in cells} == {96}
    keys = [dict(cell.keys or {})["train"] for cell in cells]
    assert keys[0] == keys[6] == keys[7] and len(set(keys)) == 6
    controls = [
        (cell.config.regularizer.eos_weight, cell.config.dataset.complete_only, cell.config.dataset.longest,
         cell.config.generation.best_of)
        for cell in cells
    ]  # fmt: skip
    assert controls == [
        (1, False, None, 1), (1, False, None, 1), (0, False, None, 1), (0.1, False, None, 1), (1, True, None, 1),
        (1, False, 64, 1), (1, False, None, 1), (1, False, None, 4),
    ]  # fmt: skip


def test_frozen_parts_have_a_plain_training_each() -> None:
    cells = plan("frozen_parts", "seed=0").cells
    frozen = [cell.axes["finetune.freeze"] for cell in cells]
    assert frozen == [part for part in ([], ["embeddings", "lm_head"], ["attention"]) for _ in range(2)]
    for cell in cells[1::2]:
        assert cell.baseline is not None
        assert cell.baseline["finetune.freeze"] == cell.axes["finetune.freeze"]


NAMES: Mapping[str, int] = {
    "noise_kind": 11, "noise_dose": 6, "noise_place": 6, "regularizers": 54, "length_controls": 8, "frozen_parts": 6,
}  # fmt: skip


SAMPLE = ("length_controls", "frozen_parts")
"""What the ordinary run takes from end to end; all sweeps are part of make soak."""


@pytest.mark.parametrize(
    "sweep", [name if name in SAMPLE else pytest.param(name, marks=pytest.mark.soak) for name in SWEEPS]
)
def test_a_sweep_runs_from_end_to_end(
    sweep: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [
        f"+sweep={sweep}", "seed=0", "model=local", f"model.path={tiny_llama}", "finetune.max_steps=2",
        "finetune.batch=2", "finetune.micro_batch=2", "finetune.max_length=384", "generation.limit=4",
        "generation.max_new_tokens=4", "generation.max_prompt_tokens=200", "judge=longest", "leaderboard=none",
        "analysis=none", "tracker=none",
    ]  # fmt: skip
    assert main([*arguments, "dry_run=true"]) == 0
    assert json.loads((tmp_path / f"results/sweeps/{sweep}/plan.json").read_text())["missing"] > 0
    assert main(arguments) == 0
    folder = tmp_path / f"results/sweeps/{sweep}"
    assert json.loads((folder / "plan.json").read_text())["missing"] == 0
    rows = list(csv.DictReader((folder / "leaderboard.csv").read_text().splitlines()))
    assert len(rows) == NAMES[sweep]
    assert all(row["win_rate"] and row["train_loss"] for row in rows)
    assert (folder / "table.md").stat().st_size > 0
