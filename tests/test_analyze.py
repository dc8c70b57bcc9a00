"""The analyze stage: losses against transformers' own, answers of a model that knows its rows, and tokens under noise."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from neft_lab.config import AnalysisConfig, UserError
from neft_lab.datasets import IGNORED, Example, tokenize
from neft_lab.models import LoadedModel, load_for_training
from neft_lab.plan import expand
from neft_lab.progress import Progress
from neft_lab.prompts import Turn
from neft_lab.recall import answer_training_prompts
from neft_lab.sources import Source
from neft_lab.stages.analyze import count_flips, response_losses
from neft_lab.store import read_json
from tests.steps import run_stages

ROWS = [
    (Turn("Name a colour.", "Blue."),),
    (Turn("Count to five.", "One, two, three, four, five."),),
    (Turn("Say hello to the reader, in a friendly way.", "Hello, dear reader, it is good to see you."),),
]
QUICK = ["judge=none", "leaderboard=none", "tracker=none"]


@pytest.fixture(scope="module")
def analysis() -> AnalysisConfig:
    return expand(["analysis=paper", *QUICK])[0].config.analysis


@pytest.fixture(scope="module")
def loaded(tiny_llama: Path) -> LoadedModel:
    return load_for_training(Source("folder", str(tiny_llama)), precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def examples(loaded: LoadedModel) -> list[Example]:
    return tokenize(ROWS, loaded.tokenizer, template="alpaca", max_length=512)


@pytest.fixture
def progress(tmp_path: Path) -> Progress:
    return Progress(tmp_path)


def test_the_loss_of_each_row_is_transformers_own(
    loaded: LoadedModel, examples: list[Example], analysis: AnalysisConfig, progress: Progress
) -> None:
    found = response_losses(loaded, examples, analysis, progress)
    for example, loss in zip(examples, found, strict=True):
        ids, labels = torch.tensor([example.input_ids]), torch.tensor([example.labels])
        with torch.inference_mode():
            expected = loaded.model.eval()(input_ids=ids, labels=labels).loss.item()
        assert loss == pytest.approx(expected, rel=1e-5)


def test_a_row_that_keeps_no_response_has_no_loss(
    loaded: LoadedModel, analysis: AnalysisConfig, progress: Progress
) -> None:
    cut = tokenize(ROWS, loaded.tokenizer, template="alpaca", max_length=40)
    assert not any(example.learned for example in cut)
    assert response_losses(loaded, cut, analysis, progress) == [None, None, None]
    assert answer_training_prompts(loaded, cut, analysis, progress) == []


def _learn_by_heart(loaded: LoadedModel, examples: list[Example]) -> None:
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=1e-2)
    width = max(len(example.input_ids) for example in examples)

    def pad(row: list[int], filler: int) -> list[int]:
        return row + [filler] * (width - len(row))

    pad_id = loaded.tokenizer.pad_token_id
    batch = {
        "input_ids": torch.tensor([pad(example.input_ids, pad_id) for example in examples]),
        "attention_mask": torch.tensor([pad([1] * len(example.input_ids), 0) for example in examples]),
        "labels": torch.tensor([pad(example.labels, IGNORED) for example in examples]),
    }
    for _ in range(150):
        optimizer.zero_grad()
        loaded.model.train()(**batch).loss.backward()
        optimizer.step()


def test_a_model_that_knows_its_rows_by_heart_repeats_them(
    tiny_llama: Path, examples: list[Example], analysis: AnalysisConfig, progress: Progress
) -> None:
    torch.manual_seed(0)
    taught = load_for_training(Source("folder", str(tiny_llama)), precision="fp32", device="cpu")
    config = replace(analysis, answer_tokens=60)
    before = answer_training_prompts(taught, examples, config, progress)
    _learn_by_heart(taught, examples)
    after = answer_training_prompts(taught, examples, config, progress)
    assert [answer.response for answer in after] == [row[0].response for row in ROWS]
    assert [answer.answer for answer in after] == [answer.response for answer in after]
    assert [(answer.rouge_l, answer.cut) for answer in after] == [(pytest.approx(100), False)] * 3
    assert after[2].bleu == pytest.approx(100)
    assert max(answer.rouge_l for answer in before) < 50
    assert all(answer.prompt.endswith("### Response:") for answer in after), "asked as it was trained"


def test_answer_and_response_are_cut_at_the_same_number_of_tokens(
    loaded: LoadedModel, examples: list[Example], analysis: AnalysisConfig, progress: Progress
) -> None:
    (answer,) = answer_training_prompts(loaded, examples[1:2], replace(analysis, answer_tokens=4), progress)
    ids = loaded.tokenizer(ROWS[1][0].response)["input_ids"]
    assert answer.response == loaded.tokenizer.decode(ids[:4])
    assert answer.cut


def test_more_noise_changes_more_tokens(
    loaded: LoadedModel, examples: list[Example], analysis: AnalysisConfig, progress: Progress
) -> None:
    config = replace(analysis, flip_tokens=50, flip_alphas=[0.0, 0.01, 5.0, 1000.0])
    found = count_flips(loaded.model, examples, config, progress)
    assert (found["tokens"], found["changed"][:2]) == (50, [0, 0])
    assert found["changed"] == sorted(found["changed"])
    assert found["changed"][-1] > 40


@pytest.fixture(scope="module")
def folders(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return run_stages(
        [
            "model=local", f"model.path={tiny_llama}", "noise.alpha=5", "finetune.max_steps=1", "finetune.batch=2",
            "finetune.micro_batch=2", "finetune.max_length=256", "generation.limit=2", "generation.max_new_tokens=8",
            "analysis=paper", "analysis.rows=3", "analysis.answers=2", "analysis.answer_tokens=8",
        ],
        tmp_path_factory.mktemp("results"),
    )  # fmt: skip


def test_the_stage_leaves_values_by_row_and_their_means(folders: dict[str, Path]) -> None:
    metrics = read_json(folders["analyze"] / "record.json")["metrics"]
    losses = read_json(folders["analyze"] / "losses.json")
    for name in ("train_rows", "held_out"):
        known = [loss for loss in losses[name] if loss is not None]
        assert (len(losses[name]), metrics[f"{name}_loss_n"]) == (3, len(known))
        assert metrics[f"{name}_loss"] == pytest.approx(math.fsum(known) / len(known))
        assert metrics[f"{name}_loss_low"] < metrics[f"{name}_loss"] < metrics[f"{name}_loss_high"]
    answers = read_json(folders["analyze"] / "training_answers.json")
    assert metrics["training_rouge_l_n"] == len(answers) <= 2
    flips = read_json(folders["analyze"] / "flips.json")
    assert len(flips["changed"]) == len(flips["alphas"]) == 8


def test_rows_are_as_long_as_in_training_unless_the_analysis_says_otherwise(
    folders: dict[str, Path],
) -> None:
    config = json.loads((folders["analyze"] / "step.json").read_text())["config"]
    assert config["analysis"]["max_length"] == 256
    asked = expand(["analysis.max_length=128", "finetune.max_length=256", *QUICK])[0]
    trained = expand(["analysis.max_length=null", "finetune.max_length=128", *QUICK])[0]
    assert asked.keys and trained.keys
    assert asked.keys["analyze"] != trained.keys["analyze"], "another training"
    assert asked.keys["train"] != trained.keys["train"]


def keys(*overrides: str) -> dict[str, str]:
    return dict(expand([*overrides, *QUICK])[0].keys or {})


def test_the_chunk_is_in_the_key_of_what_is_counted_over_it_and_no_other() -> None:
    plain, other = keys(), keys("analysis.chunks.other=60")
    assert {name for name in plain if plain[name] != other[name]} == {"describe"}
    by_set = {name: keys(f"dataset={name}", "dataset.source=hub")["describe"]
              for name in ("open_platypus", "sharegpt")}  # fmt: skip
    assert len(set(by_set.values())) == 2, "other answers"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("analysis.rows=-1", "analysis.rows must be >= 0, got -1"),
        ("analysis.max_length=0", "analysis.max_length must be > 0 or null, got 0"),
        ("analysis.chunks.other=4", "analysis.chunks must be 5 tokens or more each"),
        ("analysis.flip_alphas=[-1]", r"analysis.flip_alphas must hold no number below 0, got \[-1.0\]"),
    ],
)
def test_a_value_that_makes_no_sense_is_told(override: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        expand([override, *QUICK])


def test_without_an_analysis_there_is_no_such_step_but_outputs_are_described() -> None:
    assert "analyze" not in keys("analysis=none")
    assert "describe" in keys("analysis=none")
    assert set(keys("analysis=loss")) == {"train", "generate", "describe", "analyze"}


@pytest.mark.parametrize("chosen", ["dataset.max_rows=2", "dataset.longest=2"])
def test_no_row_is_read_that_was_not_trained_on(tiny_llama: Path, tmp_path: Path, chosen: str) -> None:
    found: dict[str, Any] = run_stages(
        [
            "model=local", f"model.path={tiny_llama}", "finetune=none", chosen, "generation.limit=1",
            "generation.max_new_tokens=2", "analysis=loss", "analysis.rows=5",
        ],
        tmp_path,
    )  # fmt: skip
    losses = read_json(found["analyze"] / "losses.json")
    assert (len(losses["train_rows"]), len(losses["held_out"])) == (2, 5)
