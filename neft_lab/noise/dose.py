"""How much noise an embedding was given, and whether it is enough to turn one token into another.

Noise scales do not compare across models, lengths or libraries, doses do. Shapes: ``b`` rows, ``t`` tokens of
a row, ``d`` embedding width, ``n`` real tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn

from neft_lab.config import NoiseConfig
from neft_lab.noise import Examples, example_generators, locate_examples, sample_noise

_VOCABULARY_CHUNK = 8192


@dataclass(frozen=True)
class Dose:
    """The noise that really reached the embeddings, measured over the real tokens of a training.

    mean_noise_norm: mean over examples of the L2 norm of an example's noise; the paper's alpha 5 gives 2.887.
    noise_to_embedding_rms: RMS of the noise over RMS of the embeddings, per coordinate.
    equivalent_alpha: ``sqrt(3) * mean_noise_norm``, the alpha of the paper's code with that norm.
    """

    examples: int
    mean_noise_norm: float
    noise_to_embedding_rms: float
    equivalent_alpha: float


class DoseSums:
    """Running sums of a dose, kept on the device so that no micro-batch waits for the host.

    In order: examples, noise norms, squared noise, squared embeddings.
    """

    def __init__(self, sums: Tensor | None = None) -> None:
        self._sums = sums

    @torch.no_grad()
    def add(self, embeddings: Tensor, noisy: Tensor, examples: Examples) -> None:
        """Add one micro-batch (b, t, d); its noise is what rounding left of it, ``noisy - embeddings``."""
        positions = examples.positions.to(embeddings.device, non_blocking=True)
        dtype = torch.promote_types(embeddings.dtype, torch.float32)
        before, after = (part.flatten(0, 1)[positions].to(dtype) for part in (embeddings, noisy))
        added = (after - before).square().sum(dim=1)
        lengths = examples.lengths.to(embeddings.device, non_blocking=True)
        norms = torch.segment_reduce(added, "sum", lengths=lengths, unsafe=True).sqrt()
        counted = (lengths > 0).sum().to(dtype)
        new = torch.stack([counted, norms.sum(), added.sum(), before.square().sum()]).double()
        self._sums = new if self._sums is None else self._sums.to(new.device) + new

    def tolist(self) -> list[float]:
        """Return the four sums of this process."""
        return [0.0] * 4 if self._sums is None else self._sums.tolist()

    def read(self, device: torch.device) -> Dose:
        """Return the dose over all processes, which must all call this; ``device`` suits their backend."""
        sums = torch.tensor(self.tolist(), dtype=torch.float64)
        if distributed.is_available() and distributed.is_initialized():
            sums = sums.to(device)
            distributed.all_reduce(sums)
        examples, norms, noise, embeddings = sums.tolist()
        mean = norms / examples if examples else 0.0
        ratio = math.sqrt(noise / embeddings) if embeddings else 0.0
        return Dose(int(examples), mean, ratio, math.sqrt(3) * mean)


@dataclass(frozen=True)
class ChangedTokens:
    """How many of some tokens the noise moved closer to another vocabulary row than to their own."""

    changed: int
    tokens: int

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.changed / self.tokens if self.tokens else 0.0


@torch.no_grad()
def count_changed_tokens(
    embedding: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    config: NoiseConfig,
    *,
    generators: Sequence[torch.Generator],
    segment_ids: Tensor | None = None,
    place_mask: Tensor | None = None,
    progress: float = 0.0,
    limit: int | None = None,
) -> ChangedTokens:
    """Count the real tokens of a sample whose nearest vocabulary row changes under the noise.

    embedding: what ``get_input_embeddings()`` returns. input_ids (b, t), on its device. The rest as for
    ``sample_noise``. Only the first ``limit`` real tokens are counted, all of them where it is None; the noise is
    always that of the whole batch. Nearest in L2, in float32 (paper, figure 6: no token of 5200 Alpaca rows up to
    alpha 15). A token whose row has an exact twin is not changed by it. Every token is compared with the whole
    vocabulary: a few hundred tokens are plenty.
    """
    embeddings = embedding(input_ids)
    noise = sample_noise(
        embeddings,
        attention_mask,
        config,
        generators=generators,
        segment_ids=segment_ids,
        place_mask=place_mask,
        progress=progress,
    )
    positions = locate_examples(attention_mask, segment_ids).positions[:limit].to(embeddings.device)
    noisy = (embeddings + noise).flatten(0, 1)[positions].float()
    changed = _nearer_to_another(noisy, input_ids.flatten()[positions], embedding)
    return ChangedTokens(int(changed.sum()), len(positions))


def sample_changed_tokens(
    model: nn.Module,
    batch: Mapping[str, Any],
    config: NoiseConfig,
    *,
    seed: int,
    place_mask: Tensor | None = None,
    limit: int = 512,
) -> ChangedTokens:
    """Count the tokens that the noise of one training micro-batch changes, before the model has learned anything.

    model: the untouched model, not yet sharded. batch: the micro-batch as it is collated: input_ids, attention_mask
    (b, t), example_ids, and segment_ids where rows are packed. The noise is that of its first pass, epoch 0.
    """
    if config.silent:
        return ChangedTokens(0, min(limit, int((batch["attention_mask"] != 0).sum())))
    embedding = cast(Any, model).get_input_embeddings()
    device = next(embedding.parameters()).device
    generators = example_generators(batch["example_ids"], seed=seed, epoch=0, device=device)
    return count_changed_tokens(
        embedding,
        batch["input_ids"].to(device),
        batch["attention_mask"],
        config,
        generators=generators,
        segment_ids=batch.get("segment_ids"),
        place_mask=place_mask,
        limit=limit,
    )


def _nearer_to_another(vectors: Tensor, token_ids: Tensor, embedding: nn.Module) -> Tensor:
    """Whether each vector (n, d) is nearer to another row than to that of its own token (n,)."""
    vocabulary = torch.arange(len(cast(Tensor, embedding.weight)), device=vectors.device)
    best = torch.full((len(vectors),), math.inf, device=vectors.device)
    own = best.clone()
    for ids in torch.split(vocabulary, _VOCABULARY_CHUNK):
        rows = embedding(ids).float()
        # Squared distances less the squared norm of the vector, which all rows share.
        distances = rows.square().sum(dim=1) - 2 * vectors @ rows.T
        best = torch.minimum(best, distances.amin(dim=1))
        here = ((token_ids >= ids[0]) & (token_ids <= ids[-1])).nonzero().squeeze(1)
        own[here] = distances[here, token_ids[here] - ids[0]]
    return best < own
