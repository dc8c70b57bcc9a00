"""What W&B runs say: written by the real wandb offline, read back from its files."""

from __future__ import annotations

import math
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from neft_lab.claims.results import CellResult
from neft_lab.config import TrackerMode
from neft_lab.store import read_json, write_json
from neft_lab.tracking.answers import answer_table
from neft_lab.tracking.content import describe
from neft_lab.tracking.flat import flatten
from neft_lab.tracking.redaction import Redactor
from tests.tracking_cases import (
    ANSWER,
    LOSSES,
    METRICS,
    SECRETS,
    by_type,
    files_below,
    make_sweep,
    track,
)
from tests.wandb_files import read_runs

pytestmark = pytest.mark.usefixtures("wandb_home")


def test_one_run_per_training_per_cell_and_per_sweep_in_the_group_of_the_sweep(results: Path) -> None:
    sweep = make_sweep(results)
    track(sweep, results)
    runs = read_runs(results)
    assert [run.job_type for run in runs] == ["cell", "cell", "sweep", "train", "train"]
    assert {run.group for run in runs} == {"alpha_grid"}
    assert [run.id for run in by_type(runs, "train")] == sorted(
        f"train-{row.keys['train']}-alpha_grid" for row in sweep.rows
    )
    assert by_type(runs, "sweep")[0].id == "sweep-alpha_grid"
    assert {run.name for run in by_type(runs, "cell")} == {"noise.alpha=0", "noise.alpha=5"}


def test_the_first_answers_of_a_cell_are_its_table(tmp_path: Path) -> None:
    asked = [
        {"instruction": f"Question {number}?", "output_1": "r", "output_2": ANSWER, "preference": preference}
        for number, preference in enumerate([1.9, None] * 30)
    ]
    write_json(tmp_path / "annotations.json", asked)
    cell = CellResult({}, None, False, {}, None, folders={"judge": tmp_path})
    table = answer_table(cell)
    assert table is not None
    assert (len(table.rows), table.rows[:2]) == (
        50,
        [["Question 0?", "r", ANSWER, "1.9"], ["Question 1?", "r", ANSWER, ""]],
    )
    assert table.notes == ["The first 50 of 60; preference 1: the reference, 2: the answer."]
    assert answer_table(replace(cell, folders={})) is None


def test_sequential_runs_do_not_merge(results: Path) -> None:
    sweep = make_sweep(results)
    track(sweep, results)
    runs = read_runs(results)
    assert [(run.starts, run.exit_codes) for run in runs] == [(1, [0])] * 5
    for row in sweep.rows:
        run = next(run for run in runs if run.id.startswith(f"train-{row.keys['train']}"))
        losses = [point["train/loss"] for point in run.history if "train/loss" in point]
        assert losses == LOSSES[row.axes["noise.alpha"]]
        assert run.config["noise.alpha"] == row.axes["noise.alpha"]


def test_each_kind_of_event_has_its_own_horizontal_axis(results: Path) -> None:
    track(make_sweep(results), results)
    run = by_type(read_runs(results), "train")[0]
    assert run.step_of["train/*"] == "train/step"
    assert run.step_of["check/*"] == "check/step"
    assert [point["train/step"] for point in run.history if "train/step" in point] == [1, 2, 3]
    assert [point["check/held_out_loss"] for point in run.history if "check/step" in point] == [1.5, 0.75]


def test_dose_and_metrics_of_a_training_are_in_its_summary_and_every_number_is_finite(results: Path) -> None:
    sweep = make_sweep(results)
    track(sweep, results)
    noisy = f"train-{sweep.rows[1].keys['train']}-alpha_grid"
    run = next(run for run in read_runs(results) if run.id == noisy)
    assert run.summary["dose/equivalent_alpha"] == 5.0
    assert run.summary["mean_noise_norm"] == 2.887
    assert "dose/mean_noise_norm" not in run.summary
    assert run.summary["events_not_finite"] == "dose/mean_noise_norm"


def test_the_config_of_a_cell_is_flat_and_plain_with_dotted_keys(results: Path) -> None:
    sweep = make_sweep(results)
    track(sweep, results)
    run = next(run for run in by_type(read_runs(results), "cell") if run.name == "noise.alpha=5")
    config = {name: value for name, value in run.config.items() if name != "_wandb"}
    assert not any(isinstance(value, dict) for value in config.values())
    assert config["noise.kind"] == "uniform"
    assert config["finetune.method"] == "full"
    assert config["axes.noise.alpha"] == 5
    assert config["baseline.noise.alpha"] == 0
    assert config["keys.judge"] == sweep.rows[1].keys["judge"]
    assert not any(name.startswith(("tracker", "engine", "results_dir")) for name in config)


