"""Micro-batches: which examples go through the model together, and how they lie in its rows.

An optimizer step is a number of examples. Packed, they lie side by side in rows without padding, within a token
budget; padded, a fixed number of them lies below one another. Loss, gradient and noise are the same.

Shapes: ``b`` rows, ``t`` tokens of a row, ``n`` weighted targets of the micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neft_lab.config import NoisePlace
from neft_lab.datasets import Example

Weigh = Callable[[Example], Sequence[float]]
"""Loss weight of every token of an example as a target."""


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass takes; every tensor is on the host.

    input_ids, attention_mask, prompt_mask (b, t); position_ids and segment_ids (b, t) where rows are packed.
    columns (c,): the columns whose logits are needed. picked (n,): which of the b * c logits predict a target.
    targets (n,) and weights (n,): the tokens predicted, and how much each counts.
    example_ids: one per row, or per segment where rows are packed. lengths: tokens of each of them.
    """

    input_ids: Tensor
    attention_mask: Tensor
    prompt_mask: Tensor
    columns: Tensor
    picked: Tensor
    targets: Tensor
    weights: Tensor
    example_ids: list[int]
    lengths: tuple[int, ...]
    position_ids: Tensor | None = None
    segment_ids: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Real tokens."""
        return sum(self.lengths)

    @property
    def segment_lengths(self) -> tuple[int, ...]:
        """Tokens of the segments of every row; rows of a packed micro-batch are copies of one another."""
        return self.lengths[: len(self.lengths) // len(self.input_ids)]

    def place_mask(self, place: NoisePlace) -> Tensor | None:
        """Where noise may fall (b, t); None is on every real token."""
        if place is NoisePlace.prompt:
            return self.prompt_mask * self.attention_mask
        if place is NoisePlace.response:
            return (1 - self.prompt_mask) * self.attention_mask
        return None


def plan_packed(lengths: Sequence[int], *, token_budget: int, processes: int = 1) -> list[list[list[int]]]:
    """Which of a step's examples go together: per process its micro-batches, per micro-batch its examples.

    As few micro-batches as the budget allows, filled evenly, the longest examples first; as many for every process,
    so that those beyond the examples stay empty. An example over the budget stands alone.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    count = math.ceil(sum(lengths) / token_budget / processes) * processes
    bins = _fill(order, lengths, count)
    while any(len(held) > 1 and sum(lengths[row] for row in held) > token_budget for held in bins):
        count += processes
        bins = _fill(order, lengths, count)
    return [bins[rank::processes] for rank in range(processes)]


def _fill(order: Sequence[int], lengths: Sequence[int], count: int) -> list[list[int]]:
    """Each example into the bin that holds least."""
    bins: list[list[int]] = [[] for _ in range(count)]
    held = [0] * count
    for row in order:
        least = held.index(min(held))
        bins[least].append(row)
        held[least] += lengths[row]
    return [sorted(rows) for rows in bins]


def plan_padded(count: int, *, micro_batch: int, processes: int = 1) -> list[list[list[int]]]:
    """As ``plan_packed``, with ``micro_batch`` examples each in their order."""
    whole = [list(range(start, min(start + micro_batch, count))) for start in range(0, count, micro_batch)]
    whole += [[]] * (-len(whole) % processes)
    return [whole[rank::processes] for rank in range(processes)]


def pack(examples: Sequence[Example], weigh: Weigh, *, copies: int = 1) -> MicroBatch:
    """All examples side by side in one row, and that row ``copies`` times; positions restart in every segment."""
    lengths = [len(example.input_ids) for example in examples]
    ids = torch.tensor([token for example in examples for token in example.input_ids])
    weights = torch.tensor([weight for example in examples for weight in _shifted(weigh(example))])
    weights = weights.to(torch.float32)
    columns = weights.nonzero().squeeze(1)
    segments = torch.arange(1, len(examples) + 1).repeat_interleave(torch.tensor(lengths))
    prompts = torch.tensor([bit for example in examples for bit in example.prompt_mask])
    rows = ids[None].expand(copies, -1)
    return MicroBatch(
        input_ids=rows,
        attention_mask=torch.ones_like(rows),
        prompt_mask=prompts[None].expand(copies, -1),
        columns=columns,
        picked=torch.arange(len(columns) * copies),
        targets=ids[columns + 1].repeat(copies),
        weights=weights[columns].repeat(copies),
        example_ids=[example.id for example in examples] * copies,
        lengths=tuple(lengths) * copies,
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None].expand(copies, -1),
        segment_ids=segments[None].expand(copies, -1),
    )


def pad(examples: Sequence[Example], weigh: Weigh, *, pad_id: int, copies: int = 1) -> MicroBatch:
    """One example per row, filled up on the right to the longest, and all rows ``copies`` times."""
    examples = list(examples) * copies
    longest = max(len(example.input_ids) for example in examples)

    def fill(rows: Sequence[Sequence[float]], filler: float, dtype: torch.dtype) -> Tensor:
        return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows], dtype=dtype)

    ids = fill([example.input_ids for example in examples], pad_id, torch.long)
    weights = fill([_shifted(weigh(example)) for example in examples], 0.0, torch.float32)
    columns = weights.any(dim=0).nonzero().squeeze(1)
    kept = weights[:, columns]
    picked = kept.flatten().nonzero().squeeze(1)
    following = ids[:, (columns + 1).clamp(max=longest - 1)]
    return MicroBatch(
        input_ids=ids,
        attention_mask=fill([[1] * len(example.input_ids) for example in examples], 0, torch.long),
        prompt_mask=fill([example.prompt_mask for example in examples], 0, torch.long),
        columns=columns,
        picked=picked,
        targets=following.flatten()[picked],
        weights=kept.flatten()[picked],
        example_ids=[example.id for example in examples],
        lengths=tuple(len(example.input_ids) for example in examples),
    )


def _shifted(weights: Sequence[float]) -> list[float]:
    """Weights moved to where the logits stand that predict the tokens: one to the left."""
    return [*weights[1:], 0.0]
