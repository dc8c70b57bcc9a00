"""FreeLB: noise that learns where it hurts (Zhu et al. 2020, arXiv 1909.11764; the paper's table 12).

One training pass becomes K. The first adds the paper's uniform noise to the embeddings; after each pass the
perturbation of every example climbs its own gradient; every pass leaves 1/K of its gradient in the weights.
With K = 1 this is NEFTune, whose authors took the first step of FreeLB and left the rest.

Shapes: ``b`` rows, ``t`` tokens of a row, ``d`` embedding width, ``n`` real tokens of the micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from neft_lab.config import SILENT, NoiseConfig, NoiseKind, RegularizerConfig
from neft_lab.interventions.hook import MeasuredHook, MicroBatch
from neft_lab.noise import Examples, sample_noise

STREAM = "freelb"


def climb(
    perturbation: Tensor, gradient: Tensor, examples: Examples, *, step_size: float, max_norm: float
) -> Tensor:
    """Return the perturbation (b, t, d) one step up the gradient, example by example.

        delta <- project(delta + step_size * g / ||g||),    project: to length max_norm where it is longer

    Norms are L2 over the real tokens of an example. ``max_norm`` 0 projects nothing, and an example without
    gradient stays where it is (github zhuchen03/FreeLB).
    """
    moved = perturbation.detach().clone()
    rows = moved.view(-1, moved.shape[-1])
    positions = examples.positions.to(moved.device, non_blocking=True)
    taken, slopes = rows[positions], gradient.detach().reshape(rows.shape)[positions]
    for part, slope in zip(examples.split(taken), examples.split(slopes), strict=True):
        part += step_size * slope / slope.norm().clamp_min(torch.finfo(slope.dtype).tiny)
        if max_norm > 0:
            part *= (max_norm / part.norm().clamp_min(max_norm)).to(part.dtype)
    rows[positions] = taken
    return moved


class FreeLB(MeasuredHook):
    """Runs every micro-batch K times, its embeddings moved up their gradient between the passes.

        with FreeLB(model, config.regularizer, seed=config.seed) as adversary:
            for batch in micro_batches:
                for _ in adversary.passes(batch.attention_mask, batch.example_ids, epoch=epoch):
                    (model(...).loss / adversary.steps).backward()
        adversary.check(len(micro_batches) * adversary.steps)

    The passes of a micro-batch see the same dropout, and the global random state moves on as if there had been
    one (the authors' code fixes its masks alike). Other hooks are armed anew for each pass.
    """

    what = "FreeLB's perturbation"

    def __init__(self, model: nn.Module, config: RegularizerConfig, *, seed: int) -> None:
        asked = f"regularizer.freelb_steps is {config.freelb_steps}"
        super().__init__(model, active=config.freelb_steps > 0, asked=asked)
        self.steps = max(config.freelb_steps, 1)
        self._config = config
        self._seed = seed
        self._perturbation: Tensor | None = None

    def passes(
        self, attention_mask: Tensor, example_ids: Sequence[int | str], **options: Any
    ) -> Iterator[int]:
        """Yield the number of each pass, from 0; arguments as for ``arm``.

        The caller runs forward and backward before it asks for the next one. Without FreeLB there is one pass.
        """
        self._perturbation = None
        for number in range(self.steps):
            self.arm(attention_mask, example_ids, **options)
            batch, last = self._waiting, number + 1 == self.steps
            with nullcontext() if last else self._random_state_kept():
                yield number
            if batch is not None and not last:
                self._climb(batch)
        self._perturbation = None

    def change(self, embeddings: Tensor, batch: MicroBatch) -> Tensor:
        """Return the embeddings (b, t, d) with the perturbation of this pass."""
        if self._perturbation is None:
            self._perturbation = self._start(embeddings, batch)
        self._perturbation = self._perturbation.requires_grad_()
        moved = embeddings + self._perturbation.to(embeddings.dtype)
        self._sums.add(embeddings, moved, batch.examples)
        return moved

    def _start(self, embeddings: Tensor, batch: MicroBatch) -> Tensor:
        # bfloat16 would lose small steps beside what is there already
        blank = embeddings.detach().to(torch.promote_types(embeddings.dtype, torch.float32))
        return sample_noise(
            blank,
            batch.attention_mask,
            _start_noise(self._config.freelb_start),
            generators=batch.generators(seed=self._seed, device=embeddings.device, stream=STREAM),
            segment_ids=batch.segment_ids,
        )

    def _climb(self, batch: MicroBatch) -> None:
        reached = self._perturbation
        if reached is None or reached.grad is None:
            raise RuntimeError(
                "FreeLB needs the gradient of a pass before the next: call backward in between"
            )
        self._perturbation = climb(
            reached,
            reached.grad,
            batch.examples,
            step_size=self._config.freelb_step_size,
            max_norm=self._config.freelb_max_norm,
        )

    def _random_state_kept(self) -> AbstractContextManager[None]:
        device = next(self.embedding.parameters()).device
        return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _start_noise(alpha: float) -> NoiseConfig:
    """The paper's noise at a size: uniform, scaled by each example's real length, on all its tokens."""
    return replace(SILENT, name="uniform", kind=NoiseKind.uniform, alpha=alpha)
