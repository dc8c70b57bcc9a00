"""Clusters put into groups and batches that a token budget holds. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from neft_lab.scoring.tree import Cluster, Row


@dataclass(frozen=True)
class Group:
    """Stems that are computed together, and the batches of rows that go on from them.

    A row comes with the number of its stem within the group. Either every stem has at most one row and all rows
    are one batch, or there is one stem and as many batches as its rows need.
    """

    clusters: Sequence[Cluster]
    batches: Sequence[Sequence[tuple[int, Row]]]

    @property
    def requests(self) -> list[int]:
        """The requests that are answered once this group is computed."""
        scored = [one.scored for one in self.clusters] + [
            row.scored for batch in self.batches for _, row in batch
        ]
        found: list[int] = np.unique(np.concatenate([one.requests for one in scored])).tolist()
        return found


def plan_groups(clusters: Sequence[Cluster], *, token_budget: int, scored_budget: int) -> Iterator[Group]:
    """Put clusters into groups, the longest first, so that what does not fit into memory fails at once.

    ``token_budget``: tokens of one pass, padding included; a single sequence may exceed it.
    ``scored_budget``: positions of one pass whose logits are taken, likewise.
    """
    single = [one for one in clusters if len(one.rows) <= 1]
    sizes = [max(map(len, (one.stem, *(row.tokens for row in one.rows)))) for one in single]
    scored = [
        len(one.scored.positions) + sum(len(row.scored.positions) for row in one.rows) for one in single
    ]
    for members in fill(sizes, scored, token_budget, scored_budget):
        together = [single[member] for member in members]
        rows = [(owner, row) for owner, one in enumerate(together) for row in one.rows]
        yield Group(together, [rows] if rows else [])
    for one in sorted((one for one in clusters if len(one.rows) > 1), key=lambda one: -len(one.stem)):
        # The stem's keys are copied for each row, which costs less than its tokens did, but not nothing.
        sizes = [len(row.tokens) + len(one.stem) // 8 for row in one.rows]
        scored = [len(row.scored.positions) for row in one.rows]
        filled = fill(sizes, scored, token_budget, scored_budget)
        yield Group([one], [[(0, one.rows[member]) for member in members] for members in filled])


def halve(group: Group) -> list[Group]:
    """The same work in two groups or in smaller batches; empty where it cannot be made smaller."""
    if len(group.clusters) > 1:
        middle = len(group.clusters) // 2
        rows = [pair for batch in group.batches for pair in batch]
        first = [(owner, row) for owner, row in rows if owner < middle]
        second = [(owner - middle, row) for owner, row in rows if owner >= middle]
        return [
            Group(group.clusters[:middle], [first] if first else []),
            Group(group.clusters[middle:], [second] if second else []),
        ]
    if max(map(len, group.batches), default=0) < 2:
        return []
    halves = [(batch[: len(batch) // 2], batch[len(batch) // 2 :]) for batch in group.batches]
    return [Group(group.clusters, [half for pair in halves for half in pair if half])]


def fill(
    sizes: Sequence[int], scored: Sequence[int], token_budget: int, scored_budget: int
) -> Iterator[list[int]]:
    """Batches of items by falling size, as many as the budgets hold, at least one."""
    batch: list[int] = []
    wanted = 0
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        full = batch and (len(batch) + 1) * sizes[batch[0]] > token_budget
        if full or (batch and wanted + scored[number] > scored_budget):
            yield batch
            batch, wanted = [], 0
        batch.append(number)
        wanted += scored[number]
    if batch:
        yield batch
