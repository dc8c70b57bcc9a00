"""The rows of a training as torch reads them: whole optimizer steps, in an order that seed and epoch decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from neft_lab.datasets import Example


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


def collate_step(examples: list[Example]) -> dict[str, list[Example]]:
    """A batch of Trainer is the examples of an optimizer step; they are laid out in micro-batches later."""
    return {"examples": examples}
