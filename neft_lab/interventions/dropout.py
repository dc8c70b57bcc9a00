"""Dropout on the input embeddings: the plainest rival of noise on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neft_lab.interventions.hook import EmbeddingHook, MicroBatch
from neft_lab.noise import Examples

STREAM = "embedding dropout"


def dropout_factors(
    embeddings: Tensor, examples: Examples, p: float, *, generators: Sequence[torch.Generator]
) -> Tensor:
    """Return what embeddings (b, t, d) are multiplied by: 0 with probability p, else 1 / (1 - p), per number.

    Padding keeps 1. Each example draws from its own generator, and only for its real tokens (Srivastava et al.
    2014, in the inverted form: the expectation stays).
    """
    factors = torch.ones_like(embeddings, requires_grad=False)
    if not len(examples.positions):
        return factors
    kept = torch.empty(len(examples.positions), embeddings.shape[-1], device=generators[0].device)
    for rows, generator in zip(examples.split(kept), generators, strict=True):
        rows.bernoulli_(1 - p, generator=generator)
    positions = examples.positions.to(factors.device, non_blocking=True)
    factors.view(-1, factors.shape[-1])[positions] = kept.div_(1 - p).to(factors.device, factors.dtype)
    return factors


class EmbeddingDropout(EmbeddingHook):
    """Drops numbers of the input embeddings of a model that trains, once per armed micro-batch.

    Place it before the noise: noise is then added to what dropout left, and its dose stays what it was. Every
    example has its own stream, so that what is dropped depends on neither batch mates, packing nor a resume.
    """

    what = "embedding dropout"

    def __init__(self, model: nn.Module, p: float, *, seed: int) -> None:
        super().__init__(model, active=p > 0, asked=f"regularizer.embedding_dropout is {p:g}")
        self._p = p
        self._seed = seed

    def change(self, embeddings: Tensor, batch: MicroBatch) -> Tensor:
        """Return the embeddings (b, t, d) with a share ``p`` of their numbers dropped."""
        generators = batch.generators(seed=self._seed, device=embeddings.device, stream=STREAM)
        return embeddings * dropout_factors(embeddings, batch.examples, self._p, generators=generators)