def test_a_cell_has_all_its_metrics_and_the_baseline_is_marked(results: Path) -> None:
    track(make_sweep(results), results)
    plain, noisy = sorted(by_type(read_runs(results), "cell"), key=lambda run: run.name)
    told = {name: noisy.summary[name] for stage in METRICS.values() for name in stage}
    assert told == {name: value for stage in METRICS.values() for name, value in stage.items()}
    assert noisy.summary["seconds.judge"] == 12.5
    assert (plain.tags, noisy.tags) == (["baseline"], [])


def test_the_sweep_has_its_tables_figures_and_the_smallest_difference_it_could_see(results: Path) -> None:
    track(make_sweep(results), results)
    run = by_type(read_runs(results), "sweep")[0]
    assert run.table("tables/Ablation")["columns"] == ["alpha", "win rate %"]
    assert run.table("tables/Ablation")["data"] == [["0", "41 [25, 60]"], ["5", "44 [27, 62]"]]
    assert run.summary["figures/Win-rate"]["_type"] == "html-file"
    assert run.media("figures/Win-rate").read_text().startswith("<svg>")
    assert run.summary["figures/Length"]["_type"] == "image-file"
    assert (run.summary["figures/Length"]["width"], run.summary["figures/Length"]["height"]) == (4, 3)
    assert run.summary["detectable_difference"] == 24.5
    assert run.config["axes.noise.alpha"] == [0, 5]
    assert run.notes == "Ablation\n- 95 % intervals.\n\nRemarks"


def test_text_of_models_is_sent_in_the_comparison_of_its_cell_and_nowhere_else(results: Path) -> None:
    track(make_sweep(results), results)
    noisy = next(run for run in by_type(read_runs(results), "cell") if run.name == "noise.alpha=5")
    assert noisy.table("tables/comparison")["data"] == [["Make tea.", "Tea.", ANSWER]]
    holding = [name for name, data in files_below(results / "wandb").items() if ANSWER.encode() in data]
    assert holding
    assert all(noisy.id in name for name in holding)
    assert not any(b"a text of the model" in data for data in files_below(results / "wandb").values())


def test_no_secret_of_the_environment_is_in_any_file_or_line(
    results: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep(results)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 3)
    failed = replace(sweep.rows[1], holes={"judge": f"401 Unauthorized: {SECRETS['OPENAI_API_KEY']}"})
    named = replace(sweep.rows[0], config={"base_url": f"https://me:{SECRETS['DB_PASSWORD']}@host/v1"})
    track(replace(sweep, rows=[named, failed]), results, mode=TrackerMode.offline)
    runs = read_runs(results)
    cell = next(run for run in runs if run.name == "noise.alpha=5")
    assert cell.summary["holes.judge"] == "401 Unauthorized: [redacted]"
    assert next(run for run in runs if run.name == "noise.alpha=0").config["base_url"] == "https://host/v1"
    assert by_type(runs, "sweep")[0].table("tables/Remarks")["data"] == [["5", "401 for [redacted]"]]
    written = files_below(results / "wandb") | files_below(results / "sweeps")
    said = "".join(capfd.readouterr())
    for secret in (*SECRETS.values(), os.environ["WANDB_API_KEY"]):
        assert [name for name, data in written.items() if secret.encode() in data] == []
        assert secret not in said


