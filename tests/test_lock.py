"""A finished sweep's lock: what it names, what it finds, and a bundle that needs nothing but itself."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from neft_lab.lock import bundle, verify
from neft_lab.lock.__main__ import main
from neft_lab.paths import PACKAGE_DIR, without_folders
from neft_lab.plan.names import short_names
from tests.processes import finish
from tests.test_run import command

SWEEP = "results/sweeps/alpha_grid"


@pytest.fixture(scope="module")
def finished(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    finish(command(tiny_llama), folder)
    return folder


@pytest.fixture
def own(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished results that a test may spoil; the sweep's folder."""
    shutil.copytree(finished / "results", tmp_path / "results")
    return tmp_path / SWEEP


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "lock.json").read_text(encoding="utf-8"))
    return found


def faults(folder: Path) -> list[str]:
    return verify(folder).faults


def test_the_lock_names_cells_steps_origins_versions_and_every_file(finished: Path) -> None:
    lock = read(finished / SWEEP)
    assert [cell["axes"]["noise.alpha"] for cell in lock["cells"]] == [0, 5]
    keys = {step["key"] for step in lock["steps"]}
    assert {key for cell in lock["cells"] for key in cell["steps"].values()} == keys
    assert lock["command"].startswith("python -m neft_lab.run +sweep=alpha_grid noise.alpha=0,5")
    for step in lock["steps"]:
        (folder,) = (finished / "results").glob(f"{step['stage']}/*-{step['key']}")
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert set(step["files"]) | set(step["weights"]) == there
        assert lock["environments"][step["environment"]]["device"] in ("cpu", "none", "cuda")
    assert len(lock["packages"]) == 1 and lock["packages"][0]["torch"]
    judge = next(step for step in lock["steps"] if step["stage"] == "judge")
    assert judge["sources"]["judge_model"]["digest"].startswith("sha256:")
    assert {"leaderboard.csv", "table.md", "table.tex", "report.html"} <= set(lock["published"])


def test_digests_are_those_of_the_files(finished: Path) -> None:
    lock = read(finished / SWEEP)
    table = (finished / SWEEP / "table.md").read_bytes()
    assert lock["published"]["table.md"] == {"bytes": len(table), "sha256": hashlib.sha256(table).hexdigest()}
    train = next(step for step in lock["steps"] if step["stage"] == "train")
    weights = finished / f"results/train/{train['name']}-{train['key']}/model/model.safetensors"
    assert (
        train["weights"]["model/model.safetensors"]["sha256"]
        == hashlib.sha256(weights.read_bytes()).hexdigest()
    )


def test_a_second_run_leaves_the_lock_alone(finished: Path, tiny_llama: Path) -> None:
    path = finished / SWEEP / "lock.json"
    before = path.stat().st_mtime_ns
    finish(command(tiny_llama), finished)
    assert path.stat().st_mtime_ns == before


