"""What a plan leaves on the disk, and what it needs there while it runs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from neft_lab.budget.work import Task, Work, plain_name

GIGABYTE = 1e9


@dataclass(frozen=True)
class Disk:
    """Bytes: weights that stay, checkpoints of trainings that run at once, and what is free now."""

    weights: float
    checkpoints: float
    free: float | None
    unknown: int = 0
    """Trainings whose model has no known size."""

    def __str__(self) -> str:
        free = "" if self.free is None else f"; {_gigabytes(self.free)} free"
        short = ""
        if self.free is not None and self.weights + self.checkpoints > self.free:
            short = " NOT ENOUGH"
        unknown = f"; {self.unknown} trainings of unknown size" if self.unknown else ""
        return (
            f"weights that stay {_gigabytes(self.weights)}, checkpoints at most {_gigabytes(self.checkpoints)}"
            f"{unknown}{free}{short}"
        )


def _gigabytes(size: float) -> str:
    return f"{size / GIGABYTE:.3g} GB"


def measure_disk(trainings: list[tuple[Task, Work]], *, at_once: int, folder: Path) -> Disk:
    """Weights of all trainings, and the ``at_once`` largest sets of checkpoints."""
    found = [_training_bytes(task, work) for task, work in trainings if work.size is not None]
    largest = sorted((checkpoints for _, checkpoints in found), reverse=True)[:at_once]
    unknown = sum(work.size is None and work.unknown is not None for _, work in trainings)
    return Disk(sum(weights for weights, _ in found), sum(largest), _free(folder), unknown)


def _training_bytes(task: Task, work: Work) -> tuple[float, float]:
    """Bytes of what a training leaves, and of its checkpoints: the old one stays until the new one is whole.

    Full: float32 weights with two optimizer states, all bfloat16 with precision bf16_pure. Adapters: float32.
    """
    finetune = task.part("finetune")
    method, size = plain_name(finetune.method), work.size
    if method == "none" or size is None:
        return 0.0, 0.0
    trained = size.parameters if method == "full" else size.adapter_parameters(finetune.lora_rank)
    bytes_each = 2 if method == "full" and plain_name(finetune.precision) == "bf16_pure" else 4
    return bytes_each * trained, 2 * 3 * bytes_each * trained


def _free(folder: Path) -> float | None:
    there = next((path for path in (folder, *folder.resolve().parents) if path.exists()), None)
    return None if there is None else float(shutil.disk_usage(there).free)
