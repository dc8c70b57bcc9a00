"""Trainings that diverge: where they stop, what they say of it, and what they leave to the others."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from neft_lab.processes import RankFailed, launch
from neft_lab.progress import Progress, read_events
from neft_lab.step import StepFailed
from neft_lab.store import read_json
from neft_lab.training.curve import TrainingDiverged, require_sane
from tests.rank_worker import Place
from tests.steps import run_stages
from tests.test_processes_training import Cases
from tests.tiny import make_tiny_llama

TEXTS = ["Red.", "One, two, three.", "A ~ sign.", "No.", "Yes, of course."]
POISONED = 3
"""The row, from 1, that alone has the token ~."""


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is sane but for the embedding of one token, which is infinite."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    folder = make_tiny_llama(tmp_path_factory.mktemp("models") / "poisoned", tied=False)
    model, tokenizer = LlamaForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    token = tokenizer.convert_tokens_to_ids("~")
    assert sum(token in tokenizer(text).input_ids for text in TEXTS) == 1
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = math.inf
    model.save_pretrained(folder)
    return folder


def arguments(model: Path, folder: Path, *more: str) -> list[str]:
    rows = folder / "rows.json"
    rows.write_text(
        json.dumps([{"instruction": f"Task {i}.", "output": text} for i, text in enumerate(TEXTS)])
    )
    return ["model=local", f"model.path={model}", "dataset=local", f"dataset.path={rows}", "stages=[train]",
            "noise.alpha=5", "finetune.epochs=1", "finetune.micro_batch=1", "finetune.checkpoint_every=1", *more]  # fmt: skip


def step_of(row: int) -> int:
    """The optimizer step, from 1, that trains on a row, one row a step: the order is decided by seed and epoch."""
    order = torch.randperm(len(TEXTS), generator=torch.Generator().manual_seed(0)).tolist()
    return int(order.index(row - 1)) + 1


def work_of(results: Path) -> Path:
    """The folder of the one step that failed."""
    (path,) = results.glob("work/train-*/error.json")
    return path.parent


def error_of(results: Path) -> dict[str, Any]:
    told: dict[str, Any] = read_json(work_of(results) / "error.json")
    return told


def test_a_loss_that_is_no_number_stops_at_its_step_and_names_its_row(poisoned: Path, tmp_path: Path) -> None:
    said = f"training diverged at optimizer step {step_of(POISONED)}: loss nan, gradient norm nan, on the rows {POISONED};"
    with pytest.raises(StepFailed, match=said):
        run_stages(arguments(poisoned, tmp_path, "finetune.batch=1"), tmp_path / "results")
    assert said in json.dumps(error_of(tmp_path / "results"))
    work = work_of(tmp_path / "results")
    told = [event["loss"] for event in read_events(work) if event["kind"] == "train"]
    assert len(told) == step_of(POISONED) - 1 and all(map(math.isfinite, told))
    assert not (work / "model").exists()


def test_an_absurd_rate_stops_the_run_and_leaves_the_next_one_alone(tiny_llama: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    absurd = arguments(tiny_llama, tmp_path, "finetune.learning_rate=1e4", "finetune.batch=2")
    with pytest.raises(
        StepFailed,
        match=r"TrainingDiverged: training diverged at optimizer step [23]: loss \d.*on the rows \d",
    ):
        run_stages(absurd, results)
    assert "lower finetune.learning_rate" in json.dumps(error_of(results))
    sane = arguments(tiny_llama, tmp_path, "finetune.learning_rate=1e-3", "finetune.batch=2")
    beside, alone = (run_stages(sane, folder)["train"] for folder in (results, tmp_path / "other"))
    weights = [(folder / "model/model.safetensors").read_bytes() for folder in (beside, alone)]
    assert weights[0] == weights[1]


@pytest.mark.soak
def test_of_several_processes_one_tells_it(poisoned: Path, tmp_path: Path) -> None:
    from tests import rank_worker

    cases = Cases(tmp_path, poisoned)
    cases.rows.write_text(
        json.dumps([{"instruction": f"Task {i}.", "output": text} for i, text in enumerate(TEXTS)])
    )
    case = cases("diverges", "finetune.processes=2", "finetune.batch=5")
    with pytest.raises(RankFailed, match=r"^rank \d of 2 processes: TrainingDiverged: training diverged at optimizer "
                                         r"step 1: loss nan.* on the rows [1-5](, [1-5]){4}; lower"):  # fmt: skip
        launch(rank_worker.train_cases, [case], Place(), tmp_path, Progress(tmp_path), processes=2)


def test_a_loss_beyond_guessing_and_an_endless_gradient_are_divergence() -> None:
    require_sane({"loss": 99.9, "gradient_norm": 1e30}, step=1, rows=[0])
    for values in (
        {"loss": 100.0},
        {"loss": -math.inf},
        {"loss": 2.0, "gradient_norm": math.inf},
        {"loss": 2.0, "gradient_norm": math.nan},
    ):
        with pytest.raises(TrainingDiverged, match=r"at optimizer step 7: .* on the rows 1, 10;"):
            require_sane(values, step=7, rows=[0, 9])
