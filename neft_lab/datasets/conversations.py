"""Rows to conversations: Alpaca, ShareGPT and chat-messages form, told from a row's columns and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neft_lab.config import Cleaning, DatasetConfig, EmptyTexts, UserError, nearest
from neft_lab.datasets.rows import data_files, read_rows
from neft_lab.datasets.sharegpt import Cleaner
from neft_lab.prompts import Turn
from neft_lab.sources import Source

QUESTIONERS, ANSWERERS = ("human", "user"), ("gpt", "assistant")
PAGE = '<div class="markdown'
"""Markup of the web page that raw ShareGPT conversations were taken from."""


class Malformed(Exception):
    """What is wrong with one row."""


@dataclass(frozen=True)
class Conversation:
    """One row: its file, its number there (from 1), and its questions with their answers."""

    file: str
    number: int
    turns: tuple[Turn, ...]


@dataclass
class ConversationSet:
    """All conversations of an instruction set, in the files' order."""

    conversations: list[Conversation] = field(default_factory=list)
    rows_read: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    """Rows that cleaning left out, by reason."""


def load_conversations(
    source: Source, *, split: str, format: str, max_rows: int | None
) -> tuple[tuple[Turn, ...], ...]:
    """The turns of all conversations of an instruction set. Raises UserError naming the row that is wrong."""
    paths = data_files(source, split=split)
    found = _read(paths, format=format, max_rows=max_rows, keep_empty=False, cleaner=None)
    return tuple(conversation.turns for conversation in found.conversations)


def read_conversations(paths: Sequence[Path], dataset: DatasetConfig) -> ConversationSet:
    """Conversations as a configuration asks for them. Raises UserError naming the row that is wrong."""
    return _read(
        paths,
        format=dataset.format,
        max_rows=dataset.max_rows,
        keep_empty=dataset.empty_texts is EmptyTexts.keep,
        cleaner=Cleaner() if dataset.cleaning is Cleaning.fastchat else None,
    )


def _read(
    paths: Sequence[Path], *, format: str, max_rows: int | None, keep_empty: bool, cleaner: Cleaner | None
) -> ConversationSet:
    found = ConversationSet()
    for path in paths:
        rest = None if max_rows is None else max_rows - found.rows_read
        if rest == 0:
            break
        for number, row in read_rows(path, rest):
            found.rows_read += 1
            try:
                turns = conversation(row, format, keep_empty=keep_empty)
                reason = cleaner.reason(row.get("id"), turns) if cleaner else None
            except Malformed as error:
                if cleaner is None:
                    raise UserError(f"{path.name} row {number} {error}") from None
                reason = "malformed"
            if reason is None:
                found.conversations.append(Conversation(path.name, number, turns))
            else:
                found.left_out[reason] = found.left_out.get(reason, 0) + 1
    return found


def conversation(row: Mapping[str, Any], format: str, *, keep_empty: bool = False) -> tuple[Turn, ...]:
    """The turns of one row. Raises Malformed."""
    kind = _detect(row) if format == "auto" else format
    if kind == "alpaca":
        return (_alpaca(row, keep_empty),)
    told = [
        _speaker(item, keep_empty) for item in _items(row, "conversations" if kind == "sharegpt" else kind)
    ]
    return _pair([(who, text) for who, text in told if who != "system"])


def _detect(row: Mapping[str, Any]) -> str:
    for name, kind in (("conversations", "sharegpt"), ("messages", "messages"), ("instruction", "alpaca")):
        if name in row:
            return kind
    raise Malformed(
        f"has none of instruction, conversations, messages; got {', '.join(map(str, row)) or 'nothing'}"
    )


def _alpaca(row: Mapping[str, Any], keep_empty: bool) -> Turn:
    dolly = "response" in row and "output" not in row
    given, answer = ("context", "response") if dolly else ("input", "output")
    input = "" if row.get(given) is None else read_text(row, given, keep_empty=True)
    return Turn(read_text(row, "instruction", keep_empty), read_text(row, answer, keep_empty), input=input)


def _items(row: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    value = row.get(name)
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise Malformed(f"must have a list of turns '{name}'")
    return value


def _speaker(item: Mapping[str, Any], keep_empty: bool) -> tuple[str, str]:
    who, name = ("from", "value") if "from" in item else ("role", "content")
    role = item.get(who)
    known = (*QUESTIONERS, *ANSWERERS, "system")
    if role not in known:
        raise Malformed(f"has a turn with '{who}' {role!r}; {nearest(str(role), known)}")
    text = read_text(item, name, keep_empty or role == "system")
    if PAGE in text:
        raise Malformed(
            f"holds the page's HTML ({PAGE} ...); convert it with FastChat's clean_sharegpt, or leave such rows "
            "out with dataset.cleaning=fastchat"
        )
    return str(role), text


def _pair(told: list[tuple[str, str]]) -> tuple[Turn, ...]:
    """Questions with their answers; an answer before the first question and an unanswered last one fall away."""
    if told and told[0][0] in ANSWERERS:
        told = told[1:]
    if told and told[-1][0] in QUESTIONERS:
        told = told[:-1]
    for place, (who, _) in enumerate(told):
        if who not in (ANSWERERS if place % 2 else QUESTIONERS):
            raise Malformed(f"must alternate between question and answer, but has {who} as turn {place + 1}")
    if not told:
        raise Malformed("holds no question with an answer")
    return tuple(Turn(text, reply) for (_, text), (_, reply) in zip(told[::2], told[1::2], strict=True))


def read_text(row: Mapping[str, Any], name: str, keep_empty: bool = False) -> str:
    """A field that must be a text, and not empty unless that is allowed. Raises Malformed."""
    value = row.get(name)
    if not isinstance(value, str) or not (keep_empty or value.strip()):
        raise Malformed(f"must have a non-empty text '{name}', got {value!r}"[:200])
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise Malformed(
                f"has half a character (a lone surrogate) in '{name}' at {error.start + 1}"
            ) from None
    return value
