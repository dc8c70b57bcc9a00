"""What a training tells while it goes on: its count, its loss curve, and that it diverged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from transformers import TrainerCallback

from neft_lab.progress import Progress

EXPLODED = 100.0
"""Nats per token that no model reaches by guessing: a uniform guess among a million words costs 14."""
NAMES = {"loss": "loss", "learning_rate": "learning_rate", "grad_norm": "gradient_norm"}
"""Trainer's names of what is logged, and those of the events."""


class TrainingDiverged(RuntimeError):
    """A loss or gradient that is no number, or a loss beyond all reason; names the step and its rows."""


class Telling(TrainerCallback):
    """Tells progress and the loss curve of a training, and stops one that diverges.

    rows: the ids of the examples of the current optimizer step. begin: called once, before the first step.
    """

    def __init__(
        self, progress: Progress, *, rows: Callable[[], Sequence[int]], begin: Callable[[], None]
    ) -> None:
        self._progress = progress
        self._rows = rows
        self._begin = begin

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._begin()
        self._progress.start(state.max_steps, unit="optimizer step", done=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._progress.advance()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **rest: Any
    ) -> None:
        logs = logs or {}
        if "loss" in logs:
            values = {ours: logs[theirs] for theirs, ours in NAMES.items() if theirs in logs}
            require_sane(values, step=state.global_step, rows=self._rows())
            if state.is_world_process_zero:
                self._progress.event(kind="train", step=state.global_step, **values)


def require_sane(values: dict[str, float], *, step: int, rows: Sequence[int]) -> None:
    """Raise TrainingDiverged unless loss (nats per token) and gradient norm are numbers, and the loss below EXPLODED.

    rows: from 0; the message counts from 1, as a file's lines are counted.
    """
    loss, norm = values["loss"], values.get("gradient_norm", 0.0)
    if abs(loss) < EXPLODED and math.isfinite(norm):
        return
    raise TrainingDiverged(
        f"training diverged at optimizer step {step}: loss {loss:.4g}, gradient norm {norm:.4g}, on the rows "
        f"{', '.join(str(row + 1) for row in rows)}; lower finetune.learning_rate or look at these rows"
    )
