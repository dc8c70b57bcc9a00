"""Requests as a prefix tree: which tokens are computed once, and for whom. No torch.

A cluster is a stem, computed once and kept as keys and values, and rows that go on from it. A row is a small
tree of tokens, computed in one pass under a mask by which a token sees its own ancestors only. A task's common
prefix is a stem with many rows; a question with its choices is a stem with one row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

MAX_TAIL = 256
"""Tokens beyond the shared part that one row may hold. Each sees only its own branch, so a long row computes
attention that is thrown away."""

WORTH_ROW, WORTH_STEM = 1 / 8, 1 / 4
"""The part of a sequence that must be shared for it to join a row, and a row to join a stem: below it the
second pass costs more than it saves."""


@dataclass(frozen=True)
class Request:
    """One continuation to score: the tokens the model sees, and the tokens its last positions must predict."""

    tokens: Ints
    targets: Ints


@dataclass(frozen=True)
class Scored:
    """Positions whose prediction is asked for, the target of each, and the request it belongs to."""

    positions: Ints
    targets: Ints
    requests: Ints


@dataclass(frozen=True)
class Run:
    """A chain of new tokens in a row: where it starts, the token it follows (-1: the stem's last), its length."""

    start: int
    parent: int
    length: int


@dataclass(frozen=True)
class Row:
    """A tree of tokens beyond a stem, flattened depth first. ``depths``: true positions in the sequence."""

    tokens: Ints
    depths: Ints
    runs: Sequence[Run]
    scored: Scored


@dataclass(frozen=True)
class Cluster:
    """A stem with the rows that go on from it."""

    stem: Ints
    scored: Scored
    rows: Sequence[Row]

    @property
    def computed(self) -> int:
        """Tokens that pass through the model."""
        return len(self.stem) + sum(len(row.tokens) for row in self.rows)


@dataclass(frozen=True)
class _Sorted:
    """Distinct token sequences in order, how much each shares with the one before, and who asks for each."""

    sequences: Sequence[Ints]
    shared: Sequence[int]
    askers: Sequence[Sequence[int]]


@dataclass(frozen=True)
class _Span:
    """Sequences first to last-1, which share ``depth`` tokens and hold ``tail`` distinct ones beyond."""

    first: int
    last: int
    depth: int
    tail: int


def plan_clusters(requests: Sequence[Request]) -> list[Cluster]:
    """Arrange requests as clusters; every request is scored in exactly one of them."""
    ordered = _sort(requests)
    return [_build(ordered, spans, requests) for spans in _stems(ordered, _rows(ordered))]


def _sort(requests: Sequence[Request]) -> _Sorted:
    askers: dict[bytes, list[int]] = {}
    for number, request in enumerate(requests):
        askers.setdefault(request.tokens.astype(">u4").tobytes(), []).append(number)  # sorts as the tokens do
    keys = sorted(askers)
    sequences = [requests[askers[key][0]].tokens for key in keys]
    shared = [0, *(_common(before, after) for before, after in pairwise(sequences))]
    return _Sorted(sequences, shared, [askers[key] for key in keys])


def _common(one: Ints, other: Ints) -> int:
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length


def _rows(ordered: _Sorted) -> list[_Span]:
    """Neighbours that differ little, put together: the choices of a question."""
    spans: list[_Span] = []
    for number, sequence in enumerate(ordered.sequences):
        length = len(sequence)
        if spans:
            row = spans[-1]
            depth = min(row.depth, ordered.shared[number])
            tail = row.tail + row.depth - depth + length - ordered.shared[number]
            if depth >= WORTH_ROW * length and depth > 0 and tail <= MAX_TAIL:
                spans[-1] = _Span(row.first, number + 1, depth, tail)
                continue
        spans.append(_Span(number, number + 1, length, 0))
    return spans


def _stems(ordered: _Sorted, rows: Sequence[_Span]) -> Iterator[list[_Span]]:
    """Neighbouring rows with a long common prefix, put together: the questions of a task."""
    together: list[_Span] = []
    depth = 0
    for row in rows:
        common = min(depth, ordered.shared[row.first], row.depth)
        lost = (depth - common) * len(together)
        if together and common > lost and common >= WORTH_STEM * (row.depth + row.tail):
            depth = common
            together.append(row)
            continue
        if together:
            yield together
        together, depth = [row], row.depth
    if together:
        yield together


def _build(ordered: _Sorted, spans: Sequence[_Span], requests: Sequence[Request]) -> Cluster:
    depth = min(span.depth for span in spans)
    if len(spans) > 1:
        depth = min(depth, *(ordered.shared[span.first] for span in spans[1:]))
    stem: list[tuple[int, int, int]] = []
    rows = [_build_row(ordered, span, depth, requests, stem) for span in spans]
    return Cluster(
        ordered.sequences[spans[0].first][:depth], _scored(stem), [row for row in rows if len(row.tokens)]
    )


def _build_row(
    ordered: _Sorted, span: _Span, depth: int, requests: Sequence[Request], stem: list[tuple[int, int, int]]
) -> Row:
    """Flatten the sequences of a span beyond ``depth``; what is scored before that goes to ``stem``."""
    members = ordered.sequences[span.first : span.last]
    path = np.full(
        max(map(len, members)) + 1, -1, dtype=np.int64
    )  # where the token at each depth lies in the row
    pieces, depths, runs, scored = [], [], list[Run](), list[tuple[int, int, int]]()
    size = 0
    for number, sequence in enumerate(members, span.first):
        begin = depth if number == span.first else max(depth, ordered.shared[number])
        fresh = len(sequence) - begin
        if fresh:
            runs.append(Run(size, int(path[begin - 1]) if begin > depth else -1, fresh))
            path[begin : len(sequence)] = np.arange(size, size + fresh)
            pieces.append(sequence[begin:])
            depths.append(np.arange(begin, len(sequence)))
            size += fresh
        for asker in ordered.askers[number]:
            targets = requests[asker].targets
            for place, target in zip(
                range(len(sequence) - len(targets), len(sequence)), targets.tolist(), strict=True
            ):
                (stem if place < depth else scored).append(
                    (place if place < depth else int(path[place]), target, asker)
                )
    return Row(_join(pieces), _join(depths), runs, _scored(scored))


def _join(pieces: Sequence[Ints]) -> Ints:
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)


def _scored(triples: Sequence[tuple[int, int, int]]) -> Scored:
    table = np.array(triples, dtype=np.int64).reshape(-1, 3)
    return Scored(table[:, 0], table[:, 1], table[:, 2])
