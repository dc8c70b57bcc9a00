"""transformers' Trainer with three things it lacks: noise by the paper's rule, atomic checkpoints, exact counts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from neft_lab.config import LossAverage, NoiseConfig, NoisePlace
from neft_lab.datasets import IGNORED, Example
from neft_lab.noise_hook import EmbeddingNoise
from neft_lab.progress import Progress
from neft_lab.store import read_json, sync_folder, write_json

PARTIAL = "partial"


class Rows(torch.utils.data.Dataset[Example]):
    """Tokenised examples as a torch data set."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]


class Collator:
    """Right-padded micro-batches: input_ids, attention_mask, labels, prompt_mask (b, t), and example ids."""

    def __init__(self, pad_id: int) -> None:
        self._pad_id = pad_id

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        longest = max(len(example.input_ids) for example in examples)

        def pad(rows: Iterator[list[int]], filler: int) -> Tensor:
            return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])

        return {
            "input_ids": pad((example.input_ids for example in examples), self._pad_id),
            "attention_mask": pad(([1] * len(example.input_ids) for example in examples), 0),
            "labels": pad((example.labels for example in examples), IGNORED),
            "prompt_mask": pad((example.prompt_mask for example in examples), 0),
            "example_ids": [example.id for example in examples],
        }


def place_mask(place: NoisePlace, prompt_mask: Tensor, attention_mask: Tensor) -> Tensor | None:
    """Where noise may fall (b, t); None is on every real token."""
    if place is NoisePlace.prompt:
        return prompt_mask * attention_mask
    if place is NoisePlace.response:
        return (1 - prompt_mask) * attention_mask
    return None


class NoisyTrainer(Trainer):
    """Trains with embedding noise; a killed training goes on from its last whole checkpoint to equal weights."""

    def __init__(
        self,
        *,
        noise: EmbeddingNoise,
        noise_config: NoiseConfig,
        loss_average: LossAverage,
        progress: Progress,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.noise = noise
        self.noise_config = noise_config
        self.micro_batches = 0
        self.tokens: Tensor | int = 0
        """Real tokens the model was trained on so far."""
        self._saving: Path | None = None
        if loss_average is LossAverage.paper:
            # mean over a micro-batch's tokens, then plain mean over micro-batches: what the paper's code does
            self.model_accepts_loss_kwargs = False
        self.remove_callback(PrinterCallback)
        self.add_callback(Telling(progress))

    def training_step(self, model: Any, batch: dict[str, Any], *arguments: Any, **options: Any) -> Tensor:
        """One micro-batch forward and backward."""
        self.micro_batches += 1
        self.tokens = self.tokens + batch["attention_mask"].sum()  # on the device: no wait for it
        loss: Tensor = super().training_step(model, batch, *arguments, **options)
        return loss

    def compute_loss(self, model: Any, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        """The loss of one micro-batch, with noise on its embeddings while the model trains."""
        inputs = dict(inputs)
        example_ids, prompt_mask = inputs.pop("example_ids"), inputs.pop("prompt_mask")
        if model.training:
            if self.noise_config.symmetric:
                inputs = {name: torch.cat([value, value]) for name, value in inputs.items()}
                prompt_mask, example_ids = torch.cat([prompt_mask, prompt_mask]), example_ids * 2
                if options.get("num_items_in_batch") is not None:
                    options["num_items_in_batch"] = options["num_items_in_batch"] * 2
            self.noise.arm(
                inputs["attention_mask"], example_ids, epoch=int(self.state.epoch or 0),
                place_mask=place_mask(self.noise_config.place, prompt_mask, inputs["attention_mask"]),
                progress=self.state.global_step / max(self.state.max_steps, 1),
            )  # fmt: skip
        return super().compute_loss(model, inputs, *arguments, **options)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._saving) if self._saving else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write under another name, sync, rename, and only then drop the older ones.

        After the last step nothing is written: the model itself follows at once.
        """
        if self.state.global_step >= self.state.max_steps:
            return
        root = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        with self._elsewhere(root / PARTIAL):
            super()._save_checkpoint(model, trial)
        written = root / PARTIAL / name
        write_json(
            written / "noise.json",
            {"micro_batches": self.micro_batches, "tokens": int(self.tokens), **self.noise.state_dict()},
        )
        sync_folder(root / PARTIAL)
        os.rename(written, root / name)
        for older in root.glob("checkpoint-*"):
            if older.name != name:
                shutil.rmtree(older)

    @contextmanager
    def _elsewhere(self, folder: Path) -> Iterator[None]:
        shutil.rmtree(folder, ignore_errors=True)
        self._saving = folder
        try:
            yield
        finally:
            self._saving = None

    def train_or_resume(self) -> None:
        """Train to the end, from the last whole checkpoint where there is one."""
        root = Path(self.args.output_dir)
        last = get_last_checkpoint(str(root)) if root.is_dir() else None
        if last is not None:
            state = read_json(Path(last) / "noise.json")
            self.micro_batches, self.tokens = state.pop("micro_batches"), state.pop("tokens")
            self.noise.load_state_dict(state)
        with self.noise:
            self.train(resume_from_checkpoint=last)
        self.noise.check(self.micro_batches)


class Telling(TrainerCallback):
    """Tells progress and the loss curve of a training."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._progress.start(state.max_steps, unit="optimizer step", done=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._progress.advance()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **rest: Any
    ) -> None:
        logs = logs or {}
        if "loss" in logs:
            names = {"loss": "loss", "learning_rate": "learning_rate", "grad_norm": "gradient_norm"}
            values = {ours: logs[theirs] for theirs, ours in names.items() if theirs in logs}
            self._progress.event(kind="train", step=state.global_step, **values)
