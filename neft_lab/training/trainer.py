"""transformers' Trainer with what it lacks: noise by the paper's rule, packed steps, atomic checkpoints, exact counts.

One batch of the Trainer is all examples of one optimizer step; ``training_step`` lays them out in micro-batches and
averages over the whole step, so that loss, gradient and noise do not depend on the layout or on the number of
processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer

from neft_lab.config import FinetuneConfig, Layout, LossAverage
from neft_lab.datasets import Example
from neft_lab.interventions import Interventions
from neft_lab.interventions.regularizers import label_weights
from neft_lab.processes import check_sharing, read_counts
from neft_lab.progress import Progress
from neft_lab.training import head
from neft_lab.training.checkpoints import Checkpoints
from neft_lab.training.curve import Telling
from neft_lab.training.losses import Losses
from neft_lab.training.packing import MicroBatch, pack, pad, plan_packed, plan_padded
from neft_lab.training.rows import StepSampler, collate_step


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
        self.tokens_per_second = 0.0
        """Real tokens per second, from the start or the last resume to the end."""
        self.losses = Losses(
            self.model, interventions, packed=config.layout is Layout.packed, autocast=self.args.bf16,
            device=self.args.device, fuse=self.args.device.type in head.DEVICES and not config.compile,
        )  # fmt: skip
        self._pad_id = tokenizer.pad_token_id
        self._weigh = partial(label_weights, config=interventions.regularizer, eos_id=tokenizer.eos_token_id)
        self._copies = 2 if interventions.noise_config.symmetric or config.doubled_batch else 1
        self._checkpoints = Checkpoints(Path(self.args.output_dir), self.accelerator)
        self._progress = progress
        self.remove_callback(PrinterCallback)
        self.add_callback(Telling(progress, rows=lambda: self.step_rows, begin=self._check_sharing))

    def get_train_dataloader(self) -> Any:
        """Whole optimizer steps, the same for every process, which takes its share in ``training_step``."""
        sampler = StepSampler(len(self.train_dataset), batch=self.config.batch, seed=self.args.seed)
        return torch.utils.data.DataLoader(self.train_dataset, batch_sampler=sampler, collate_fn=collate_step)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: Trainer's rule wants one padded tensor per batch."""
        return 0

    def first_micro_batch(self) -> dict[str, Any]:
        """The beginning of training as ``dose.sample_changed_tokens`` takes it."""
        examples = [self.train_dataset[row] for row in next(iter(self.get_train_dataloader().batch_sampler))]
        micro = self._micro_batch([examples[row] for row in self._lay_out(examples)[0][0]] or examples[:1])
        return {
            "input_ids": micro.input_ids, "attention_mask": micro.attention_mask, "example_ids": micro.example_ids,
            "segment_ids": micro.segment_ids, "place_mask": micro.place_mask(self.interventions.noise_config.place),
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
        steps = self.interventions.steps
        base_logits = self.losses.base_logits(micro, self.accelerator.autocast())
        total = torch.zeros((), device=self.args.device)
        for number in self._passes(micro) if real else range(steps):
            synced = last and number == steps - 1
            with nullcontext() if synced else self.accelerator.no_sync(model):
                loss = self.losses.sum(model, micro, base_logits) * (scale / steps)
                self.accelerator.backward(loss)
            total += loss.detach().float()
        return total

    def _micro_batch(self, examples: Sequence[Example], *, counted: bool = True) -> MicroBatch:
        weigh = self._weigh if counted else _weightless
        if self.config.layout is Layout.packed:
            return pack(examples, weigh, copies=self._copies)
        return pad(examples, weigh, pad_id=self._pad_id, copies=self._copies)

    def _passes(self, micro: MicroBatch) -> Iterator[int]:
        return self.interventions.passes(
            micro.attention_mask, micro.example_ids, epoch=int(self.state.epoch or 0), segment_ids=micro.segment_ids,
            place_mask=micro.place_mask(self.interventions.noise_config.place),
            progress=self.state.global_step / max(self.state.max_steps, 1),
        )  # fmt: skip

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._checkpoints.writing or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """After the last step nothing is written: the model itself follows at once."""
        if self.state.global_step >= self.state.max_steps:
            return
        counts = {"micro_batches": self.micro_batches, "tokens": self.tokens}
        save = super()._save_checkpoint
        self._checkpoints.write(
            self.state.global_step,
            counts | self.interventions.state_dict(),
            lambda: save(model, trial),
        )

    def _check_sharing(self) -> None:
        check_sharing(
            self.model_wrapped, self.config, processes=self.args.world_size, sharded=self.is_fsdp_enabled
        )

    def train_or_resume(self) -> None:
        """Train to the end, from the last whole checkpoint where there is one.

        Raises TrainingDiverged, and RuntimeError where noise, dropout or FreeLB was asked for and some pass had none,
        or where the processes do not share the training as the configuration asks.
        """
        last = self._checkpoints.find(sharded=self.config.sharded, progress=self._progress)
        if last is not None:
            state = read_counts(last, rank=self.accelerator.process_index, processes=self.args.world_size)
            self.micro_batches, self.tokens = state.pop("micro_batches"), state.pop("tokens")
            self.interventions.load_state_dict(state)
        before, started = self.tokens, time.perf_counter()
        with self.interventions:
            self.train(resume_from_checkpoint=None if last is None else str(last.folder))
        self.tokens_per_second = (self.tokens - before) / (time.perf_counter() - started)
        self.interventions.check(self.micro_batches)


def _weightless(example: Example) -> list[float]:
    return [0.0] * len(example.input_ids)
