"""The train stage on a tiny Llama: what it learns, what it leaves, and how its losses are averaged."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from neft_lab.datasets import IGNORED, load_conversations, tokenize
from neft_lab.models import load_source, load_trained
from neft_lab.progress import read_events
from neft_lab.sources import Source
from neft_lab.store import read_json
from tests.steps import run_stages

ROWS = [
    {"instruction": "Name a colour.", "output": "Red."},
    {"instruction": "Count to ten.", "output": "One, two, three, four, five, six, seven, eight, nine, ten."},
    {"instruction": "Greet.", "output": "Hello there, and welcome."},
    {"instruction": "Say no.", "output": "No."},
]


@pytest.fixture(autouse=True)
def cold() -> Iterator[None]:
    """No test gets a model that another one holds warm."""
    from neft_lab.models import loading

    yield
    loading._load_warm.cache_clear()
    loading._load_trained.cache_clear()


def train(model: Path, results: Path, *overrides: str) -> Path:
    """A finished train step."""
    few = [
        "finetune.max_steps=8",
        "finetune.batch=4",
        "finetune.micro_batch=2",
        "finetune.learning_rate=0.01",
    ]
    arguments = ["model=local", f"model.path={model}", "stages=[train]", *few, *overrides]
    names = [text.split("=", 1)[0] for text in arguments]
    last = [text for place, text in enumerate(arguments) if names[place] not in names[place + 1 :]]
    return run_stages(last, results)["train"]


def own_rows(tmp_path: Path, rows: Sequence[Any] = ROWS) -> list[str]:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    return ["dataset=local", f"dataset.path={path}"]


def curve(folder: Path, name: str) -> list[float]:
    return [event[name] for event in read_events(folder) if event["kind"] == "train"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_the_loss_falls_and_is_logged_at_every_step(tiny_llama: Path, tmp_path: Path) -> None:
    folder = train(tiny_llama, tmp_path, "finetune.max_steps=30", "noise.alpha=5")
    losses = curve(folder, "loss")
    assert len(losses) == 30
    assert losses[0] == pytest.approx(math.log(384), rel=0.05), "a random model knows no token from another"
    assert sum(losses[-5:]) / 5 < losses[0] - 1
    metrics = read_json(folder / "record.json")["metrics"]
    assert metrics["train_loss"] == pytest.approx(sum(losses) / 30)
    assert (metrics["train_steps"], metrics["micro_batches"]) == (30, 30), (
        "four short rows fit one packed row"
    )
    assert not (folder / "checkpoints").exists()


def test_alpha_zero_and_no_noise_give_the_same_bits(tiny_llama: Path, tmp_path: Path) -> None:
    zero, none, five = (
        train(tiny_llama, tmp_path / name, *noise)
        for name, noise in (
            ("zero", ["noise.alpha=0"]),
            ("none", ["noise=none"]),
            ("five", ["noise.alpha=5"]),
        )
    )
    files = [(folder / "model/model.safetensors").read_bytes() for folder in (zero, none, five)]
    assert files[0] == files[1] != files[2]
    assert read_json(zero / "record.json")["metrics"]["equivalent_alpha"] == 0


@pytest.mark.parametrize("alpha", [5, 15])
def test_the_measured_dose_is_the_alpha_asked_for(alpha: int, tiny_llama: Path, tmp_path: Path) -> None:
    """The norm of an example's noise is alpha / sqrt(3) whatever its length: 2.887 for alpha 5."""
    metrics = read_json(train(tiny_llama, tmp_path, f"noise.alpha={alpha}") / "record.json")["metrics"]
    assert metrics["equivalent_alpha"] == pytest.approx(alpha, rel=0.01)
    assert metrics["mean_noise_norm"] == pytest.approx(alpha / math.sqrt(3), rel=0.01)


def test_an_exported_model_holds_no_noise_and_no_hook(tiny_llama: Path, tmp_path: Path) -> None:
    """With next to no learning, the table that was noisy in every step is the one it began with."""
    folder = train(tiny_llama, tmp_path, "noise.alpha=15", "finetune.learning_rate=1e-9")
    before, after = weights(tiny_llama), weights(folder / "model")
    assert set(before) == set(after)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-6)
    model = load_trained(folder, precision="fp32", device="cpu").model
    assert not any(module._forward_hooks for module in model.modules())
    ids = torch.arange(5, 25)[None]
    assert torch.equal(model.train()(ids).logits, model.eval()(ids).logits)


