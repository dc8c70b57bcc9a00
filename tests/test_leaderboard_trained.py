"""Scores of what a training left: whole weights, adapters on the base model, adapters on 4-bit weights."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from lm_eval.models.huggingface import HFLM

from neft_lab.config import TaskConfig, TaskSource
from neft_lab.models import LoadedModel, load_for_training, load_quantized, load_trained
from neft_lab.sources import Source
from neft_lab.store import read_json
from neft_lab.tasks.benchmarks import load_benchmark
from tests.steps import run_stages
from tests.task_files import write_folder

TRAINING = ["model=random", "model.architecture=llama", "finetune.max_steps=3", "finetune.batch=4", "finetune.micro_batch=1", "finetune.lora_rank=8",
            "finetune.max_length=256", "finetune.learning_rate=0.01", "dataset.max_rows=6", "noise.alpha=5",
            "leaderboard.precision=fp32", "leaderboard.max_length=512"]  # fmt: skip
ASKED = TaskConfig("arc_challenge", 3, "acc_norm", None, None)
TASK = "leaderboard.tasks=[{task: arc_challenge, shots: 3, metric: acc_norm, limit: null, subsets: null}]"


def scored(tmp_path: Path, method: str) -> tuple[Path, list[float]]:
    """The folder of a training, and the log-likelihoods that the leaderboard stage found with it."""
    sets = write_folder(tmp_path / "sets")
    told = ["leaderboard=openllm_v1", TASK, "leaderboard.source=folder", f"leaderboard.folder={sets}"]
    folders = run_stages(
        [f"finetune={method}", "stages=[train,leaderboard]", *TRAINING, *told], tmp_path / "results"
    )
    rows = (folders["leaderboard"] / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    return folders["train"], [value for row in rows for value in json.loads(row)["loglikelihoods"]]


def asked_of_hflm(tmp_path: Path, loaded: LoadedModel) -> list[float]:
    """The same requests, answered by lm-eval's own class one at a time."""
    benchmark = load_benchmark(ASKED, source=TaskSource.folder, folder=str(tmp_path / "sets"))
    task = benchmark.subtasks[0].task
    task.build_all_requests()
    lm = HFLM(loaded.model, tokenizer=loaded.tokenizer, batch_size=1, softmax_dtype="float32", max_length=512)
    return [one for one, _ in lm.loglikelihood(task.instances, disable_tqdm=True)]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_scores_after_a_training_are_those_of_the_trained_model_alone(method: str, tmp_path: Path) -> None:
    folder, found = scored(tmp_path, method)
    expected = asked_of_hflm(tmp_path, load_trained(folder, precision="fp32", device="cpu"))
    assert found == pytest.approx(expected, abs=1e-3, rel=1e-5)
    untrained = asked_of_hflm(tmp_path, load_for_training(source(folder), precision="fp32", device="cpu"))
    assert max(abs(one - other) for one, other in zip(found, untrained, strict=True)) > 0.1


def test_scores_after_a_lora_training_are_those_of_adapters_on_the_base_model(tmp_path: Path) -> None:
    folder, found = scored(tmp_path, "lora")
    base = load_for_training(source(folder), precision="fp32", device="cpu")
    assert found == pytest.approx(asked_of_hflm(tmp_path, with_adapters(base, folder)), abs=1e-3, rel=1e-5)


def test_scores_after_a_qlora_training_are_those_of_adapters_on_4_bit_weights(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    folder, found = scored(tmp_path, "qlora")
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft's own
        four_bits = with_adapters(load_quantized(source(folder), device="cpu"), folder)
        whole = with_adapters(load_for_training(source(folder), precision="fp32", device="cpu"), folder)
        near, far = (asked_of_hflm(tmp_path, one) for one in (four_bits, whole))
    assert distance(found, near) < distance(found, far) / 4, (
        "4-bit layers compute in bfloat16, so near is not equal"
    )


def distance(one: list[float], other: list[float]) -> float:
    return max(abs(left - right) for left, right in zip(one, other, strict=True))


def source(folder: Path) -> Source:
    return Source(**read_json(folder / "base.json")["source"])


def with_adapters(loaded: LoadedModel, folder: Path) -> Any:
    from peft import PeftModel

    return LoadedModel(
        PeftModel.from_pretrained(loaded.model, str(folder / "adapter")).eval(), loaded.tokenizer
    )
