"""Kill the program with SIGKILL at any moment of any stage; the same command goes on, and nothing differs."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import finish, kill_when


def command(model: Path) -> list[str]:
    """A whole run in which every stage has several batches."""
    return [
        "+sweep=alpha_grid", "noise.alpha=0,5", "model=local", f"model.path={model}", "tracker=none",
        "finetune.max_steps=8", "finetune.batch=4", "finetune.micro_batch=2", "finetune.checkpoint_every=2",
        "finetune.max_length=512", "finetune.learning_rate=0.01",
        "generation.limit=12", "generation.max_new_tokens=24", "generation.max_prompt_tokens=64",
        "generation.token_budget=200",
        "judge.model.source=local", f"judge.model.path={model}", "judge.token_budget=600",
        "analysis.rows=4",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    finish(command(tiny_llama), folder)
    return folder


def digests(folder: Path) -> dict[str, str]:
    """What must not differ: tables, trained weights, answers, verdicts, documents; by path."""
    wanted = ("leaderboard.csv", "table.md", "table.tex", "model.safetensors", "outputs.json", "annotations.json",
              "documents.jsonl", "losses.json")  # fmt: skip
    files = [path for path in sorted((folder / "results").rglob("*")) if path.name in wanted]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def records(folder: Path) -> dict[str, float]:
    """Finished steps and when they were written."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime
        for path in (folder / "results").glob("*/*/record.json")
    }


def lines(folder: Path, pattern: str) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (folder / "results" / "work").glob(pattern))


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "before the first checkpoint": lambda folder: lines(folder, "train-*/events.jsonl") >= 1,
    "after a checkpoint": lambda folder: any(
        (folder / "results/work").glob("train-*/checkpoints/checkpoint-4")
    ),
    "while a checkpoint is written": lambda folder: any(
        (folder / "results/work").glob("train-*/checkpoints/partial/checkpoint-*")
    ),
    "after training, before its record": lambda folder: any(
        (folder / "results/work").glob("train-*/finished.json")
    ),
    "in the middle of the answers": lambda folder: lines(folder, "generate-*/answers.jsonl") >= 3,
    "in the middle of the verdicts": lambda folder: lines(folder, "judge-*/*.jsonl") >= 3,
    "in the leaderboard": lambda folder: any((folder / "results/work").glob("leaderboard-*/responses.jsonl")),
    "while tables are written": lambda folder: (
        folder / "results/sweeps/alpha_grid/leaderboard.csv"
    ).is_file(),
}


SAMPLE = ("after a checkpoint", "in the middle of the answers")
"""What the ordinary run kills; all moments are part of make soak."""


@pytest.mark.parametrize(
    "moment", [name if name in SAMPLE else pytest.param(name, marks=pytest.mark.soak) for name in MOMENTS]
)
def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    moment: str, whole: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    arguments = command(tiny_llama)
    kill_when(lambda: MOMENTS[moment](tmp_path), arguments, tmp_path)
    before = records(tmp_path)
    finish(arguments, tmp_path)
    assert digests(tmp_path) == digests(whole)
    after = records(tmp_path)
    assert {name: after[name] for name in before} == before, "a finished step was done again"


def test_training_continues_from_its_checkpoint(tiny_llama: Path, tmp_path: Path) -> None:
    arguments = [*command(tiny_llama), "noise.alpha=0"]
    arguments.remove("noise.alpha=0,5")
    assert kill_when(lambda: MOMENTS["after a checkpoint"](tmp_path), arguments, tmp_path)
    (told,) = (tmp_path / "results/work").glob("train-*/events.jsonl")
    steps_before = len(told.read_text().splitlines())
    finish(arguments, tmp_path)
    (told,) = (tmp_path / "results/train").glob("*/events.jsonl")
    steps = [json.loads(line)["step"] for line in told.read_text().splitlines() if '"train"' in line]
    assert steps_before >= 4
    assert sorted(set(steps)) == list(range(1, 9))
    assert len(steps) < steps_before + 8, "it began anew"


@pytest.mark.soak
def test_twenty_kills_at_random_moments_lose_nothing(whole: Path, tiny_llama: Path, tmp_path: Path) -> None:
    kill_at_random(whole, tiny_llama, tmp_path, kills=20, seed=1)


def test_two_kills_at_random_moments_lose_nothing(whole: Path, tiny_llama: Path, tmp_path: Path) -> None:
    kill_at_random(whole, tiny_llama, tmp_path, kills=2, seed=0)


def kill_at_random(whole: Path, model: Path, folder: Path, *, kills: int, seed: int) -> None:
    draw, arguments = random.Random(seed), command(model)
    for _ in range(kills):
        moment = time.monotonic() + draw.uniform(0.2, 6)
        kill_when(lambda moment=moment: time.monotonic() > moment, arguments, folder)
    finish(arguments, folder)
    assert digests(folder) == digests(whole)


def test_two_processes_on_one_results_folder_do_each_step_once(
    whole: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    from tests.processes import start

    arguments = command(tiny_llama)
    first = start(arguments, tmp_path)
    finish(arguments, tmp_path)
    first.join()
    assert first.exitcode == 0
    assert digests(tmp_path) == digests(whole)
    assert not list((tmp_path / "results/work").glob("*/"))
