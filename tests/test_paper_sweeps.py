"""Every artifact of the paper, end to end at scale=tiny: training, answers, a judge over HTTP, the paper's rows."""

from __future__ import annotations

import csv
import gc
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neft_lab.config import DatasetSource, ModelSource, StageName
from neft_lab.paper.numbers import NO_RUN, numbers_of
from neft_lab.plan import expand, make_plan
from neft_lab.run import main
from tests.judge_server import judge_server
from tests.task_files import write_folder

HTTP = [
    "table1",
    "table2",
    "table3",
    "table5",
    "table6",
    "table10",
    "table11",
    "table12",
    "table13",
    "table14",
    "figure2",
]
VERDICTS = ("reproduced", "inconclusive", "outside")

Rows = list[dict[str, str]]


def prefer(instruction: str, first: str, second: str) -> float:
    """Verdicts as good as random and always the same."""
    return zlib.crc32(f"{instruction}|{first}|{second}".encode()) % 97 / 96


@pytest.fixture(scope="module")
def run_artifact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Rows]]:
    """Runs the sweep of an artifact, all in one results folder: what two artifacts share is trained once."""
    results = tmp_path_factory.mktemp("paper") / "results"
    tasks = write_folder(results.parent / "tasks", train=True)
    old = os.environ.get("OPENAI_API_KEY")
    os.environ["OPENAI_API_KEY"] = "unused"
    # training ends with a full collection, which takes longer than a tiny training where much is imported
    gc.freeze()
    with judge_server(prefer=prefer) as (address, _):
        extra = {name: [f"judge.base_url={address}"] for name in HTTP}
        extra["figure3"] = [f"leaderboard.folder={tasks}", "leaderboard.source=folder"]

        def run(artifact: str) -> Rows:
            asked = [f"+sweep=paper_{artifact}", "scale=tiny", f"results_dir={results}", "tracker=none"]
            asked += extra.get(artifact, [])
            assert main(asked) == 0
            path = results / "sweeps" / f"paper_{artifact}-tiny" / "paper.csv"
            with path.open(encoding="utf-8", newline="") as file:
                return list(csv.DictReader(file))

        yield run
    gc.unfreeze()
    if old is None:
        del os.environ["OPENAI_API_KEY"]
    else:
        os.environ["OPENAI_API_KEY"] = old


@pytest.mark.parametrize("artifact", [*HTTP, "table4", "figure3"])
def test_an_artifact_runs_end_to_end_and_gives_the_paper_s_rows(
    artifact: str, run_artifact: Callable[[str], Rows]
) -> None:
    rows = run_artifact(artifact)
    numbers = numbers_of(artifact)
    assert [(row["model"], row["dataset"], row["metric"], float(row["paper"])) for row in rows] == [
        (one.model, one.dataset, one.metric, one.value) for one in numbers
    ]
    for row in rows:
        if row["method"] in NO_RUN:
            assert row["reason"] and not row["ours"]
            continue
        assert row["ours"], f"{row['method']} {row['metric']}: {row['reason']}"
        assert row["differences"].startswith("scale=tiny: a random model of")
        if row["effect_paper"]:
            assert row["effect_ours"], row["reason"]
            assert row["verdict"].split(";")[0] in VERDICTS
            low, value, high = (float(row[f"effect_ours{end}"]) for end in ("_low", "", "_high"))
            assert low <= value <= high


def test_blocked_end_tokens_make_the_longest_answers_of_table_5(run_artifact: Callable[[str], Rows]) -> None:
    lengths = {row["variant"] or row["method"]: float(row["ours"]) for row in run_artifact("table5")
               if row["metric"] == "mean_chars"}  # fmt: skip
    assert max(lengths, key=lambda name: lengths[name]) == "min_new_tokens=250"


def test_a_second_time_nothing_is_trained(
    run_artifact: Callable[[str], Rows], capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_artifact("table12")
    capsys.readouterr()
    assert run_artifact("table12") == first
    assert "nothing to run" in capsys.readouterr().out


def test_tiny_cells_keep_what_an_artifact_varies() -> None:
    full, tiny = expand(["+sweep=paper_table11"]), expand(["+sweep=paper_table11", "scale=tiny"])
    assert [cell.axes for cell in full] == [cell.axes for cell in tiny]
    for one, other in zip(full, tiny, strict=True):
        assert other.config.noise == one.config.noise
        assert other.config.finetune.freeze == one.config.finetune.freeze
        assert other.config.judge.evaluator == one.config.judge.evaluator
        assert (other.config.model.name, other.config.dataset.name) == ("llama2_7b", "alpaca")
        assert other.config.model.source is ModelSource.random
        assert other.config.dataset.source is DatasetSource.package


def test_tiny_tables_lie_beside_the_real_ones() -> None:
    assert make_plan(["+sweep=paper_table12"]).name == "paper_table12"
    assert make_plan(["+sweep=paper_table12", "scale=tiny"]).name == "paper_table12-tiny"


def test_tiny_and_full_share_no_step() -> None:
    full, tiny = make_plan(["+sweep=paper_table12"]), make_plan(["+sweep=paper_table12", "scale=tiny"])
    assert not set(full.steps) & set(tiny.steps)


def test_full_scale_changes_no_key() -> None:
    asked = ["judge=longest", "leaderboard=none"]
    assert list(make_plan(asked).steps) == list(make_plan([*asked, "scale=full"]).steps)


@pytest.mark.parametrize("artifact", [*HTTP, "table4", "figure3"])
def test_an_artifact_dry_runs_without_a_network_and_without_its_data(
    artifact: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [f"+sweep=paper_{artifact}", "dry_run=true", f"results_dir={tmp_path}"]
    assert main(asked) == 0
    assert (tmp_path / "sweeps" / f"paper_{artifact}" / "plan.json").is_file()
    told = capsys.readouterr().out
    hours = re.search(r"GPU hours: (?:at least )?([\d.,]+)", told)
    assert hours is not None and float(hours[1].replace(",", "")) > 1
    assert (re.search(r"calls, about .*: \$\d", told) is not None) == (artifact in HTTP)


def test_the_judge_of_table_1_costs_what_its_price_list_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """805 instructions by 8 models and what checks the judge, at 30 and 60 dollars a million tokens of GPT-4."""
    assert main(["+sweep=paper_table1", "dry_run=true", f"results_dir={tmp_path}"]) == 0
    told = re.search(
        r"8 cells, ([\d,]+) calls, about ([\d,]+) tokens in and ([\d,]+) out .*: \$([\d.]+)",
        capsys.readouterr().out,
    )
    assert told is not None
    calls, read, written = (int(number.replace(",", "")) for number in told.groups()[:3])
    assert 8 * 805 <= calls < 1.1 * 8 * 805
    assert 400 < read / calls < 1000, "the prompt is 1204 bytes, and two answers come on top"
    assert float(told[4]) == pytest.approx(30e-6 * read + 60e-6 * written, rel=0.01)


def test_only_what_is_printed_is_asked_of_gpt_4_in_table_10() -> None:
    cells = expand(["+sweep=paper_table10"])
    asked = [cell.axes for cell in cells if cell.config.judge.evaluator == "alpaca_eval_gpt4"]
    assert len(cells) == 13 and len(asked) == 3
    assert all(StageName.judge in cell.config.stages for cell in cells)
