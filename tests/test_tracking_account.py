"""Where W&B runs go: disk or server, and what happens when the server cannot be had."""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import time
from pathlib import Path

import pytest

from neft_lab.config import TrackerConfig, TrackerKind, TrackerMode
from neft_lab.store import read_json
from neft_lab.tracking import make_tracker
from neft_lab.tracking.account import reachable, wanted_mode
from neft_lab.tracking.content import describe
from neft_lab.tracking.redaction import Redactor
from tests.tracking_cases import (
    SECRETS,
    files_below,
    make_sweep,
    track,
    track_apart,
)
from tests.wandb_files import read_runs
from tests.wandb_server import wandb_server

pytestmark = pytest.mark.usefixtures("wandb_home")


def test_offline_runs_say_once_how_to_send_them(results: Path, capfd: pytest.CaptureFixture[str]) -> None:
    track(make_sweep(results), results)
    output, errors = capfd.readouterr()
    assert (
        output
        == f"W&B: 5 runs on disk; to upload them: wandb sync {results}/wandb/offline-run-*-alpha_grid\n"
    )
    assert errors == ""
    assert len(list((results / "wandb").glob("offline-run-*-alpha_grid"))) == 5


def test_a_tracker_that_cannot_write_gives_one_warning(
    results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sweep = make_sweep(results)
    (results / "wandb").write_text("a file where the folder should be")
    track(sweep, results)
    output, errors = capfd.readouterr()
    assert output == ""
    assert errors.startswith("warning: not tracked: NotADirectoryError")
    assert errors.count("\n") == 1
    (results / "wandb").unlink()
    track(sweep, results)
    assert len(read_runs(results)) == 5


def test_an_unreachable_server_costs_seconds_and_one_warning(
    results: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep(results)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    track(sweep, results)
    errors = capfd.readouterr().err
    assert errors == f"warning: W&B: no answer from {os.environ['WANDB_BASE_URL']}; going on offline\n"
    assert len(read_runs(results)) == 5
    monkeypatch.setitem(sys.modules, "wandb", None)
    began = time.perf_counter()
    track(sweep, results)
    assert time.perf_counter() - began < 2
    assert capfd.readouterr().err == errors


def test_a_server_that_takes_the_call_and_says_nothing_does_not_hold_us_up() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.perf_counter()
        assert not reachable(f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=0.2)
        assert time.perf_counter() - began < 1


def test_a_login_that_the_server_refuses_falls_back_to_disk_with_one_warning(results: Path) -> None:
    with wandb_server(refuses=True) as (address, seen):
        done = track_apart(make_sweep(results), results, WANDB_BASE_URL=address, WANDB_API_KEY="k" * 40)
    assert seen.accounts
    assert done.stderr.startswith("warning: W&B: ")
    assert done.stderr.count("\n") == 1
    assert len([run for run in read_runs(results) if run.folder.name.startswith("offline-run-")]) == 5


@pytest.mark.soak
def test_a_server_that_falls_silent_half_way_costs_half_a_minute_and_loses_nothing(results: Path) -> None:
    with wandb_server(silent_after=8) as (address, seen):
        began = time.perf_counter()
        done = track_apart(make_sweep(results), results, WANDB_BASE_URL=address, WANDB_API_KEY="k" * 40)
        assert time.perf_counter() - began < 60
    assert len(seen.bodies) > 8
    assert done.stderr == "warning: W&B: TimeoutError: Timed out finishing run.; going on offline\n"
    kept = read_json(results / "sweeps" / "alpha_grid" / "tracked.json")["runs"]
    assert len(kept) == 5
    offline = {run.id for run in read_runs(results) if run.folder.name.startswith("offline-run-")}
    assert offline == {name for name, sent in kept.items() if sent["mode"] == "offline"}


def test_once_logged_in_what_was_offline_is_sent_and_never_again(results: Path) -> None:
    sweep = make_sweep(results)
    track(sweep, results)
    key = "0123456789abcdef" * 3
    with wandb_server() as (address, seen):
        done = track_apart(sweep, results, WANDB_BASE_URL=address, WANDB_API_KEY=key)
        assert done.stderr == ""
        assert done.stdout == f"W&B: 5 runs at {address}/somebody/neft_lab\nTrue\n"
        asked = len(seen.bodies)
        again = track_apart(sweep, results, WANDB_BASE_URL=address, WANDB_API_KEY=key)
        assert (again.stdout, again.stderr, len(seen.bodies)) == ("False\n", "", asked)
    grouped = {run["name"] for run in seen.runs if run["groupName"] == "alpha_grid"}
    assert grouped == {run.id for run in describe(sweep, Redactor({}))} == {run["name"] for run in seen.runs}
    cell = next(run for run in seen.runs if run["name"].startswith("cell-"))
    assert json.loads(cell["config"])["noise.kind"] == {"value": "uniform"}
    assert {first for _, first in seen.offsets} == {0}, "a run is told from its first line, not appended to"
    assert seen.accounts == {"Basic " + base64.b64encode(f"api:{key}".encode()).decode()}
    told = [*seen.bodies, *files_below(results / "wandb").values()]
    assert not any(secret.encode() in data for data in told for secret in (*SECRETS.values(), key))
    assert not list((results / "wandb").glob("offline-run-*"))


def test_what_wandb_sync_has_sent_is_not_sent_again(
    results: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep(results)
    track(sweep, results)
    for run in read_runs(results):
        (run.folder / f"run-{run.id}.wandb.synced").touch()
    capfd.readouterr()
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setitem(sys.modules, "wandb", None)
    track(sweep, results)
    assert capfd.readouterr() == ("", "")


def test_disabled_by_environment_or_by_config_leaves_nothing(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep(results)
    before = files_below(results)
    make_tracker(TrackerConfig("none", TrackerKind.none, "p", None, TrackerMode.auto), results).track(sweep)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    track(sweep, results, mode=TrackerMode.online)
    assert files_below(results) == before


def test_auto_is_online_when_logged_in_and_offline_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wanted_mode(TrackerMode.auto) == "offline"
    assert wanted_mode(TrackerMode.online) == "online"
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert wanted_mode(TrackerMode.auto) == "online"
    assert wanted_mode(TrackerMode.offline) == "offline"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wanted_mode(TrackerMode.auto) == "offline"


def test_a_login_in_the_netrc_file_counts_for_its_own_server_only(
    wandb_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (wandb_home / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {'k' * 40}\n")
    assert wanted_mode(TrackerMode.auto) == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert wanted_mode(TrackerMode.auto) == "offline"


def test_a_server_and_a_mode_chosen_with_wandb_s_own_commands_hold(
    tmp_path: Path, wandb_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "config" / "settings"
    settings.parent.mkdir()
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(settings.parent))
    (wandb_home / ".netrc").write_text(f"machine wandb.example.org\n  login user\n  password {'k' * 40}\n")
    assert wanted_mode(TrackerMode.auto) == "offline"
    settings.write_text("[default]\nbase_url = https://wandb.example.org\n")
    assert wanted_mode(TrackerMode.auto) == "online"
    settings.write_text("[default]\nbase_url = https://wandb.example.org\nmode = disabled\n")
    assert wanted_mode(TrackerMode.online) == "disabled"
