"""A sweep whose judge is asked over HTTP: arms in turn, money and mistakes told before, nothing lost on the way."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from neft_lab.judging.ledger import JudgementLedger
from neft_lab.run import main
from tests.judge_server import Behaviour, judge_server
from tests.processes import finish, start

COUNT = 24
PUBLISHED = Path(__file__).parents[1].parent / "shared" / "data" / "alpaca_eval"
REPLAY = """
import sys
from neft_lab.run import main
code = main(sys.argv[1:])
assert "torch" not in sys.modules and "alpaca_eval" not in sys.modules
sys.exit(code)
"""


def write_arms(folder: Path, *, cues: dict[str, str] | None = None, count: int = COUNT) -> None:
    """References and the outputs of the arms a, b and c; a cue makes the server misbehave on an arm's last output."""
    rows = [{"instruction": f"i{number}", "output": "r" * 20, "generator": "ref"} for number in range(count)]
    (folder / "references.json").write_text(json.dumps(rows))
    for arm in "abc":
        outputs = [
            {**row, "output": f"{arm} " * (1 + n % 20), "generator": arm} for n, row in enumerate(rows)
        ]
        outputs[-1]["output"] += (cues or {}).get(arm, "")
        (folder / f"{arm}.json").write_text(json.dumps(outputs))


def command(url: str, *more: str, arms: str = "abc") -> list[str]:
    return [
        "generation=file", f"generation.outputs={','.join(f'{arm}.json' for arm in arms)}",
        "judge=openai_compatible", f"judge.base_url={url}", "judge.served_model=m", "judge.evaluator=alpaca_eval_gpt4",
        "judge.reference=references.json", "judge.usd_per_million_tokens=[1,2]", "judge.audit_pairs=0",
        "judge.concurrency=1", "stages=[generate,judge]", "tracker=none", *more,
    ]  # fmt: skip


def arms_asked(seen: Behaviour) -> list[str]:
    """The arm of every request in the order of asking."""
    texts = [str(body["messages"][1]["content"]) for body in seen.bodies]
    return [next(arm for arm in "abc" if f'"{arm} ' in text or f"{arm} {arm}" in text) for text in texts]


def leaderboard(folder: Path) -> list[dict[str, str]]:
    (file,) = folder.glob("results/sweeps/*/leaderboard.csv")
    return list(csv.DictReader(file.read_text().splitlines()))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_audit_of_one_pair_has_no_error_to_tell_and_is_no_failure(here: Path) -> None:
    write_arms(here, count=3)
    with judge_server() as (url, _):
        assert main([*command(url, arms="a"), "judge.audit_pairs=1"]) == 0
    (row,) = leaderboard(here)
    assert row["win_rate"] and "nan" not in row.values()


def test_arms_of_a_sweep_are_asked_in_turn_and_each_step_has_its_own_record(here: Path) -> None:
    write_arms(here)
    with judge_server() as (url, seen):
        assert main(command(url)) == 0
        assert arms_asked(seen) == ["a", "b", "c"] * COUNT
        assert len(list(here.glob("results/judge/*/record.json"))) == 3
        assert main(command(url)) == 0
    assert len(seen.bodies) == 3 * COUNT
    assert [row["win_rate_n"] for row in leaderboard(here)] == ["24"] * 3


