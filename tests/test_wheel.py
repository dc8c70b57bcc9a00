"""The wheel, built and used from another folder: everything that a run needs is inside."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from neft_lab.paths import CONF_DIR, PACKAGE_DIR, SWEEPS_DIR

pytestmark = pytest.mark.slow

ROOT = PACKAGE_DIR.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built with what is installed: no network."""
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("an installed package has no checkout to build from")
    pytest.importorskip("hatchling", reason="building the wheel needs hatchling")
    output = tmp_path_factory.mktemp("dist")
    arguments = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(output), str(ROOT)]
    told = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr
    (built,) = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed package and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("site")
    arguments = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(folder),
        str(wheel),
    ]
    told = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return folder


def run(installed: Path, folder: Path, arguments: Sequence[str]) -> str:
    """What a fresh interpreter prints that knows the package only from its wheel."""
    told = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_every_file_that_a_run_reads_is_inside(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    for folder, prefix in ((CONF_DIR, "conf"), (SWEEPS_DIR, "sweeps")):
        files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
        assert files and {f"neft_lab/{prefix}/{path.as_posix()}" for path in files} <= inside
    own = [path for path in PACKAGE_DIR.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {f"neft_lab/{path.relative_to(PACKAGE_DIR).as_posix()}" for path in own} <= inside
    wanted = {
        "starter/train.jsonl",
        "starter/evaluation.jsonl",
        "starter/validation.jsonl",
        "paper/numbers.csv",
    }
    assert {f"neft_lab/{name}" for name in wanted} <= inside
    assert any(name.startswith("neft_lab/report/assets/") for name in inside)


def test_nothing_else_is_inside(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"neft_lab"}
    assert not [name for name in names if "__pycache__" in name or name.startswith("neft_lab/results/")]
    assert sum(item.file_size for item in zipfile.ZipFile(wheel).infolist()) < 20_000_000


def test_the_installed_package_plans_from_another_folder(installed: Path, tmp_path: Path) -> None:
    where = run(
        installed,
        tmp_path,
        ["-c", "import neft_lab.paths as p; print(p.PACKAGE_DIR, p.PAPER_NUMBERS.is_file())"],
    )
    assert where.split() == [str(installed / "neft_lab"), "True"]
    assert "alpha_grid" in run(installed, tmp_path, ["-m", "neft_lab.run", "--help"])
    told = run(installed, tmp_path, ["-m", "neft_lab.run", "+sweep=alpha_grid", "dry_run=true"])
    assert "4 cells" in told
    assert (tmp_path / "results/sweeps/alpha_grid/plan.json").is_file()


def test_the_installed_package_trains_and_tabulates(
    installed: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    few = ["tracker=none", "judge=longest", "leaderboard=none", "analysis=none", "finetune.max_steps=1",
           "finetune.max_length=512", "generation.limit=2", "generation.max_new_tokens=4"]  # fmt: skip
    run(installed, tmp_path, ["-m", "neft_lab.run", "model=local", f"model.path={tiny_llama}", *few])
    (folder,) = (tmp_path / "results/sweeps").iterdir()
    assert (folder / "table.md").stat().st_size and (folder / "report.html").stat().st_size