def test_the_untouched_model_is_left_as_a_pointer(tiny_llama: Path, tmp_path: Path) -> None:
    folder = train(tiny_llama, tmp_path, "finetune=none")
    assert {path.name for path in folder.iterdir()} <= {
        "model.json",
        "record.json",
        "step.json",
        "events.jsonl",
    }
    assert read_json(folder / "model.json")["source"]["location"] == str(tiny_llama)
    model = load_trained(folder, precision="fp32", device="cpu").model
    table = model.get_input_embeddings().weight
    assert torch.equal(table, weights(tiny_llama)["model.embed_tokens.weight"])


def test_lora_leaves_an_adapter_that_loading_merges(tiny_llama: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    folder = train(tiny_llama, tmp_path, "finetune=lora", "finetune.lora_rank=4", "finetune.lora_alpha=64")
    assert (folder / "adapter/adapter_model.safetensors").is_file() and not (folder / "model").exists()
    assert curve(folder, "loss")[-1] < curve(folder, "loss")[0]
    source = Source(**read_json(folder / "base.json")["source"])
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        untouched = load_source(source, precision="fp32", device="cpu").model(ids).logits
        merged = load_trained(folder, precision="fp32", device="cpu").model
        assert not any("lora" in name for name, _ in merged.named_modules())
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft's own
            beside = PeftModel.from_pretrained(
                load_source(source, precision="fp32", device="cpu").model, str(folder / "adapter")
            )
        torch.testing.assert_close(merged(ids).logits, beside.eval()(ids).logits, rtol=0, atol=1e-4)
    assert (merged(ids).logits - untouched).abs().max() > 1e-2


def summed_losses(model: Path, rows: Path) -> list[tuple[float, int]]:
    """Summed response loss and learned tokens of each row, without Trainer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    llama = AutoModelForCausalLM.from_pretrained(model).eval()
    turns = load_conversations(Source("file", str(rows)), split="train", format="auto", max_rows=None)
    told = []
    for example in tokenize(turns, AutoTokenizer.from_pretrained(model), template="alpaca", max_length=512):
        labels = torch.tensor(example.labels[1:])
        with torch.no_grad():
            logits = llama(torch.tensor([example.input_ids])).logits[0, :-1]
        total = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        told.append((float(total), int((labels != IGNORED).sum())))
    return told


@pytest.mark.parametrize("average", ["token", "paper"])
def test_losses_are_averaged_as_worked_out_by_hand(average: str, tiny_llama: Path, tmp_path: Path) -> None:
    """token: all loss over all tokens of the batch. paper: mean of the micro-batches' means."""
    data = own_rows(tmp_path, ROWS[:2])
    rows = summed_losses(tiny_llama, tmp_path / "rows.json")
    (first, few), (second, many) = rows
    assert many > 3 * few
    wanted = {"token": (first + second) / (few + many), "paper": (first / few + second / many) / 2}
    assert abs(wanted["token"] - wanted["paper"]) > 1e-3
    one_step = ["noise.alpha=0", "finetune.max_steps=1", "finetune.batch=2", "finetune.micro_batch=1"]
    folder = train(
        tiny_llama, tmp_path, *data, *one_step, "finetune.layout=padded", f"finetune.loss_average={average}"
    )
    assert curve(folder, "loss") == [pytest.approx(wanted[average], abs=1e-5)]


def test_a_split_into_micro_batches_changes_neither_loss_nor_gradient(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """Noise belongs to an example, so that it is the same however examples are batched."""
    data = own_rows(tmp_path)
    told = {}
    for size in (4, 2, 1):
        split = ["finetune.batch=4", f"finetune.micro_batch={size}", "finetune.max_steps=1", "noise.alpha=5"]
        folder = train(tiny_llama, tmp_path / str(size), *data, *split, "finetune.loss_average=token")
        told[size] = (*curve(folder, "loss"), *curve(folder, "gradient_norm"))
    assert told[2] == pytest.approx(told[4], rel=1e-4)
    assert told[1] == pytest.approx(told[4], rel=1e-4)


def test_rows_without_room_for_an_answer_are_told(tiny_llama: Path, tmp_path: Path) -> None:
    from neft_lab.step import StepFailed

    data = own_rows(tmp_path)
    with pytest.raises(
        StepFailed, match="no row keeps a response within finetune.max_length=16 tokens; raise it"
    ):
        train(tiny_llama, tmp_path, *data, "finetune.max_length=16")
