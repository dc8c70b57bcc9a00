"""A finished sweep on disk for the tracker, and a user who is not logged in anywhere."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from neft_lab.claims.results import load_results
from neft_lab.config import TrackerConfig, TrackerKind, TrackerMode
from neft_lab.execute import freeze, read_status
from neft_lab.plan import Plan, Step, make_plan
from neft_lab.progress import Progress
from neft_lab.store import Store
from neft_lab.tables import Table
from neft_lab.tracking import TrackedSweep, make_tracker
from tests.wandb_files import WrittenRun

SECRETS = {"OPENAI_API_KEY": "sk-proj-4kQ9vLx2", "HF_TOKEN": "hf_Zt7RmWq81", "DB_PASSWORD": "correct horse"}
LOSSES = {0: [2.5, 2.25, 2.0], 5: [2.75, 2.5, 2.375]}
METRICS = {
    "train": {"train_loss": 2.25, "mean_noise_norm": 2.887},
    "generate": {"generated_tokens": 640.0},
    "judge": {"win_rate": 43.75, "win_rate_low": 27.1, "win_rate_high": 61.9, "win_rate_n": 32.0},
}
ANSWER = "Boil the water first."


@contextmanager
def nobody_logged_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder that is the home too, secrets in the environment, no login; nothing may be left in it."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    home = folder / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    yield home
    assert [path.name for path in home.iterdir() if path.name != ".netrc"] == []


def make_sweep(folder: Path, *options: str, name: str = "alpha_grid") -> TrackedSweep:
    """A finished sweep of two cells on disk, alpha 0 and 5, with two tables, two figures and a comparison."""
    model = folder.parent / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}")
    plan = make_plan([
        "model=local", f"model.path={model}", "noise.alpha=0,5", "judge=longest", "stages=[train,generate,judge]",
        f"results_dir={folder}", *options,
    ])  # fmt: skip
    finish(plan, Store(folder))
    rows = load_results(plan, read_status(plan, Store(folder)))
    rows = [replace(row, baseline=None if row.axes["noise.alpha"] == 0 else rows[0].axes) for row in rows]
    drawing = folder / "win_rate.svg"
    drawing.write_text(f"<?xml version='1.0'?>\n<svg><text>{SECRETS['HF_TOKEN']}</text></svg>")
    Image.new("RGB", (4, 3)).save(folder / "length.png")
    tables = [
        Table(
            "Ablation",
            ["alpha", "win rate %"],
            [["0", "41 [25, 60]"], ["5", "44 [27, 62]"]],
            ["95 % intervals."],
        ),
        Table("Remarks", ["cell", "why"], [["5", f"401 for {SECRETS['OPENAI_API_KEY']}"]]),
    ]
    comparison = Table("Answers", ["instruction", "plain", "noisy"], [["Make tea.", "Tea.", ANSWER]])
    return TrackedSweep(
        name, rows, tables, [("Win rate", drawing), ("Length", folder / "length.png")],
        comparisons={rows[1].label: comparison}, detectable_difference=24.5,
    )  # fmt: skip


def finish(plan: Plan, store: Store) -> None:
    """Give every step of a plan the record and the events that its stage would have left."""
    for step in plan.steps.values():
        if store.find(step.stage, step.key):
            continue
        freeze(step, store)
        if step.stage == "train":
            tell(step, Progress(store.work("train", step.key)))
        record = step.as_json() | {
            "status": "done", "metrics": METRICS[step.stage], "resolved": {"rows": 240}, "commit": None,
            "environment": {"device": "cpu", "torch": "2.13.0"}, "started": "2026-01-01T00:00:00+00:00",
            "seconds": 12.5,
        }  # fmt: skip
        store.publish(step.stage, step.key, step.name, record)


def tell(step: Step, progress: Progress) -> None:
    alpha = step.inputs.noise.alpha if step.inputs.noise else 0
    for number, loss in enumerate(LOSSES[int(alpha)], start=1):
        progress.event(kind="train", step=number, loss=loss, learning_rate=5e-5 / number)
    for number in (2, 4):
        progress.event(kind="check", step=number, held_out_loss=3.0 / number, sample="a text of the model")
    progress.event(kind="dose", equivalent_alpha=float(alpha), mean_noise_norm=math.inf)


def track(
    sweep: TrackedSweep, folder: Path, *, mode: TrackerMode = TrackerMode.auto, project: str = "neft_lab"
) -> None:
    make_tracker(TrackerConfig("wandb", TrackerKind.wandb, project, None, mode), folder).track(sweep)


def track_apart(sweep: TrackedSweep, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Track in a process of its own: wandb reads its environment once in a process."""
    case = folder.parent / "case.pickle"
    case.write_bytes(pickle.dumps((sweep, folder)))
    code = (
        "import pickle, sys\nfrom pathlib import Path\nfrom tests.tracking_cases import track\n"
        f"track(*pickle.loads(Path({str(case)!r}).read_bytes()))\nprint('wandb' in sys.modules)"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment, "PYTHONPATH": paths}, text=True,
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip


def by_type(runs: list[WrittenRun], job_type: str) -> list[WrittenRun]:
    return [run for run in runs if run.job_type == job_type]


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
