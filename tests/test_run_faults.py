"""The command where something outside it is wrong or odd: disks, folders, steps run by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from neft_lab.execute import freeze
from neft_lab.paths import PACKAGE_DIR
from neft_lab.plan import make_plan
from neft_lab.step import main as run_frozen
from neft_lab.store import Store, read_json
from tests.processes import finish
from tests.tiny import make_tiny_llama

FEW = [
    "tracker=none", "judge=longest", "leaderboard=none", "analysis=none", "finetune.max_steps=2",
    "finetune.max_length=512", "generation.limit=3", "generation.max_new_tokens=8",
]  # fmt: skip


def command(*models: Path) -> list[str]:
    return ["model=local", f"model.path={','.join(map(str, models))}", *FEW]


def records(results: Path) -> dict[str, int]:
    """Finished steps and when they were written."""
    found = results.glob("*/*/record.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


def table(results: Path) -> bytes:
    (folder,) = (results / "sweeps").iterdir()
    return (folder / "leaderboard.csv").read_bytes()


def python(arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, as a user or a scheduler starts one."""
    path = os.pathsep.join([str(PACKAGE_DIR.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


def test_a_repaired_model_runs_only_what_had_failed(tiny_llama: Path, tmp_path: Path) -> None:
    other = make_tiny_llama(tmp_path / "other", seed=1)
    weights = other / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    told = finish(command(tiny_llama, other), tmp_path, code=1)
    assert "cannot be loaded" in told and "Traceback" not in told
    before = records(tmp_path / "results")
    assert len(before) == 4, "the other cell is whole"
    weights.write_bytes(whole)
    finish(command(tiny_llama, other), tmp_path)
    after = records(tmp_path / "results")
    assert len(after) == 8 and {name: after[name] for name in before} == before


@contextmanager
def small_disk(folder: Path, *, size: str) -> Iterator[Path]:
    """A file system of its own, in memory."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting a file system is not allowed here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, *, spare: int) -> Path:
    """A file that leaves ``spare`` bytes of the disk."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(ballast, max(ballast.stat().st_size - spare, 0))
    return ballast


@pytest.mark.parametrize("spare", [0, 16_384, 262_144])
def test_a_full_disk_is_told_in_one_line_and_with_room_the_run_goes_on(
    spare: int, tiny_llama: Path, tmp_path: Path
) -> None:
    """No room for the plan, for what a step tells, for a checkpoint."""
    with small_disk(tmp_path / "disk", size="16m") as disk:
        ballast = fill(disk, spare=spare)
        arguments = [*command(tiny_llama), f"results_dir={disk / 'results'}", "finetune.checkpoint_every=1"]
        told = finish(arguments, tmp_path, code=1)
        assert "no space left on the disk" in told and "Traceback" not in told
        ballast.unlink()
        finish(arguments, tmp_path)
        assert len(records(disk / "results")) == 4
        finish(command(tiny_llama), tmp_path)
        assert table(disk / "results") == table(tmp_path / "results")


def test_a_frozen_step_runs_alone(tiny_llama: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    train, generate, *_ = make_plan(command(tiny_llama)).steps.values()
    for step in (train, generate):
        freeze(step, store)
    file = store.work(generate.stage, generate.key) / "step.json"
    early = python(["neft_lab.step", str(file)], tmp_path)
    assert early.returncode == 1
    assert early.stderr.count("\n") == 1 and f"needs train {train.key}, which is not done" in early.stderr
    done = python(["neft_lab.step", f"results/work/train-{train.key}/step.json"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_json(Path(done.stdout.splitlines()[-1]) / "record.json")["key"] == train.key
    before = records(tmp_path / "results")
    told = finish(command(tiny_llama), tmp_path)
    assert "train" not in [line.split()[0] for line in told.splitlines() if line[:1].isalpha()]
    assert {name: records(tmp_path / "results")[name] for name in before} == before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{torn", "must be JSON"),
        ("\x00\xff", "must be JSON"),
        ("[]", "must be a JSON object"),
        ("{}", "must say stage, key, name"),
        ('{"stage": "train", "key": "k", "name": "n", "version": 1, "config": [], "needs": {}, "sources": {}, '
         '"device": "cpu"}', "must say config"),
        ('{"stage": "trian", "key": "k", "name": "n", "version": 1, "config": {}, "needs": {}, "sources": {}, '
         '"device": "cpu"}', "did you mean 'train'?"),
    ],
)  # fmt: skip
def test_a_step_json_that_cannot_be_run_is_a_mistake_in_one_line(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "work/train-k/step.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode("latin-1"))
    assert run_frozen([str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and told in error


@pytest.mark.parametrize("arguments", [[], ["no/such/step.json"], ["a", "b"]])
def test_a_step_that_is_not_there_is_a_mistake_in_one_line(arguments: list[str], tmp_path: Path) -> None:
    told = python(["neft_lab.step", *arguments], tmp_path)
    assert told.returncode == 2
    assert told.stderr.count("\n") == 1 and told.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["+swep=alpha_grid"], "did you mean 'sweep'?"),
        (["+noise.alpah=7"], "did you mean 'alpha'?"),
        (["model=local", "model.path=/no/such/model"], "model.path must exist"),
        (["dataset=local", "dataset.path=/no/such/rows.json"], "dataset.path must exist"),
        (["--config-dir", "/no/such/folder"], "--config-dir must name a folder"),
        (["results_dir=log.txt", *FEW], "results_dir"),
    ],
)
def test_a_mistake_is_one_line_on_standard_error_and_nothing_else(
    arguments: list[str], hint: str, tmp_path: Path
) -> None:
    (tmp_path / "log.txt").touch()
    told = python(["neft_lab.run", *arguments], tmp_path)
    assert told.returncode == 2, told.stderr
    assert told.stderr.count("\n") == 1 and hint in told.stderr
    assert told.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["log.txt"]


def test_runs_in_two_folders_give_the_same_and_write_only_their_results(
    tiny_llama: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        finish(command(tiny_llama), folder)
        assert {path.name for path in folder.iterdir()} == {"results", "log.txt"}
    one, two = (folder / "results" for folder in folders)
    assert records(one).keys() == records(two).keys()
    assert table(one) == table(two)