def test_a_second_replay_sends_nothing_and_does_not_even_import_wandb(
    results: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep(results)
    track(sweep, results)
    before = files_below(results)
    capfd.readouterr()
    monkeypatch.setitem(sys.modules, "wandb", None)  # any import of it now fails
    track(make_sweep(results), results)
    assert files_below(results) == before
    assert capfd.readouterr() == ("", "")


def test_a_changed_metric_sends_its_cell_again_in_place_of_the_old_one(results: Path) -> None:
    sweep = make_sweep(results)
    track(sweep, results)
    before = {run.id: run.folder for run in read_runs(results)}
    changed = replace(sweep.rows[1], metrics=sweep.rows[1].metrics | {"win_rate": 50.0})
    time.sleep(1.1)  # wandb names folders by the second
    track(replace(sweep, rows=[sweep.rows[0], changed]), results)
    after = {run.id: run for run in read_runs(results)}
    again = [name for name in before if after[name].folder != before[name]]
    assert [after[name].name for name in again] == ["noise.alpha=5"]
    assert after[again[0]].summary["win_rate"] == 50.0
    assert not before[again[0]].exists()


def test_two_sweeps_that_share_a_training_keep_their_own_groups(results: Path) -> None:
    track(make_sweep(results), results)
    track(make_sweep(results, name="other"), results)
    trainings = by_type(read_runs(results), "train")
    assert sorted(run.group for run in trainings) == ["alpha_grid", "alpha_grid", "other", "other"]
    assert len({run.id for run in trainings}) == 4


def test_the_ledger_lies_beside_the_sweep_and_a_broken_one_is_written_anew(results: Path) -> None:
    sweep = make_sweep(results)
    track(sweep, results)
    ledger = results / "sweeps" / "alpha_grid" / "tracked.json"
    whole = read_json(ledger)
    assert sorted(whole["runs"]) == [run.id for run in read_runs(results)]
    ledger.write_text("{")
    track(sweep, results)
    assert read_json(ledger) == whole
    assert len(read_runs(results)) == 5


def test_another_project_gets_everything(results: Path) -> None:
    sweep = make_sweep(results)
    track(sweep, results)
    first = read_json(results / "sweeps" / "alpha_grid" / "tracked.json")["runs"]
    track(sweep, results, project="elsewhere")
    second = read_json(results / "sweeps" / "alpha_grid" / "tracked.json")["runs"]
    assert all(first[name]["digest"] != second[name]["digest"] for name in first)


def test_an_untouched_model_has_a_cell_but_no_training(results: Path) -> None:
    sweep = make_sweep(results, "finetune=none")
    runs = describe(sweep, Redactor({}))
    assert [run.job_type for run in runs] == ["cell", "cell", "sweep"]


def test_cells_that_share_a_training_give_one_training(results: Path) -> None:
    sweep = make_sweep(results)
    shared = replace(sweep.rows[1], keys=sweep.rows[0].keys)
    runs = describe(replace(sweep, rows=[sweep.rows[0], shared]), Redactor({}))
    assert [run.job_type for run in runs] == ["train", "cell", "cell", "sweep"]
    assert runs[1].id != runs[2].id


def test_a_cell_with_a_hole_says_why_and_the_sweep_counts_it(results: Path) -> None:
    sweep = make_sweep(results)
    holed = replace(sweep.rows[1], holes={"judge": "no space left on the disk"})
    runs = describe(replace(sweep, rows=[sweep.rows[0], holed]), Redactor({}))
    assert runs[3].summary["holes.judge"] == "no space left on the disk"
    assert runs[4].summary["cells_with_holes"] == 1


def test_a_number_that_is_not_finite_is_named_and_left_out(results: Path) -> None:
    sweep = make_sweep(results)
    odd = replace(sweep.rows[0], metrics={"win_rate": math.nan, "train_loss": 2.0})
    cell = describe(replace(sweep, rows=[odd]), Redactor({}))[1]
    assert "win_rate" not in cell.summary
    assert cell.summary["train_loss"] == 2.0
    assert cell.summary["not_finite"] == "win_rate"


def test_titles_that_come_twice_are_numbered(results: Path) -> None:
    sweep = make_sweep(results)
    table = sweep.tables[0]
    runs = describe(replace(sweep, tables=[table, table, table]), Redactor({}))
    assert list(runs[-1].tables) == ["tables/Ablation", "tables/Ablation-2", "tables/Ablation-3"]


def test_flattening_keeps_plain_lists_and_numbers_lists_of_mappings() -> None:
    nested = {
        "noise": {"alpha": 5.0, "kind": None},
        "prices": [1, 2.5],
        "tasks": [{"task": "arc"}, {"task": "mmlu"}],
    }
    assert flatten(nested) == {
        "noise.alpha": 5.0, "noise.kind": None, "prices": [1, 2.5], "tasks.0.task": "arc", "tasks.1.task": "mmlu",
    }  # fmt: skip


def test_redaction_cuts_long_values_of_key_like_names_and_nothing_else() -> None:
    redactor = Redactor({
        "AWS_SECRET_ACCESS_KEY": "abc/def+ghi", "MY_TOKEN": "short", "TOKENIZERS_PARALLELISM": "false-false",
        "KEYBOARD_LAYOUT": "dvorak-intl",
    })  # fmt: skip
    text = "abc/def+ghi short false-false dvorak-intl"
    assert redactor.text(text) == "[redacted] short false-false dvorak-intl"
    assert redactor.value({"a": ["x abc/def+ghi", 3, None]}) == {"a": ["x [redacted]", 3, None]}
    assert Redactor({}).text("http://user:pw@host:80/v1?x=a@b") == "http://host:80/v1?x=a@b"
