"""Noise and its rivals all at once, in the real training: layouts, resume and checks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook

from neft_lab.execute import freeze
from neft_lab.plan import make_plan
from neft_lab.step import StepFailed, run_step
from neft_lab.store import Store, read_json
from tests.test_train import curve, own_rows, train

STACK = [
    "noise.alpha=5", "regularizer.label_smoothing=0.1", "regularizer.entropy=0.1", "regularizer.kl=0.5",
    "regularizer.prompt_loss=0.5", "regularizer.eos_weight=0.5", "regularizer.embedding_dropout=0.1",
    "regularizer.freelb_steps=2", "regularizer.freelb_start=3", "regularizer.freelb_step_size=0.5",
]  # fmt: skip
LAYOUTS = {
    "packed": ["finetune.layout=packed"],
    "padded by four": ["finetune.layout=padded", "finetune.micro_batch=4"],
    "padded by one": ["finetune.layout=padded", "finetune.micro_batch=1"],
}


def test_the_layout_changes_neither_loss_nor_gradient(tiny_llama: Path, tmp_path: Path) -> None:
    """Two steps, so that the divergence from the untouched model is not nothing in the second."""
    data, told = own_rows(tmp_path), {}
    for name, layout in LAYOUTS.items():
        folder = train(tiny_llama, tmp_path / name, *data, *STACK, *layout, "finetune.max_steps=2",
                       "finetune.learning_rate=1e-3")  # fmt: skip
        told[name] = [*curve(folder, "loss"), *curve(folder, "gradient_norm")]
    assert told["padded by four"] == pytest.approx(told["packed"], rel=1e-4)
    assert told["padded by one"] == pytest.approx(told["packed"], rel=1e-4)


@pytest.mark.slow
def test_two_processes_train_as_one_does(tiny_llama: Path, tmp_path: Path) -> None:
    data, told = own_rows(tmp_path), {}
    for processes in (1, 2):
        folder = train(tiny_llama, tmp_path / str(processes), *data, *STACK, "finetune.max_steps=2",
                       "finetune.layout=padded", "finetune.micro_batch=1", "finetune.learning_rate=1e-3",
                       f"finetune.processes={processes}")  # fmt: skip
        metrics = read_json(folder / "record.json")["metrics"]
        sizes = [
            metrics[name] for name in ("equivalent_alpha", "mean_perturbation_norm", "perturbed_examples")
        ]
        told[processes] = [*curve(folder, "loss"), *curve(folder, "gradient_norm"), *sizes]
    assert told[2] == pytest.approx(told[1], rel=1e-4)


@contextmanager
def interrupted(step: int) -> Iterator[None]:
    """Whatever trains is interrupted, as by Ctrl-C, before it makes an optimizer step."""
    made = 0

    def stop(*told: Any) -> None:
        nonlocal made
        made += 1
        if made == step:
            raise KeyboardInterrupt

    handle = register_optimizer_step_pre_hook(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        handle.remove()


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_resumed_training_ends_in_the_same_bits(method: str, tiny_llama: Path, tmp_path: Path) -> None:
    data = own_rows(tmp_path)
    plan = make_plan(
        ["model=local", f"model.path={tiny_llama}", *data, *STACK, f"finetune={method}", "finetune.max_steps=6",
         "finetune.batch=2", "finetune.micro_batch=1", "finetune.checkpoint_every=2", "finetune.lora_dropout=0.2",
         "finetune.learning_rate=0.01", "stages=[train]", "judge=none", "leaderboard=none", "analysis=none",
         "tracker=none"]
    )  # fmt: skip
    (step,) = plan.steps.values()
    stores = [Store(tmp_path / name) for name in ("whole", "resumed")]
    for store in stores:
        freeze(step, store)
    whole = run_step(stores[0], step.stage, step.key)
    with interrupted(step=5):
        run_step(stores[1], step.stage, step.key)
    resumed = run_step(stores[1], step.stage, step.key)
    assert len(curve(resumed, "loss")) == 6, "it went on from its checkpoint"
    (file,) = whole.glob("*/*model.safetensors")
    assert file.read_bytes() == next(resumed.glob("*/*model.safetensors")).read_bytes()
    metrics = [read_json(folder / "record.json")["metrics"] for folder in (whole, resumed)]
    assert metrics[0] == metrics[1]
    assert metrics[0]["perturbed_examples"] == 2 * 6 * 2, "two passes of six steps of two examples"


def test_the_stack_keeps_the_dose_of_its_noise(tiny_llama: Path, tmp_path: Path) -> None:
    folder = train(tiny_llama, tmp_path, *own_rows(tmp_path), *STACK, "finetune.max_steps=2")
    metrics = read_json(folder / "record.json")["metrics"]
    assert metrics["equivalent_alpha"] == pytest.approx(5, rel=0.02)
    assert 3 / math.sqrt(3) < metrics["mean_perturbation_norm"] < 3 / math.sqrt(3) + 0.5


def test_nothing_asked_for_is_the_plain_training_bit_for_bit(tiny_llama: Path, tmp_path: Path) -> None:
    """One FreeLB pass of size zero, and dropout of none, leave the weights of plain training."""
    data, files = own_rows(tmp_path), []
    for name, extra in {"plain": [], "empty": ["regularizer.freelb_steps=1"]}.items():
        folder = train(tiny_llama, tmp_path / name, *data, "noise=none", "finetune.max_steps=3", *extra)
        files.append((folder / "model/model.safetensors").read_bytes())
    assert files[0] == files[1]


def test_a_weight_of_end_tokens_that_nothing_has_is_told(tiny_llama: Path, tmp_path: Path) -> None:
    """Every response is cut, so that none has its end."""
    data = own_rows(tmp_path, [{"instruction": "Tell a story.", "output": "And then it rained again. " * 40}])
    told = "regularizer.eos_weight is 0, but no response of this data ends in the"
    with pytest.raises(StepFailed, match=told):
        train(tiny_llama, tmp_path, *data, "regularizer=eos_masked", "finetune.max_length=128")


def test_a_part_that_did_not_act_fails_the_training() -> None:
    """Passes in eval mode go by the hook."""
    from neft_lab.interventions import Interventions
    from tests.noise_cases import PAPER, llama, padded_batch
    from tests.test_regularizers import PLAIN

    model = llama()
    ids, mask = padded_batch()
    with Interventions(model, PAPER, PLAIN, seed=0) as interventions:
        for _ in interventions.passes(mask, [0, 1, 2], epoch=0):
            model.eval()(ids, attention_mask=mask)
    with pytest.raises(
        RuntimeError, match="noise.alpha is 5, but of 1 training micro-batches 1 were armed and 0"
    ):
        interventions.check(1)
