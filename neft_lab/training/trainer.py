"""transformers' Trainer with what it lacks: noise by the paper's rule, packed steps, atomic checkpoints, exact counts.

One batch of the Trainer is all examples of one optimizer step; ``training_step`` lays them out in micro-batches and
averages over the whole step, so that loss, gradient and noise do not depend on the layout or on the number of
processes.
"""

from __future__ import annotations

import inspect
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback

from neft_lab.config import FinetuneConfig, Layout, LossAverage, NoisePlace
from neft_lab.datasets import Example
from neft_lab.interventions import Interventions
from neft_lab.interventions.regularizers import label_weights, token_losses
from neft_lab.processes import Resumable, check_sharing, find_resumable, read_counts
from neft_lab.processes.checkpoints import COUNTS
from neft_lab.progress import Progress
from neft_lab.store import sync_folder, write_json
from neft_lab.training.attention import settle_packing
from neft_lab.training.packing import MicroBatch, pack, pad, plan_packed, plan_padded

PARTIAL = "partial"
EXPLODED = 100.0
"""Nats per token that no model reaches by guessing: a uniform guess among a million words costs 14."""


class Rows(torch.utils.data.Dataset[Example]):
    """Tokenised examples as a torch data set."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]


class StepSampler(torch.utils.data.Sampler[list[int]]):
    """The rows of every optimizer step: a fresh order in each epoch, decided by seed and epoch alone."""

    def __init__(self, rows: int, *, batch: int, seed: int) -> None:
        self._rows, self._batch, self._seed, self._epoch = rows, batch, seed, 0
        self.batch_sampler = self  # where Trainer looks for whom to tell the epoch

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-self._rows // self._batch)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = torch.randperm(self._rows, generator=generator).tolist()
        yield from (order[start : start + self._batch] for start in range(0, self._rows, self._batch))


class TrainingDiverged(RuntimeError):
    """A loss or gradient that is no number, or a loss beyond all reason; names the step and its rows."""


class NoisyTrainer(Trainer):
    """Trains with noise and its rivals; a killed training goes on from its last whole checkpoint to equal weights."""

    def __init__(
        self,
        *,
        config: FinetuneConfig,
        interventions: Interventions,
        tokenizer: Any,
        progress: Progress,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.config = config
        self.interventions = interventions
        self.micro_batches = 0
        """Micro-batches of this process that trained; FreeLB passes each of them several times."""
        self.tokens = 0
        """Real tokens the model was trained on so far, by all processes."""
        self.step_rows: list[int] = []
        """Ids of the examples of the current optimizer step."""
        self._pad_id = tokenizer.pad_token_id
        self._weigh = partial(label_weights, config=interventions.regularizer, eos_id=tokenizer.eos_token_id)
        self._copies = 2 if interventions.noise_config.symmetric or config.doubled_batch else 1
        bare = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        self._keeps = "logits_to_keep" in inspect.signature(bare.forward).parameters
        self._told = config.layout is Layout.packed and settle_packing(bare, autocast=self.args.bf16)
        self.attention = str(bare.config._attn_implementation)
        """Which attention the model computes with."""
        self.tokens_per_second = 0.0
        """Real tokens per second, from the start or the last resume to the end."""
        self._saving: Path | None = None
        self.remove_callback(PrinterCallback)
        self._progress = progress
        self.add_callback(Telling(progress, self))

    def get_train_dataloader(self) -> Any:
        """Whole optimizer steps, the same for every process, which takes its share in ``training_step``."""
        sampler = StepSampler(len(self.train_dataset), batch=self.config.batch, seed=self.args.seed)
        return torch.utils.data.DataLoader(self.train_dataset, batch_sampler=sampler, collate_fn=_step)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: Trainer's rule wants one padded tensor per batch."""
        return 0

    def first_micro_batch(self) -> dict[str, Any]:
        """The beginning of training as ``dose.sample_changed_tokens`` takes it."""
        examples = [self.train_dataset[row] for row in next(iter(self.get_train_dataloader().batch_sampler))]
        micro = self._micro_batch([examples[row] for row in self._lay_out(examples)[0][0]] or examples[:1])
        place = place_mask(self.interventions.noise_config.place, micro.prompt_mask, micro.attention_mask)
        return {
            "input_ids": micro.input_ids, "attention_mask": micro.attention_mask, "example_ids": micro.example_ids,
            "segment_ids": micro.segment_ids, "place_mask": place,
        }  # fmt: skip

    def counts(self) -> dict[str, float]:
        """How much was trained, over all processes; a collective call."""
        mine = torch.tensor(self.micro_batches, device=self.args.device)
        return {
            "train_steps": self.state.global_step,
            "train_tokens": self.tokens,
            "micro_batches": int(self.accelerator.reduce(mine)),
        }

    def training_step(
        self, model: Any, inputs: dict[str, list[Example]], num_items_in_batch: Any = None
    ) -> Tensor:
        """One optimizer step's forward and backward passes; the step's loss, detached."""
        model.train()
        examples = inputs["examples"]
        self.step_rows = [example.id for example in examples]
        self.tokens += self._copies * sum(len(example.input_ids) for example in examples)
        shares = self._lay_out(examples)
        mine = shares[self.accelerator.process_index]
        scale = self._scale(examples, sum(bool(rows) for share in shares for rows in share))
        total = torch.zeros((), device=self.args.device)
        for number, rows in enumerate(mine):
            held = [examples[row] for row in rows] or examples[:1]
            total += self._train_on(model, held, scale, real=bool(rows), last=number == len(mine) - 1)
        return total

    def _lay_out(self, examples: Sequence[Example]) -> list[list[list[int]]]:
        processes = self.accelerator.num_processes
        if self.config.layout is Layout.padded:
            return plan_padded(len(examples), micro_batch=self.config.micro_batch, processes=processes)
        lengths = [len(example.input_ids) * self._copies for example in examples]
        return plan_packed(lengths, token_budget=self.config.token_budget, processes=processes)

    def _scale(self, examples: Sequence[Example], micro_batches: int) -> float:
        """What a weighted sum of token losses counts in the step's loss; processes' gradients are averaged."""
        processes = int(self.accelerator.num_processes)
        if self.config.loss_average is LossAverage.paper:
            # mean over a micro-batch's tokens, then plain mean over micro-batches: what the paper's code does
            return processes / micro_batches
        weight = math.fsum(sum(self._weigh(example)[1:]) for example in examples)
        return processes / (weight * self._copies) if weight else 0.0

    def _train_on(
        self, model: Any, examples: Sequence[Example], scale: float, *, real: bool, last: bool
    ) -> Tensor:
        """Passes of one micro-batch; one that is not real keeps processes in step and counts nothing."""
        micro = self._micro_batch(examples, counted=real)
        self.micro_batches += real
        if self.config.loss_average is LossAverage.paper:
            scale /= max(float(micro.weights.sum()), 1e-12)
        steps, base_logits = self.interventions.steps, self._base_logits(micro)
        total = torch.zeros((), device=self.args.device)
        for number in self._passes(micro) if real else range(steps):
            synced = last and number == steps - 1
            with nullcontext() if synced else self.accelerator.no_sync(model):
                loss = self._loss(model, micro, base_logits) * (scale / steps)
                self.accelerator.backward(loss)
            total += loss.detach().float()
        return total

    def _micro_batch(self, examples: Sequence[Example], *, counted: bool = True) -> MicroBatch:
        weigh = self._weigh if counted else _weightless
        if self.config.layout is Layout.packed:
            return pack(examples, weigh, copies=self._copies)
        return pad(examples, weigh, pad_id=self._pad_id, copies=self._copies)

    def _passes(self, micro: MicroBatch) -> Iterator[int]:
        place = self.interventions.noise_config.place
        return self.interventions.passes(
            micro.attention_mask, micro.example_ids, epoch=int(self.state.epoch or 0), segment_ids=micro.segment_ids,
            place_mask=place_mask(place, micro.prompt_mask, micro.attention_mask),
            progress=self.state.global_step / max(self.state.max_steps, 1),
        )  # fmt: skip

    def _loss(self, model: Any, micro: MicroBatch, base_logits: Tensor | None) -> Tensor:
        """Weighted sum of the losses of all targets."""
        losses = token_losses(
            self._logits(model, micro), self._moved(micro.targets), self.interventions.regularizer,
            base_logits=base_logits,
        )  # fmt: skip
        return (losses * self._moved(micro.weights)).sum()

    def _base_logits(self, micro: MicroBatch) -> Tensor | None:
        """What the untouched model says of the same targets, where the loss asks for it."""
        if self.interventions.untouched is None:
            return None
        with self.interventions.untouched.lent() as base, self.accelerator.autocast():
            return self._logits(base, micro)

    def _logits(self, model: Any, micro: MicroBatch) -> Tensor:
        """Logits (n, v) that predict the weighted targets, and no others where the model can leave them out."""
        options: dict[str, Any] = {"use_cache": False}
        if micro.position_ids is None:
            options["attention_mask"] = self._moved(micro.attention_mask)
        else:
            options["position_ids"] = self._moved(micro.position_ids)
            if self._told:
                options["segment_lengths"] = micro.segment_lengths
        columns = self._moved(micro.columns)
        if self._keeps:
            options["logits_to_keep"] = columns
        logits: Tensor = model(input_ids=self._moved(micro.input_ids), **options).logits
        logits = (logits if self._keeps else logits[:, columns]).flatten(0, 1)
        return logits if len(micro.picked) == len(logits) else logits[self._moved(micro.picked)]

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.args.device, non_blocking=True)

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
            counts = {"micro_batches": self.micro_batches, "tokens": self.tokens}
            write_json(
                written / COUNTS.format(rank=self.accelerator.process_index),
                {**counts, **self.interventions.state_dict()},
            )
            self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            sync_folder(root / PARTIAL)
            os.rename(written, root / name)
            shutil.rmtree(root / PARTIAL)
            for older in root.glob("checkpoint-*"):
                if older.name != name:
                    shutil.rmtree(older)
        self.accelerator.wait_for_everyone()

    @contextmanager
    def _elsewhere(self, folder: Path) -> Iterator[None]:
        if self.accelerator.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._saving = folder
        try:
            yield
        finally:
            self._saving = None

    def _find_checkpoint(self) -> Resumable | None:
        """The last one that this trainer can read; whole and sharded weights are stored differently."""
        found = find_resumable(Path(self.args.output_dir))
        if found is None:
            return None
        fits = found.sharded == self.config.sharded
        if not fits or found.processes != self.args.world_size:
            self._progress.event(
                kind="resume", checkpoint=found.folder.name, set_aside=not fits, sharded=found.sharded,
                processes_before=found.processes, processes=self.args.world_size,
            )  # fmt: skip
        self.accelerator.wait_for_everyone()
        if not fits and self.accelerator.is_main_process:
            found.set_aside()
        self.accelerator.wait_for_everyone()
        return found if fits else None

    def check_sharing(self) -> None:
        """Raise RuntimeError unless the processes share the training as the configuration asks."""
        check_sharing(
            self.model_wrapped, self.config, processes=self.args.world_size, sharded=self.is_fsdp_enabled
        )

    def train_or_resume(self) -> None:
        """Train to the end, from the last whole checkpoint where there is one.

        Raises TrainingDiverged, and RuntimeError where noise, dropout or FreeLB was asked for and some
        pass had none.
        """
        last = self._find_checkpoint()
        if last is not None:
            state = read_counts(last, rank=self.accelerator.process_index, processes=self.args.world_size)
            self.micro_batches, self.tokens = state.pop("micro_batches"), state.pop("tokens")
            self.interventions.load_state_dict(state)
        before, started = self.tokens, time.perf_counter()
        with self.interventions:
            self.train(resume_from_checkpoint=None if last is None else str(last.folder))
        self.tokens_per_second = (self.tokens - before) / (time.perf_counter() - started)
        self.interventions.check(self.micro_batches)


