"""Every rival of the noise as an arm of a tiny sweep, end to end: what it claims to move is moved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from neft_lab.datasets import IGNORED, Example, tokenize
from neft_lab.execute import freeze
from neft_lab.models import load_source, load_trained
from neft_lab.plan import make_plan
from neft_lab.prompts import Turn
from neft_lab.sources import Source
from neft_lab.step import run_step
from neft_lab.store import Store, read_json

ROWS = [
    ("Name a colour.", "Red."),
    ("Count to five.", "One, two, three, four, five."),
    ("Greet.", "Hello there, and welcome."),
    ("Say no.", "No."),
    ("Name a fruit.", "A ripe apple."),
]
LONG = "This answer is longer than what the limit of tokens leaves room for. " * 12

ARMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "label_smoothing": {"regularizer": "label_smoothing"},
    "entropy": {"regularizer": "entropy"},
    "kl": {"regularizer": "kl"},
    "prompt_loss": {"regularizer": "prompt_loss"},
    "eos_masked": {"regularizer": "eos_masked"},
    "eos_light": {"regularizer": "eos_light"},
    "eos_heavy": {"regularizer": "eos_heavy"},
    "embedding_dropout": {"regularizer": "embedding_dropout"},
    "freelb": {"regularizer": "freelb"},
    "weight_decay": {"finetune.weight_decay": 1.0},
    "complete_only": {"dataset.complete_only": True},
    "longest": {"dataset.longest": 2},
    "sampled": {"generation.temperature": 1.0},
    "best_of_n": {"generation.temperature": 1.0, "generation.best_of": 4},
}
PLAIN = {
    "regularizer": "none",
    "finetune.weight_decay": 0.0,
    "dataset.complete_only": False,
    "dataset.longest": None,
    "generation.temperature": 0.0,
    "generation.best_of": 1,
}


def write_sweep(folder: Path, arms: Mapping[str, Mapping[str, Any]]) -> Path:
    """A sweep of the arms, one seed, each compared with the plain one."""
    rows = [{**PLAIN, **values} for values in arms.values()]
    paired = {name: [row[name] for row in rows] for name in PLAIN}
    sweep = {"name": "arms", "question": "What does each arm move?", "axes": {"seed": [0]}, "zip": paired,
             "baseline": PLAIN, "primary": "output_characters"}  # fmt: skip
    (folder / "sweep").mkdir()
    path = folder / "sweep" / "arms.yaml"
    path.write_text("# @package _global_\n" + json.dumps({"sweep": sweep}))
    return path


@dataclass(frozen=True)
class Arm:
    metrics: dict[str, float]
    folder: Path
    outputs: list[str]


@pytest.fixture(scope="module")
def arms(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Arm]:
    """All arms trained and asked, by the program's own plan and steps."""
    folder = tmp_path_factory.mktemp("arms")
    write_sweep(folder, ARMS)
    rows = [*ROWS, ("Tell a long story.", LONG)]
    (folder / "rows.json").write_text(json.dumps([{"instruction": a, "output": b} for a, b in rows]))
    plan = make_plan(
        [
            "+sweep=arms", "model=local", f"model.path={tiny_llama}", "dataset=local",
            f"dataset.path={folder / 'rows.json'}", "noise=none", "finetune.max_steps=30", "finetune.batch=8",
            "finetune.max_length=128", "finetune.learning_rate=0.03", "generation.limit=4",
            "generation.max_new_tokens=48", "generation.max_prompt_tokens=200", "generation.repetition_penalty=1.0",
            "stages=[train,generate]", "judge=none", "leaderboard=none", "analysis=none", "tracker=none",
        ],
        config_dir=folder,
    )  # fmt: skip
    store = Store(folder / "results")
    done = {}
    for step in plan.steps.values():
        freeze(step, store)
        done[step.key] = run_step(store, step.stage, step.key)
    told = {}
    for name, cell in zip(ARMS, plan.cells, strict=True):
        keys = dict(cell.keys or {})
        trained, asked = done[keys["train"]], done[keys["generate"]]
        outputs = [row["output"] for row in read_json(asked / "outputs.json")]
        told[name] = Arm(read_json(trained / "record.json")["metrics"], trained, outputs)
    return told


@dataclass(frozen=True)
class Behaviour:
    """What a model does on the training rows, means over response tokens; the end token and prompts apart."""

    highest: float
    entropy: float
    divergence: float
    end: float
    prompt_loss: float
    squared_weights: float


@torch.no_grad()
def behaviour(folder: Path, base: Path) -> Behaviour:
    model, untouched = (
        load_trained(folder, precision="fp32", device="cpu").model,
        load_source(Source("folder", str(base)), precision="fp32", device="cpu"),
    )
    tokenizer = untouched.tokenizer
    turns = [(Turn(question, answer),) for question, answer in ROWS]
    told: dict[str, list[Tensor]] = {}
    for example in tokenize(turns, tokenizer, template="alpaca", max_length=128):
        for name, values in _measured(model, untouched.model, example, tokenizer.eos_token_id).items():
            told.setdefault(name, []).append(values)
    means = {name: float(torch.cat(values).mean()) for name, values in told.items()}
    norm = sum(float(weight.square().sum()) for weight in model.parameters() if weight.dim() == 2)
    return Behaviour(**means, squared_weights=norm)


