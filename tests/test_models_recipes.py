"""The recipes of conf/finetune are those of the paper and of QLoRA, and the question about both is a sweep."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from neft_lab.config import FinetuneConfig, plain
from neft_lab.plan import expand
from neft_lab.progress import read_events
from tests.steps import run_stages


@lru_cache
def recipe(name: str) -> FinetuneConfig:
    return expand([f"finetune={name}", "stages=[train]"])[0].config.finetune


PAPER: dict[str, Any] = {
    "method": "full", "epochs": 3, "batch": 128, "layout": "padded", "micro_batch": 4, "max_length": 512,
    "learning_rate": 5e-5, "schedule": "cosine", "warmup_ratio": 0.03, "weight_decay": 0, "clip": 1.0,
    "loss_average": "paper", "precision": "bf16_pure", "optimizer": "adamw", "max_steps": None,
}  # fmt: skip
QLORA: dict[str, Any] = {
    "method": "qlora", "epochs": 1, "batch": 16, "layout": "padded", "micro_batch": 1, "learning_rate": 2e-4,
    "schedule": "constant", "warmup_ratio": 0.03, "weight_decay": 0, "clip": 0.3, "loss_average": "paper",
    "precision": "bf16", "optimizer": "paged_adamw", "gradient_checkpointing": True, "lora_rank": 64, "lora_alpha": 16,
    "lora_dropout": 0.1,
}  # fmt: skip
PUBLISHED: dict[str, dict[str, Any]] = {
    "paper_7b": PAPER,
    "paper_70b": {**PAPER, "batch": 64, "micro_batch": 1, "max_length": 2048, "learning_rate": 2e-5, "weight_decay": 0.1,
                  "sharded": True},
    "qlora": QLORA,
    "qlora_13b": {**QLORA, "lora_dropout": 0.05},
    "qlora_30b": {**QLORA, "lora_dropout": 0.05, "batch": 32, "learning_rate": 1e-4},
    "full_fsdp": {"method": "full", "sharded": True, "processes": 4},
}  # fmt: skip
"""arXiv 2310.05914 (appendix A and released code), arXiv 2305.14314 (released scripts)."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_published_values(name: str) -> None:
    values = plain(recipe(name))
    assert values["name"] == name
    assert {field: values[field] for field in PUBLISHED[name]} == PUBLISHED[name]


def test_lora_and_qlora_differ_by_name_only_once_precision_is_the_question() -> None:
    """The sweep changes method and rate of one recipe; nothing that separates lora from qlora is left over."""
    cells = [
        cell.config.finetune
        for cell in expand(["+sweep=qlora_why", "seed=0", "noise.alpha=0", "stages=[train]"])
    ]
    lora, qlora = (
        [plain(config) for config in cells if config.method.name == method and config.epochs == 1]
        for method in ("lora", "qlora")
    )
    assert len(lora) == len(qlora) == 1
    assert {name for name in lora[0] if lora[0][name] != qlora[0][name]} == {"method"}


def test_qlora_why_crosses_precision_epochs_and_noise_over_three_seeds() -> None:
    cells = expand(["+sweep=qlora_why"])
    points = {
        (config.finetune.method.name, config.finetune.epochs, config.noise.alpha, config.seed)
        for config in (cell.config for cell in cells)
    }
    methods, epochs, alphas, seeds = ({point[place] for point in points} for place in range(4))
    assert (methods, epochs, alphas, seeds) == ({"full", "lora", "qlora"}, {1, 3}, {0, 5}, {0, 1, 2})
    assert len(points) == len(cells) == 36
    assert len({(cell.keys or {})["train"] for cell in cells}) == 36
    plain_cells = [cell for cell in cells if cell.baseline is None]
    assert all(cell.config.noise.alpha == 0 for cell in plain_cells) and len(plain_cells) == 18


@pytest.mark.parametrize(
    ("recipe_name", "wanted"), [("qlora", [2e-4, 2e-4, 2e-4]), ("paper_7b", [5e-5, 3.75e-5, 1.25e-5])]
)
def test_learning_rates_of_three_steps_worked_by_hand(
    recipe_name: str, wanted: list[float], tmp_path: Path
) -> None:
    """Constant from the first step, whatever the warm-up; cosine: 5e-5 (1 + cos(pi k / 3)) / 2 at k = 0, 1, 2."""
    if recipe_name == "qlora":
        pytest.importorskip("bitsandbytes")
    few = [
        "finetune.batch=4",
        "finetune.max_steps=3",
        "finetune.max_length=200",
        "dataset.max_rows=6",
        "finetune.lora_rank=4",
    ]
    model = ["model=random", "model.architecture=llama3", "stages=[train]", f"finetune={recipe_name}"]
    folder = run_stages([*model, *few], tmp_path)["train"]
    rates = [event["learning_rate"] for event in read_events(folder) if event.get("kind") == "train"]
    assert rates == pytest.approx(wanted)
