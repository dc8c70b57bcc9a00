"""Texts to token ids, with what carries loss and what the row itself gave; kept flat, one array for all examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy
from numpy.typing import NDArray

from neft_lab.config import UserError
from neft_lab.prompts import CHATML_END, Segment, Turn, render_training

IGNORED = -100
"""Label of a token without loss."""

LEARNED, GIVEN = 1, 2
CHUNK = 512
"""Examples whose texts go to the tokenizer together."""


@dataclass(frozen=True)
class Example:
    """One tokenised training example; ``labels`` are IGNORED outside the responses."""

    id: int
    """The example's place before any was left out: which others are trained on does not change it."""
    input_ids: list[int]
    labels: list[int]
    truncated: bool
    """Whether it was cut on the right, and so lost its end token."""
    prompt_text_mask: list[int]
    """1 on tokens of the row's own instruction and input, 0 on the template and the responses."""

    @property
    def learned(self) -> bool:
        """Whether any token carries loss: a prompt that fills the length leaves none."""
        return any(label != IGNORED for label in self.labels)

    @property
    def prompt_mask(self) -> list[int]:
        return [int(label == IGNORED) for label in self.labels]


@dataclass(frozen=True)
class TokenArrays:
    """The tokens of many examples, end to end: 5 bytes a token where lists take 60."""

    tokens: NDArray[numpy.int32]
    flags: NDArray[numpy.uint8]
    """LEARNED and GIVEN of each token."""
    ends: NDArray[numpy.int64]
    """Where each example ends."""
    truncated: NDArray[numpy.bool_]

    @property
    def lengths(self) -> NDArray[numpy.int64]:
        return numpy.diff(self.ends, prepend=0)

    @property
    def learned_tokens(self) -> NDArray[numpy.int64]:
        """How many tokens of each example carry loss."""
        seen = numpy.concatenate(([0], numpy.cumsum(self.flags & LEARNED, dtype=numpy.int64)))
        return numpy.diff(seen[self.ends], prepend=0)

    def example(self, number: int) -> Example:
        place = slice(int(self.ends[number - 1]) if number else 0, int(self.ends[number]))
        tokens, flags = self.tokens[place], self.flags[place]
        labels = numpy.where(flags & LEARNED, tokens, IGNORED)
        given = (flags & GIVEN) // GIVEN
        return Example(number, tokens.tolist(), labels.tolist(), bool(self.truncated[number]), given.tolist())


class Examples(Sequence[Example]):
    """Examples by their places in ``arrays``, each made when it is asked for."""

    def __init__(self, arrays: TokenArrays, kept: Sequence[int]) -> None:
        self._arrays, self._kept = arrays, kept

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Example]: ...
    def __getitem__(self, place: int | slice) -> Example | Sequence[Example]:
        if isinstance(place, slice):
            return Examples(self._arrays, self._kept[place])
        return self._arrays.example(self._kept[place])


def tokenize(
    conversations: Sequence[Sequence[Turn]],
    tokenizer: Any,
    *,
    template: str,
    max_length: int,
    response_prefix: str = "",
) -> list[Example]:
    """Token ids and labels of every conversation, cut on the right at ``max_length`` tokens.

    A stretch begins where the tokens of the text before it end when tokenised alone, BOS counted, as in the
    paper's code (github neelsjain/NEFTune, experiment_code/dataset.py): a token that reaches over the border
    belongs to what stands before it.
    """
    arrays = tokenize_flat(
        conversations, tokenizer, template=template, max_length=max_length, response_prefix=response_prefix
    )
    return [arrays.example(number) for number in range(len(conversations))]


def tokenize_flat(
    conversations: Sequence[Sequence[Turn]],
    tokenizer: Any,
    *,
    template: str,
    max_length: int,
    response_prefix: str = "",
) -> TokenArrays:
    """The same as arrays. Raises UserError for a tokenizer that has no end token or adds it by itself."""
    eos = end_token(tokenizer, template)
    pieces: list[_Tokenized] = []
    for start in range(0, len(conversations), CHUNK):
        rendered = [
            render_training(template, turns, eos, prefix=response_prefix)
            for turns in conversations[start : start + CHUNK]
        ]
        pieces += _tokenize_chunk(rendered, tokenizer, max_length)
    count = numpy.fromiter((len(piece.tokens) for piece in pieces), dtype=numpy.int64, count=len(pieces))
    return TokenArrays(
        numpy.concatenate([numpy.zeros(0, numpy.int32), *(piece.tokens for piece in pieces)]),
        numpy.concatenate([numpy.zeros(0, numpy.uint8), *(piece.flags for piece in pieces)]),
        numpy.cumsum(count),
        numpy.array([piece.truncated for piece in pieces], dtype=bool),
    )


def end_token(tokenizer: Any, template: str) -> str:
    """The text of a tokenizer's end token. Raises UserError where it cannot end the responses of a template."""
    eos = tokenizer.eos_token
    if not eos:
        raise UserError("the tokenizer has no end token; set eos_token in its tokenizer_config.json")
    nothing, letter, end, mark = encode(["", "a", eos, CHATML_END], tokenizer)
    if letter[-1] == end[-1]:
        raise UserError("the tokenizer adds its end token itself; set add_eos_token to false in its config")
    if template == "chatml" and len(mark) > len(nothing) + 1:
        raise UserError(
            f"template 'chatml' needs a tokenizer that knows {CHATML_END}; use dataset.template=alpaca"
        )
    return str(eos)


def encode(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(list(texts))["input_ids"]
    return ids


@dataclass(frozen=True)
class _Tokenized:
    tokens: NDArray[numpy.int32]
    flags: NDArray[numpy.uint8]
    truncated: bool


def _tokenize_chunk(
    rows: Sequence[Sequence[Segment]], tokenizer: Any, max_length: int
) -> Iterator[_Tokenized]:
    wholes = encode(["".join(segment.text for segment in row) for row in rows], tokenizer)
    for row, ids, bounds in zip(rows, wholes, _bounds(rows, tokenizer, max_length), strict=True):
        flags = numpy.zeros(len(ids), numpy.uint8)
        for segment, start, end in zip(row, bounds, [*bounds[1:], len(ids)], strict=False):
            flags[start:end] = LEARNED * segment.learned + GIVEN * segment.given
        tokens = numpy.array(ids[:max_length], numpy.int32)
        yield _Tokenized(tokens, flags[:max_length], truncated=len(ids) > max_length)


def _bounds(rows: Sequence[Sequence[Segment]], tokenizer: Any, max_length: int) -> list[list[int]]:
    """Where each segment of each row begins, in tokens, as far as ``max_length`` reaches."""
    bounds: list[list[int]] = [[0] for _ in rows]
    texts = ["" for _ in rows]
    for place in range(max(map(len, rows), default=1) - 1):
        open_rows = [
            number
            for number, row in enumerate(rows)
            if place < len(row) - 1 and bounds[number][-1] < max_length
        ]
        for number in open_rows:
            texts[number] += rows[number][place].text
        distinct = list(dict.fromkeys(texts[number] for number in open_rows))
        counts = dict(zip(distinct, map(len, encode(distinct, tokenizer)), strict=True)) if distinct else {}
        for number in open_rows:
            bounds[number].append(counts[texts[number]])
    return bounds