def _measured(model: Any, untouched: Any, example: Example, end: int) -> dict[str, Tensor]:
    ids = torch.tensor([example.input_ids])
    log_p, log_base = (one(ids).logits[0, :-1].double().log_softmax(-1) for one in (model, untouched))
    p, targets = log_p.exp(), ids[0, 1:]
    learned = torch.tensor(example.labels[1:]) != IGNORED
    given = torch.tensor(example.prompt_text_mask[1:]) != 0
    own = log_p.gather(1, targets[:, None])[:, 0]
    return {
        "highest": p.amax(1)[learned],
        "entropy": -(p * log_p).sum(1)[learned],
        "divergence": (p * (log_p - log_base)).sum(1)[learned],
        "end": own.exp()[learned & (targets == end)],
        "prompt_loss": -own[given],
    }


@pytest.fixture(scope="module")
def behaviours(arms: dict[str, Arm], tiny_llama: Path) -> dict[str, Behaviour]:
    return {name: behaviour(arm.folder, tiny_llama) for name, arm in arms.items()}


def characters(arm: Arm) -> float:
    return sum(map(len, arm.outputs)) / len(arm.outputs)


def test_label_smoothing_makes_the_model_less_sure(behaviours: dict[str, Behaviour]) -> None:
    smooth, plain = behaviours["label_smoothing"], behaviours["plain"]
    assert smooth.highest < plain.highest - 0.03
    assert smooth.entropy > plain.entropy + 0.1


def test_the_entropy_bonus_raises_the_entropy(behaviours: dict[str, Behaviour]) -> None:
    assert behaviours["entropy"].entropy > behaviours["plain"].entropy + 0.05


def test_the_divergence_holds_the_model_near_the_untouched_one(behaviours: dict[str, Behaviour]) -> None:
    assert behaviours["kl"].divergence < behaviours["plain"].divergence - 0.05


def test_instruction_modelling_learns_the_instructions(behaviours: dict[str, Behaviour]) -> None:
    assert behaviours["prompt_loss"].prompt_loss < behaviours["plain"].prompt_loss - 1


def test_the_end_token_is_learned_by_its_weight(behaviours: dict[str, Behaviour]) -> None:
    masked, light, plain = (behaviours[name].end for name in ("eos_masked", "eos_light", "plain"))
    assert masked < 0.001 < light < 0.1 < 0.3 < plain


def test_the_weight_of_the_end_token_sets_the_length_of_the_answers(arms: dict[str, Arm]) -> None:
    masked, light, plain, heavy = (
        characters(arms[name]) for name in ("eos_masked", "eos_light", "plain", "eos_heavy")
    )
    assert heavy < plain < light < masked
    assert masked > 1.5 * plain


def test_embedding_dropout_changes_the_training_and_not_what_is_left(
    arms: dict[str, Arm], behaviours: dict[str, Behaviour]
) -> None:
    assert arms["embedding_dropout"].metrics["train_loss"] > arms["plain"].metrics["train_loss"]
    assert behaviours["embedding_dropout"] != behaviours["plain"]


def test_freelb_makes_three_passes_and_a_harder_loss(arms: dict[str, Arm]) -> None:
    told, plain = arms["freelb"].metrics, arms["plain"].metrics
    # 30 steps of all 6 rows, each in three passes.
    assert told["perturbed_examples"] == 3 * 30 * 6
    assert told["train_loss"] > plain["train_loss"]
    # It starts as the paper's noise at alpha 5, 2.887 long, and takes two steps of 0.5.
    assert 2.887 < told["mean_perturbation_norm"] < 2.887 + 1
    assert "perturbed_examples" not in plain


def test_weight_decay_leaves_smaller_weights(behaviours: dict[str, Behaviour]) -> None:
    assert behaviours["weight_decay"].squared_weights < 0.95 * behaviours["plain"].squared_weights


def test_rows_that_lost_their_end_are_removed(arms: dict[str, Arm]) -> None:
    assert arms["plain"].metrics["train_rows"] == len(ROWS) + 1
    assert arms["complete_only"].metrics["train_rows"] == len(ROWS)


def test_the_longest_rows_are_kept(arms: dict[str, Arm]) -> None:
    assert arms["longest"].metrics["train_rows"] == 2


def test_the_longest_of_several_answers_is_longer(arms: dict[str, Arm]) -> None:
    assert characters(arms["best_of_n"]) > characters(arms["sampled"])
    assert arms["best_of_n"].folder == arms["sampled"].folder == arms["plain"].folder, (
        "one training for all three"
    )