def test_a_finished_sweep_is_as_locked_even_without_its_weights(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(own)]) == 0
    assert "tables rebuilt from records are the same" in capsys.readouterr().out
    for folder in own.parents[1].glob("train/*/model"):
        shutil.rmtree(folder)
    assert main(["verify", str(own)]) == 0
    assert "files of weights are not here" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["outputs.json", "record.json", "annotations.json", "model.safetensors", "report.html"]
)
def test_a_flipped_byte_is_found_by_name(own: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = next(own.parents[1].rglob(name))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert main(["verify", str(own)]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"changed: {path.relative_to(own.parents[1]).as_posix()}" and len(told) == 2


def test_a_missing_file_and_a_missing_step_are_found_by_name(own: Path) -> None:
    outputs = next(own.parents[1].glob("generate/*/outputs.json"))
    outputs.unlink()
    gone = next(own.parents[1].glob("judge/*"))
    shutil.rmtree(gone)
    assert sorted(faults(own)) == [f"missing: generate/{outputs.parent.name}/outputs.json",
                           f"missing: judge/{gone.name}/record.json"]  # fmt: skip


def test_a_table_that_the_records_do_not_give_is_found_though_its_digest_was_forged(own: Path) -> None:
    table = own / "leaderboard.csv"
    table.write_text(table.read_text().replace("alpha_grid,", ",").replace(",5,", ",6,", 1))
    assert faults(own) == ["changed: sweeps/alpha_grid/leaderboard.csv"]
    lock, content = read(own), table.read_bytes()
    lock["published"]["leaderboard.csv"] = {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (own / "lock.json").write_text(json.dumps(lock))
    assert faults(own) == ["not what the records give: sweeps/alpha_grid/leaderboard.csv"]


def test_running_again_does_not_bless_what_was_changed(own: Path, tiny_llama: Path) -> None:
    texts = next(own.parents[1].glob("describe/*/texts.json"))
    texts.write_text(texts.read_text() + "\n")
    finish(command(tiny_llama), own.parents[2])
    assert faults(own) == [f"changed: describe/{texts.parent.name}/texts.json"]


def test_other_versions_are_told_and_no_fault(own: Path) -> None:
    lock = read(own)
    lock["packages"][0]["torch"] = "1.0"
    (own / "lock.json").write_text(json.dumps(lock))
    verdict = verify(own)
    assert not verdict.faults and any("torch 1.0 then, " in note for note in verdict.notes)


def test_a_bundle_is_a_results_folder_in_which_nothing_is_left_to_run(
    own: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    assert main(["bundle", str(own), "--to", str(tmp_path / "shared")]) == 0
    copy = tmp_path / "shared/sweeps/alpha_grid"
    lock = (copy / "lock.json").read_bytes()
    assert not list((tmp_path / "shared").rglob("*.safetensors"))
    assert lock == (own / "lock.json").read_bytes() and not faults(copy)
    shutil.rmtree(own.parents[1])
    assert "nothing to run" in finish([*command(tiny_llama), f"results_dir={tmp_path / 'shared'}"], tmp_path)
    assert (copy / "lock.json").read_bytes() == lock and not faults(copy)


def test_a_bundle_names_no_place_of_the_machine_it_was_made_on(
    own: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    bundle(own, tmp_path / "shared")
    places = [
        str(tmp_path),
        str(own),
        str(tiny_llama),
        str(PACKAGE_DIR.parent),
        tiny_llama.parent.name,
        os.uname().nodename,
    ]
    for path in (tmp_path / "shared").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [place for place in places if place.encode() in content], path


def test_a_bundle_can_be_one_file_with_equal_bytes(own: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert bundle(own, tmp_path / name / "grid.tar.gz") == []
    one, two = (tmp_path / name / "grid.tar.gz" for name in ("a", "b"))
    assert one.read_bytes() == two.read_bytes()
    with tarfile.open(one) as archive:
        assert {entry.uname for entry in archive} == {""} and {entry.mtime for entry in archive} == {0}
        archive.extractall(tmp_path, filter="data")
    assert not faults(tmp_path / "grid/sweeps/alpha_grid")


def test_what_is_not_as_locked_is_not_bundled(own: Path, tmp_path: Path) -> None:
    next(own.parents[1].glob("generate/*/outputs.json")).write_text("[]")
    assert main(["bundle", str(own), "--to", str(tmp_path / "shared")]) == 1
    assert not (tmp_path / "shared").exists()


def test_mistakes_are_told_in_one_line(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own.parent / "torn").mkdir()
    (own.parent / "torn/lock.json").write_text('{"schema": 1, "steps"')
    (tmp_path / "shared/sweeps/alpha_grid").mkdir(parents=True)
    for arguments, part in (
        (["verify", str(tmp_path)], "has no lock.json"),
        (["verify", str(own.parent / "torn")], "is no lock of this program"),
        (["bundle", str(own), "--to", str(tmp_path / "shared")], "holds sweeps/alpha_grid already"),
    ):
        assert main(arguments) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: ") and told.count("\n") == 1 and part in told


def test_the_module_is_a_command(own: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "neft_lab.lock", "verify", str(own)], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(PACKAGE_DIR.parent)})  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_commands_of_the_guide_do_what_it_says(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (PACKAGE_DIR.parent / "docs/reproducing.md").read_text(encoding="utf-8")
    commands = [
        line.split()[3:] for line in guide.splitlines() if line.startswith("python -m neft_lab.lock ")
    ]
    assert len(commands) == 4
    monkeypatch.chdir(own.parents[2])
    assert [main(arguments) for arguments in commands] == [0, 0, 0, 0]


def test_a_sweep_with_holes_is_locked_with_their_reasons(tiny_llama: Path, tmp_path: Path) -> None:
    torn = tmp_path / "models" / "torn"
    shutil.copytree(tiny_llama, torn)
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    finish(["model=local", f"model.path={tiny_llama},{torn}", "tracker=none", "judge=longest", "leaderboard=none",
            "finetune.max_steps=2", "finetune.max_length=512", "generation.limit=3", "generation.max_new_tokens=8",
            "analysis=none"], tmp_path, code=1)  # fmt: skip
    (folder,) = (tmp_path / "results/sweeps").iterdir()
    assert [cell["axes"]["model.path"] for cell in read(folder)["cells"]] == ["tiny", "torn"]
    assert [line.split(",")[0] for line in (folder / "leaderboard.csv").read_text().splitlines()[1:]] == [
        "tiny",
        "torn",
    ]
    verdict = verify(folder)
    assert not verdict.faults and any("steps were not done" in note for note in verdict.notes)
    bundle(folder, tmp_path / "shared")
    assert not faults(tmp_path / "shared/sweeps" / folder.name)


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("/home/me/rows.jsonl", "rows.jsonl"),
        ("/home/me/My Data/rows.jsonl", "rows.jsonl"),
        ("dataset.path=/home/me/a.json,/srv/b.json", "dataset.path=a.json,b.json"),
        ("dataset.path='~/My Data/a.json'", "dataset.path='a.json'"),
        ("no space on /mnt/me/results; free some", "no space on results; free some"),
        ("https://host/a/b", "https://host/a/b"),
        ("org/model and/or n/a", "org/model and/or n/a"),
    ],
)
def test_files_are_told_by_name(text: str, shared: str) -> None:
    assert without_folders(text) == shared
    assert without_folders(shared) == shared


def test_files_of_one_name_keep_what_tells_them_apart() -> None:
    assert short_names({"/a/one/rows.json", "/a/two/rows.json"}) == {
        "/a/one/rows.json": "one/rows.json", "/a/two/rows.json": "two/rows.json",
    }  # fmt: skip
    assert short_names({"/a/x.json", "/b/y.json"}) == {"/a/x.json": "x.json", "/b/y.json": "y.json"}