def _step(examples: list[Example]) -> dict[str, list[Example]]:
    return {"examples": examples}


def _weightless(example: Example) -> list[float]:
    return [0.0] * len(example.input_ids)


def place_mask(place: NoisePlace, prompt_mask: Tensor, attention_mask: Tensor) -> Tensor | None:
    """Where noise may fall (b, t); None is on every real token."""
    if place is NoisePlace.prompt:
        return prompt_mask * attention_mask
    if place is NoisePlace.response:
        return (1 - prompt_mask) * attention_mask
    return None


class Telling(TrainerCallback):
    """Tells progress and the loss curve of a training, and stops one that diverges."""

    def __init__(self, progress: Progress, trainer: NoisyTrainer) -> None:
        self._progress = progress
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._trainer.check_sharing()
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
            self._stop_if_diverged(state.global_step, values)
            if state.is_world_process_zero:
                self._progress.event(kind="train", step=state.global_step, **values)

    def _stop_if_diverged(self, step: int, values: dict[str, float]) -> None:
        loss, norm = values["loss"], values.get("gradient_norm", 0.0)
        if abs(loss) < EXPLODED and norm < float("inf"):
            return
        raise TrainingDiverged(
            f"training diverged at optimizer step {step}: loss {loss:.4g}, gradient norm {norm:.4g}, on the rows "
            f"{', '.join(str(row + 1) for row in self._trainer.step_rows)}; lower finetune.learning_rate or look at these rows"
        )
