"""The noise rule of NEFTune and its rivals: which vectors are added to the embeddings of a micro-batch.

The paper's training code (arXiv 2310.05914) adds ``alpha / sqrt(n d) * u`` to the embeddings of every real
token of an example: ``n`` is the number of its real tokens, ``d`` the embedding width, ``u`` uniform on
(-1, 1). The norm over one example is then about ``alpha / sqrt(3)``, whatever ``n`` and ``d``.

Each example draws from a generator of its own, and only for its real tokens, so that its noise does not
depend on padding, batch mates, packing, the number of processes, or a resume.

Shapes: ``b`` batch rows, ``t`` tokens of a row, ``d`` embedding width, ``n`` real tokens of the micro-batch,
``k`` its examples (rows, or segments where rows are packed).
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neft_lab.config import (
    NoiseConfig,
    NoiseKind,
    NoiseLength,
    NoisePlace,
    NoiseScale,
    NoiseSchedule,
    NoiseStrength,
)


def sample_noise(
    embeddings: Tensor,
    attention_mask: Tensor,
    config: NoiseConfig,
    *,
    generators: Sequence[torch.Generator],
    segment_ids: Tensor | None = None,
    place_mask: Tensor | None = None,
    progress: float = 0.0,
) -> Tensor:
    """Return the noise to add to a micro-batch of embeddings, detached, zero outside its real tokens.

    embeddings (b, t, d); attention_mask, segment_ids and place_mask (b, t). The result has the shape, dtype
    and device of ``embeddings``. Masks are read on the host: pass them from there to spare a device a wait.

    generators: one per example: rows in order, or segments in order where ``segment_ids`` is given (0 is
    padding, each segment one run of equal ids). Units are drawn in float32, scaled in the embeddings' dtype
    but at least float32, and cast at the end.
    place_mask: nonzero where noise may go; needed for place prompt and response. A restricted place
    changes neither an example's length nor the noise of the tokens that keep theirs.
    progress: 0 to 1 of the training, for a schedule.

    The half width of uniform noise is ``alpha / sqrt(L d)``, where ``config.length`` says L: ``sample``, the
    real tokens of the example (the paper's code); ``padded``, t (its README, transformers); ``packed_row``,
    the real tokens of the whole micro-batch (TRL with packing, which flattens it into one row); ``none``, 1.
    Strength ``sigma`` makes it alpha itself, ``proportional`` alpha times the RMS of the example's
    embeddings. ``raw`` Gaussian noise takes it for its standard deviation and ``raw`` Rademacher noise for
    its step; ``matched`` divides both by sqrt(3), which gives them the second moment of the uniform kind.

    ``config.symmetric`` and ``config.frozen`` concern the batch and the generators, so they are left to
    ``noise_hook.EmbeddingNoise``.
    """
    examples = locate_examples(attention_mask, segment_ids)
    _require_fit(embeddings, attention_mask, examples, generators)
    noise = torch.zeros(embeddings.shape, dtype=embeddings.dtype, device=embeddings.device)
    kept = _kept_tokens(examples, config.place, place_mask)
    if config.silent or not len(examples.positions):
        return noise
    dtype = torch.promote_types(embeddings.dtype, torch.float32)
    with torch.no_grad():
        units = _draw_units(examples, embeddings.shape[-1], config.kind, generators)
        sizes = _half_widths(embeddings, examples, config, progress=progress).to(
            noise.device, dtype, non_blocking=True
        )
        owners, kept, positions = (
            part.to(noise.device, non_blocking=True) for part in (examples.owners, kept, examples.positions)
        )
        sizes = sizes[owners] * kept
        rows = units.to(noise.device, dtype).mul_(sizes[:, None])
        noise.view(-1, noise.shape[-1])[positions] = rows.to(noise.dtype)
    return noise


def example_generators(
    example_ids: Iterable[int | str],
    *,
    seed: int,
    epoch: int,
    draw: int = 0,
    device: torch.device | str,
    stream: str | None = None,
) -> list[torch.Generator]:
    """Return one generator per example, seeded by (seed, example id, epoch, draw) and nothing else.

    draw tells apart several micro-batches with the same example within one epoch; frozen noise keeps
    ``epoch=0``. stream: a name for draws beside the noise, so that they do not repeat its numbers. Equal
    generators give equal numbers on one device type. The seed has 63 bits, of which torch's CPU generator
    uses 32: there a few of some hundred thousand streams may coincide.
    """
    return [
        torch.Generator(device=device).manual_seed(_stream_seed(example_id, seed, epoch, draw, stream))
        for example_id in example_ids
    ]


@dataclass(frozen=True)
class Examples:
    """Where the examples of a micro-batch are; all on the host.

    positions (n,): real tokens as indices into the b * t flattened ones, in order. owners (n,): the example
    of each of them. lengths (k,): real tokens per example. row_length: t.
    """

    positions: Tensor
    owners: Tensor
    lengths: Tensor
    row_length: int

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Views of the rows (n, ...) of each example, in order."""
        return torch.split(rows, self.lengths.tolist())


def locate_examples(attention_mask: Tensor, segment_ids: Tensor | None = None) -> Examples:
    """Find the real tokens of every example of a micro-batch: of every row, or of every segment.

    attention_mask and segment_ids (b, t). Without segment ids a row of padding is an example of length 0.
    """
    real = attention_mask.detach().cpu() != 0
    if segment_ids is None:
        lengths = real.sum(dim=1)
        positions = real.flatten().nonzero().squeeze(1)
    else:
        segments = segment_ids.detach().cpu()
        real = real & (segments != 0)
        positions = real.flatten().nonzero().squeeze(1)
        marks = torch.stack([positions // real.shape[1], segments.flatten()[positions]])
        lengths = torch.unique_consecutive(marks, dim=1, return_counts=True)[1]
    owners = torch.arange(len(lengths)).repeat_interleave(lengths)
    return Examples(positions, owners, lengths, row_length=attention_mask.shape[1])


def _stream_seed(example_id: int | str, seed: int, epoch: int, draw: int, stream: str | None) -> int:
    name = example_id if isinstance(example_id, str) else operator.index(example_id)
    parts = [operator.index(seed), name, operator.index(epoch), operator.index(draw)]
    text = json.dumps(parts if stream is None else [*parts, stream])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _require_fit(
    embeddings: Tensor, attention_mask: Tensor, examples: Examples, generators: Sequence[torch.Generator]
) -> None:
    if embeddings.dim() != 3 or embeddings.shape[:2] != attention_mask.shape:
        raise ValueError(
            f"embeddings must be (b, t, d) and attention_mask (b, t), got {tuple(embeddings.shape)} and "
            f"{tuple(attention_mask.shape)}"
        )
    if len(examples.lengths) != len(generators):
        raise ValueError(
            f"generators: got {len(generators)} for {len(examples.lengths)} examples: give one per row, "
            "or one per segment where segment_ids are given"
        )


def _kept_tokens(examples: Examples, place: NoisePlace, place_mask: Tensor | None) -> Tensor:
    """Which real tokens (n,) may get noise."""
    if place in (NoisePlace.prompt, NoisePlace.response) and place_mask is None:
        raise ValueError(f"noise.place is {place.name}: pass place_mask, nonzero on the {place.name} tokens")
    kept = torch.ones(len(examples.positions), dtype=torch.bool)
    if place is NoisePlace.first:
        kept = examples.owners.diff(prepend=torch.tensor([-1])) != 0
    if place_mask is not None:
        kept = kept & (place_mask.detach().cpu().flatten()[examples.positions] != 0)
    return kept


def _draw_units(
    examples: Examples, width: int, kind: NoiseKind, generators: Sequence[torch.Generator]
) -> Tensor:
    """Unit draws (n, d) in float32 on the generators' device, each example from its own generator."""
    units = torch.empty(len(examples.positions), width, device=generators[0].device)
    for rows, generator in zip(examples.split(units), generators, strict=True):
        if kind is NoiseKind.uniform:
            rows.uniform_(-1, 1, generator=generator)
        elif kind is NoiseKind.gaussian:
            rows.normal_(generator=generator)
        else:
            rows.random_(0, 2, generator=generator).mul_(2).sub_(1)
    return units


def _half_widths(embeddings: Tensor, examples: Examples, config: NoiseConfig, *, progress: float) -> Tensor:
    """What each example's unit draws (k,) are multiplied by."""
    size = config.alpha
    if config.schedule is NoiseSchedule.linear_decay:
        size *= 1 - progress
    if config.scale is NoiseScale.matched and config.kind is not NoiseKind.uniform:
        size /= math.sqrt(3)
    if config.strength is NoiseStrength.proportional:
        return size * _embedding_rms(embeddings, examples)
    lengths = torch.ones(len(examples.lengths), dtype=torch.float64)
    if config.strength is NoiseStrength.alpha:
        lengths = _noise_lengths(examples, config.length) * embeddings.shape[-1]
    return size / lengths.sqrt()


def _noise_lengths(examples: Examples, length: NoiseLength) -> Tensor:
    """L (k,) of ``alpha / sqrt(L d)``."""
    lengths = examples.lengths.to(torch.float64)
    if length is NoiseLength.sample:
        return lengths
    if length is NoiseLength.padded:
        return torch.full_like(lengths, examples.row_length)
    if length is NoiseLength.packed_row:
        return lengths.sum().expand_as(lengths)
    return torch.ones_like(lengths)


def _embedding_rms(embeddings: Tensor, examples: Examples) -> Tensor:
    """Root mean square (k,) over tokens and coordinates of each example's embeddings."""
    rows = embeddings.detach().flatten(0, 1)[examples.positions.to(embeddings.device, non_blocking=True)]
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return torch.stack([part.square().mean().sqrt() for part in examples.split(rows)])
