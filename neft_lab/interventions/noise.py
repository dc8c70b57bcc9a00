"""Putting the noise into a model while it trains, and measuring the dose that it was given.

Noise enters at the output of the input embedding (``hook`` says where that is in each family). Gemma
scales its embeddings by sqrt(d) before: the noise at layer 0 has the same norm as elsewhere, so relative to the
embeddings it is sqrt(d) times smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neft_lab.config import NoiseConfig
from neft_lab.interventions.hook import MeasuredHook, MicroBatch
from neft_lab.noise import example_generators, sample_noise


class EmbeddingNoise(MeasuredHook):
    """Adds noise to the input embeddings of a model that trains, once per armed micro-batch.

        with EmbeddingNoise(model, config.noise, seed=config.seed) as noise:
            for batch in micro_batches:
                noise.arm(batch.attention_mask, batch.example_ids, epoch=epoch)
                model(...).loss.backward()
        noise.check(len(micro_batches))

    With ``config.silent`` no hook is placed, so that alpha 0 is the model as it was. Random numbers come from
    generators of their own: dropout and shuffling see the same stream at every alpha.
    """

    what = "embedding noise"

    def __init__(self, model: nn.Module, config: NoiseConfig, *, seed: int) -> None:
        super().__init__(model, active=not config.silent, asked=f"noise.alpha is {config.alpha:g}")
        self._config = config
        self._seed = seed

    def arm(self, attention_mask: Tensor, example_ids: Sequence[int | str], **options: Any) -> None:
        """Say what the next training pass will see, as ``EmbeddingHook.arm``.

        For SymNoise (``config.symmetric``) the caller repeats the whole batch, ids and labels included, below
        itself: the first half gets the noise, the second half its negative.
        """
        ids = list(example_ids)
        if self._config.symmetric and (len(ids) % 2 or ids[: len(ids) // 2] != ids[len(ids) // 2 :]):
            raise ValueError("noise.symmetric is true: the second half of the batch must repeat the first")
        super().arm(attention_mask, ids, **options)

    def change(self, embeddings: Tensor, batch: MicroBatch) -> Tensor:
        """Return the embeddings (b, t, d) with noise, and count its dose."""
        noisy = embeddings + self._noise(embeddings, batch)
        self._sums.add(embeddings, noisy, batch.examples)
        return noisy

    def _noise(self, embeddings: Tensor, batch: MicroBatch) -> Tensor:
        rows, ids = len(embeddings), batch.example_ids
        if self._config.symmetric:
            rows, ids = rows // 2, ids[: len(ids) // 2]
        segment_ids, place_mask = batch.segment_ids, batch.place_mask
        noise = sample_noise(
            embeddings[:rows],
            batch.attention_mask[:rows],
            self._config,
            generators=example_generators(
                ids,
                seed=self._seed,
                epoch=0 if self._config.frozen else batch.epoch,
                draw=batch.draw,
                device=embeddings.device,
            ),
            segment_ids=None if segment_ids is None else segment_ids[:rows],
            place_mask=None if place_mask is None else place_mask[:rows],
            progress=batch.progress,
        )
        return torch.cat([noise, -noise]) if self._config.symmetric else noise