def test_an_arm_that_fails_does_not_take_the_others_along(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_arms(here, cues={"b": "[[500x2]]"})
    with judge_server() as (url, seen):
        assert main(command(url, "judge.attempts=1")) == 1
        told = capsys.readouterr().out
        assert "1 of 24 judge requests got no answer (1 http 500)" in told
        assert len(list(here.glob("results/judge/*/record.json"))) == 2
        assert len(seen.bodies) == 3 * COUNT
        seen.misbehaved.clear()
        assert main(command(url, "judge.attempts=4")) == 0
    assert len(seen.bodies) == 3 * COUNT + 3  # nothing but the one pair is asked again, twice in vain
    assert {row["judge_holes"] for row in leaderboard(here)} == {"0"}


def test_a_service_that_is_down_is_given_up_once_and_not_by_every_cell(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_arms(here)
    assert main(command("http://127.0.0.1:9/v1", "judge.attempts=1")) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("FAILED: JudgingStopped") == 3
    assert "the service does not answer" in told and "0 of 72 questions are answered" in told
    with JudgementLedger(here / "results" / "judgements") as ledger:
        assert ledger.entries() == []
    assert all((folder / "error.json").is_file() for folder in here.glob("results/work/judge-*[!k]"))


def test_an_arm_with_other_instructions_than_the_references_fails_alone(here: Path) -> None:
    write_arms(here)
    rows = json.loads((here / "c.json").read_text())
    (here / "c.json").write_text(json.dumps([{**rows[0], "instruction": "unknown"}, *rows[1:]]))
    with judge_server() as (url, seen):
        assert main(command(url)) == 1
    assert len(seen.bodies) == 2 * COUNT
    assert len(list(here.glob("results/judge/*/record.json"))) == 2


@pytest.fixture(scope="module")
def whole_table(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """leaderboard.csv of a sweep that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    write_arms(folder)
    with judge_server() as (url, _):
        finish(command(url), folder)
    return next(folder.glob("results/sweeps/*/leaderboard.csv")).read_bytes()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_stopped_in_its_judging_goes_on_and_gives_the_same_table(
    tmp_path: Path, whole_table: bytes, how: signal.Signals
) -> None:
    write_arms(tmp_path)
    with judge_server(latency=0.05) as (url, seen):
        process = start(command(url), tmp_path)
        _wait_for(seen, 30, process)
        os.kill(int(process.pid or 0), how)
        process.join()
        assert process.exitcode == (130 if how is signal.SIGINT else -signal.SIGKILL)
        finish(command(url), tmp_path)
    assert 3 * COUNT <= len(seen.bodies) <= 3 * COUNT + 1  # at most the one in flight is asked again
    assert next(tmp_path.glob("results/sweeps/*/leaderboard.csv")).read_bytes() == whole_table


def _wait_for(seen: Behaviour, requests: int, process: BaseProcess) -> None:
    deadline = time.monotonic() + 60
    while len(seen.bodies) < requests:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ("judge.usd_per_million_tokens=null", "the price of judge model 'm' is not known"),
        ("judge.evaluator=alpaca_eval_gpt5", "'alpaca_eval_gpt5' is not known; did you mean 'alpaca_eval_gpt4'"),
        ("judge.max_usd=0.001", "judge.max_usd=0.001 is too little: judging is expected to cost"),
        ("judge.reference=alpaca_eval_gpt4_base", "is no file; did you mean 'alpaca_eval_gpt4_baseline'"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_or_paid_is_told_before_anything_runs(
    here: Path, capsys: pytest.CaptureFixture[str], mistake: str, told: str
) -> None:
    write_arms(here)
    with judge_server() as (url, seen):
        name = mistake.split("=")[0]
        given = [text for text in command(url) if not text.startswith(f"{name}=")]
        assert main([*given, mistake]) == 2
    assert told in capsys.readouterr().err
    assert not seen.bodies and not (here / "results" / "generate").exists()


def test_openai_itself_without_a_key_is_told_before_anything_runs(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    write_arms(here)
    given = ["judge=alpaca_eval_gpt4", "judge.reference=references.json", "generation=file", "generation.outputs=a.json",
             "stages=[generate,judge]", "tracker=none"]  # fmt: skip
    assert main(given) == 2
    assert "OPENAI_API_KEY must be set" in capsys.readouterr().err
    assert not (here / "results" / "generate").exists()


def test_a_run_tells_what_its_judging_will_cost_and_a_stopped_one_what_is_left(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_arms(here)
    with judge_server() as (url, _):
        main(command(url, arms="a"))
        assert "judge openai_compatible: 1 cell, 24 calls" in capsys.readouterr().out
        main(command(url))
        told = capsys.readouterr().out
    assert "judge openai_compatible: 2 cells, 48 calls" in told and "(from ledger)" in told


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="AlpacaEval's published files are not here")
def test_a_published_pair_of_files_gives_the_published_row_to_the_last_digit_without_torch(
    tmp_path: Path,
) -> None:
    given = [
        "judge=file", f"judge.annotations={PUBLISHED}/alpaca-7b-neft.alpaca_eval_gpt4.annotations.json",
        "generation=file", f"generation.outputs={PUBLISHED}/alpaca-7b-neft.json", "stages=[generate,judge]",
        "tracker=none",
    ]  # fmt: skip
    subprocess.run([sys.executable, "-c", REPLAY, *given], cwd=tmp_path, check=True, capture_output=True)
    (row,) = leaderboard(tmp_path)
    with (PUBLISHED / "alpaca_eval_gpt4_leaderboard.csv").open() as stream:
        published = next(line for line in csv.DictReader(stream) if line[""] == "alpaca-7b-neft")
    assert float(row["win_rate"]) == pytest.approx(float(published["win_rate"]), abs=1e-9)
    assert row["win_rate_n"] == published["n_total"] == "803"
    assert row["output_characters"] == published["avg_length"]
