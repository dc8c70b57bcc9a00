"""An instruction set made ready for one training: read, cleaned, tokenised once, and narrowed as asked."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from neft_lab.config import DatasetConfig, LeakedRows, Responses, UserError, plain
from neft_lab.datasets.cache import Entry, load_or_build
from neft_lab.datasets.conversations import Conversation, read_conversations
from neft_lab.datasets.examples import Example, Examples, TokenArrays, encode, tokenize_flat
from neft_lab.datasets.instructions import asked, fingerprint, fingerprints, is_leaked, refuse_leaked
from neft_lab.datasets.rows import data_files
from neft_lab.datasets.sharegpt import OVERHEAD, split_conversation
from neft_lab.datasets.tokenizers import tokenizer_digest
from neft_lab.prompts import Turn
from neft_lab.sources import Source, file_digest
from neft_lab.store import canonical_json

FORM = 1
"""Raised when the same inputs are tokenised otherwise, so that no older entry is found."""
DECIDING = (
    "format",
    "template",
    "response_prefix",
    "max_rows",
    "cleaning",
    "empty_texts",
    "split_long",
    "responses",
)
"""Fields of a configuration that decide the tokens; what narrows the examples afterwards is not among them."""
SEED = 0
"""Of the order in which responses are shuffled: part of the data set, the same in every run."""


@dataclass(frozen=True)
class Prepared:
    """Examples ready for training, and what became of the rows they were made from."""

    examples: Sequence[Example]
    lengths: list[int]
    """Tokens of each example."""
    learned_tokens: int
    truncated: int
    """Examples that lost their end token to the length."""
    rows_read: int
    rows_left_out: dict[str, int]
    """Rows that ``dataset.cleaning`` or ``dataset.leaked_rows=drop`` left out, by reason."""
    exchanges_lost: int
    """Questions with their answers that splitting left out."""
    rows_without_response: int
    """Examples left out because the prompt alone fills the length."""
    rows_incomplete: int
    """Examples that ``dataset.complete_only`` left out."""
    response_characters: float
    """Mean length of a response before any cut, over the rows that were read and not left out."""
    published_rows: int | None
    published_characters: float | None

    @property
    def facts(self) -> dict[str, Any]:
        """What a record keeps: all but the examples themselves."""
        kept = [item.name for item in fields(self) if item.name not in ("examples", "lengths")]
        return {"rows": len(self.examples)} | {name: getattr(self, name) for name in kept}


def prepare_examples(
    source: Source, dataset: DatasetConfig, tokenizer: Any, *, max_length: int, evaluation: Sequence[str] = ()
) -> Prepared:
    """Tokenise an instruction set, or find it tokenised, and leave out what the configuration leaves out.

    ``evaluation``: instructions that no row may ask (``dataset.leaked_rows``). Raises UserError naming file and
    row of what is malformed or leaked, and where nothing is left to train on.
    """
    files = data_files(source, split=dataset.split, files=dataset.files)
    known = fingerprints(evaluation)
    dropped = known if dataset.leaked_rows is LeakedRows.drop else frozenset[int]()

    def build() -> Entry:
        return _build(files, dataset, tokenizer, max_length=max_length, dropped=dropped)

    content = tokenizer_digest(tokenizer)
    if content is None:
        entry = build()
    else:
        deciding = {name: plain(getattr(dataset, name)) for name in DECIDING}
        told = [FORM, content, [file_digest(path) for path in files], deciding, max_length, sorted(dropped)]
        entry = load_or_build(hashlib.sha256(canonical_json(told).encode()).hexdigest()[:32], build)
    if dataset.leaked_rows is LeakedRows.refuse and not known.isdisjoint(entry.arrays["asked"].tolist()):
        refuse_leaked(read_conversations(files, dataset).conversations, known)
    return _narrow(entry, dataset, max_length)


def _build(
    files: Sequence[Path],
    dataset: DatasetConfig,
    tokenizer: Any,
    *,
    max_length: int,
    dropped: Collection[int],
) -> Entry:
    read = read_conversations(files, dataset)
    kept = [row for row in read.conversations if not is_leaked(row, dropped)]
    left_out = dict(read.left_out)
    if len(kept) < len(read.conversations):
        left_out["leaked"] = len(read.conversations) - len(kept)
    rows = [row.turns for row in kept]
    before = _exchanges(rows)
    characters = sum(len(turn.response) for turns in rows for turn in turns)
    if dataset.split_long:
        rows = _split(rows, tokenizer, max_length)
    facts = {
        "rows_read": read.rows_read,
        "rows_left_out": left_out,
        "exchanges_lost": before - _exchanges(rows),
        "response_characters": characters / max(before, 1),
    }
    if dataset.responses is Responses.shuffled:
        rows = shuffle_responses(rows, seed=SEED)
    tokens = tokenize_flat(
        rows,
        tokenizer,
        template=dataset.template,
        max_length=max_length,
        response_prefix=dataset.response_prefix,
    )
    return Entry(_arrays(kept, rows, tokens), facts)


def _exchanges(rows: Sequence[Sequence[Turn]]) -> int:
    return sum(map(len, rows))


def _split(rows: Sequence[tuple[Turn, ...]], tokenizer: Any, max_length: int) -> list[tuple[Turn, ...]]:
    texts = [text for turns in rows for turn in turns for text in (asked(turn), turn.response)]
    counts = iter([len(ids) + OVERHEAD for ids in encode(texts, tokenizer)])
    pieces: list[tuple[Turn, ...]] = []
    for turns in rows:
        lengths = [next(counts) + next(counts) for _ in turns]
        pieces += split_conversation(turns, lengths, max_length=max_length)
    return pieces


def shuffle_responses(rows: Sequence[tuple[Turn, ...]], *, seed: int) -> list[tuple[Turn, ...]]:
    """Every question with the response of another row, each response used once.

    Rows in random order, end to end; each question takes the response as many places on as the longest row has.
    Raises UserError where the longest row is more than half of all.
    """
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    places = [(row, turn) for row in order for turn in range(len(rows[row]))]
    shift = max(map(len, rows), default=0)
    if len(places) < 2 * shift:
        raise UserError(
            f"dataset.responses=shuffled needs more rows: the longest of {len(rows)} is more than half of all"
        )
    responses = [rows[row][turn].response for row, turn in places]
    taken = dict(zip(places, responses[shift:] + responses[:shift], strict=True))
    return [
        tuple(replace(turn, response=taken[number, place]) for place, turn in enumerate(turns))
        for number, turns in enumerate(rows)
    ]


def _arrays(
    kept: Sequence[Conversation], rows: Sequence[Sequence[Turn]], tokens: TokenArrays
) -> dict[str, NDArray[Any]]:
    questions = {fingerprint(asked(turn)) for row in kept for turn in row.turns}
    return {
        "tokens": tokens.tokens,
        "flags": tokens.flags,
        "ends": tokens.ends,
        "truncated": tokens.truncated,
        "characters": numpy.array([sum(len(turn.response) for turn in turns) for turns in rows], numpy.int64),
        "asked": numpy.array(sorted(questions), numpy.uint64),
    }


def _narrow(entry: Entry, dataset: DatasetConfig, max_length: int) -> Prepared:
    arrays = TokenArrays(*(entry.arrays[name] for name in ("tokens", "flags", "ends", "truncated")))
    learned = arrays.learned_tokens
    wanted = learned > 0
    without = int((~wanted).sum())
    cut = wanted & arrays.truncated
    if dataset.complete_only:
        wanted &= ~cut
    chosen = numpy.flatnonzero(wanted)
    _require_rows(len(chosen), dataset, max_length)
    if dataset.longest is not None:
        order = numpy.argsort(-entry.arrays["characters"][chosen], kind="stable")
        chosen = numpy.sort(chosen[order[: dataset.longest]])
    return Prepared(
        examples=Examples(arrays, chosen.tolist()),
        lengths=arrays.lengths[chosen].tolist(),
        learned_tokens=int(learned[chosen].sum()),
        truncated=int(cut[chosen].sum()),
        rows_without_response=without,
        rows_incomplete=int(cut.sum()) if dataset.complete_only else 0,
        published_rows=dataset.published_rows,
        published_characters=dataset.published_characters,
        **entry.facts,
    )


def _require_rows(count: int, dataset: DatasetConfig, max_length: int) -> None:
    if not count:
        what = "is whole" if dataset.complete_only else "keeps a response"
        raise UserError(
            f"dataset {dataset.name}: no row {what} within finetune.max_length={max_length} tokens; raise it"
        )
    if dataset.longest is not None and dataset.longest > count:
        raise UserError(
            f"dataset.longest must be at most the {count} rows that are left, got {dataset.longest}"
        )
