"""Instruction sets: files and hub repositories to conversations, conversations to token ids and labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from neft_lab.config import UserError
from neft_lab.hub import fetch_snapshot
from neft_lab.prompts import Turn, render_training
from neft_lab.sources import Source

IGNORED = -100
"""Label of a token without loss."""

DATA_SUFFIXES = (".json", ".jsonl", ".parquet", ".csv")


@dataclass(frozen=True)
class Instruction:
    """One evaluation instruction, with its reference answer where there is one."""

    instruction: str
    reference: str | None
    dataset: str
    generator: str | None = None


@dataclass(frozen=True)
class Example:
    """One tokenised training example; ``labels`` are IGNORED outside the responses."""

    id: int
    input_ids: list[int]
    labels: list[int]
    truncated: bool

    @property
    def learned(self) -> bool:
        """Whether any token carries loss: a prompt that fills the length leaves none."""
        return any(label != IGNORED for label in self.labels)

    @property
    def prompt_mask(self) -> list[int]:
        return [int(label == IGNORED) for label in self.labels]


@lru_cache(maxsize=4)
def load_conversations(
    source: Source, *, split: str, format: str, max_rows: int | None
) -> tuple[tuple[Turn, ...], ...]:
    """All conversations of an instruction set, in file order. Raises UserError naming the row that is wrong."""
    path = _hub_file(source, split) if source.kind == "hub" else Path(source.location)
    return tuple(
        _conversation(row, format, f"{path.name} row {number}") for number, row in read_rows(path, max_rows)
    )


def load_instructions(source: Source) -> list[Instruction]:
    """Evaluation instructions (and references) in file order. Raises UserError naming the row that is wrong."""
    if source.kind == "hub":
        path = fetch_snapshot(source.location, "dataset", source.revision, patterns=["alpaca_eval.json"])
        return _instructions(path / "alpaca_eval.json")
    return _instructions(Path(source.location))


def _instructions(path: Path) -> list[Instruction]:
    found: dict[str, Instruction] = {}
    for number, row in read_rows(path):
        where = f"{path.name} row {number}"
        text = _text(row, "instruction", where)
        if row.get("input"):
            text = f"{text}\n\n{row['input']}"
        if text in found:
            raise UserError(
                f"{where} repeats the instruction of an earlier row; verdicts are paired by instruction"
            )
        output = row.get("output")
        dataset = str(row.get("dataset") or row.get("category") or path.stem)
        found[text] = Instruction(
            text, output if isinstance(output, str) else None, dataset, row.get("generator")
        )
    return list(found.values())


def _hub_file(source: Source, split: str) -> Path:
    folder = fetch_snapshot(source.location, "dataset", source.revision)
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in DATA_SUFFIXES]
    named = [path for path in files if split in path.stem] or files
    if not named:
        raise UserError(
            f"dataset '{source.location}' holds no {', '.join(DATA_SUFFIXES)} file; use dataset=local"
        )
    return named[0]


def read_rows(path: Path, limit: int | None = None) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows of a data file with their numbers, from 1. Raises UserError for what cannot be read."""
    try:
        rows = READERS[path.suffix](path)
    except KeyError:
        raise UserError(f"'{path}' must end in {', '.join(DATA_SUFFIXES)}") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"'{path}' is not valid JSON at line {error.lineno}: {error.msg}; mend or replace it"
        ) from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read: {str(error).splitlines()[0]}") from None
    if not rows:
        raise UserError(f"'{path}' holds no rows; it needs at least one")
    for number, row in enumerate(rows[:limit], start=1):
        if not isinstance(row, Mapping):
            raise UserError(
                f"{path.name} row {number} must be an object with named fields, got {type(row).__name__}"
            )
        yield number, row


def _read_json(path: Path) -> list[Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, list):
        raise ValueError(f"the top level must be a list of rows, got {type(value).__name__}")
    return value


def _read_jsonl(path: Path) -> list[Any]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"row {number} is not valid JSON ({error.msg})") from None
    return rows


def _read_csv(path: Path) -> list[Any]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _read_parquet(path: Path) -> list[Any]:
    import pyarrow.parquet

    rows: list[Any] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


READERS = {".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}


def _conversation(row: Mapping[str, Any], format: str, where: str) -> tuple[Turn, ...]:
    kind = _detect(row, where) if format == "auto" else format
    if kind == "alpaca":
        names = ("context", "response") if "response" in row and "output" not in row else ("input", "output")
        input = row.get(names[0])
        return (Turn(_text(row, "instruction", where), _text(row, names[1], where), input=input or ""),)
    if kind == "sharegpt":
        speakers = [(item.get("from"), item.get("value")) for item in _list(row, "conversations", where)]
    else:
        speakers = [(item.get("role"), item.get("content")) for item in _list(row, "messages", where)]
    return _pair(speakers, where)


def _detect(row: Mapping[str, Any], where: str) -> str:
    for name, kind in (("conversations", "sharegpt"), ("messages", "messages"), ("instruction", "alpaca")):
        if name in row:
            return kind
    raise UserError(
        f"{where} has none of instruction, conversations, messages; got {', '.join(map(str, row)) or 'nothing'}"
    )


def _pair(speakers: Sequence[tuple[Any, Any]], where: str) -> tuple[Turn, ...]:
    if any(not isinstance(text, str) for _, text in speakers):
        raise UserError(f"{where} has a turn without text")
    told = [(who, text) for who, text in speakers if who != "system"]
    while told and told[0][0] not in ("human", "user"):
        told = told[1:]
    turns = []
    for (who, text), (then, reply) in zip(told[::2], told[1::2], strict=False):
        if who not in ("human", "user") or then not in ("gpt", "assistant"):
            raise UserError(
                f"{where} must alternate between human and gpt (or user and assistant), got {who}, {then}"
            )
        turns.append(Turn(text, reply))
    if not turns:
        raise UserError(f"{where} holds no question with an answer")
    return tuple(turns)


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where} must have a non-empty text '{name}', got {value!r}")
    return value


def _list(row: Mapping[str, Any], name: str, where: str) -> list[Mapping[str, Any]]:
    value = row.get(name)
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise UserError(f"{where} must have a list of turns '{name}'")
    return value


def tokenize(
    conversations: Sequence[Sequence[Turn]], tokenizer: Any, *, template: str, max_length: int
) -> list[Example]:
    """Token ids and labels of every conversation, cut on the right at ``max_length`` tokens.

    A learned stretch begins where the tokens of the text before it end when tokenised alone, BOS counted, as in
    the paper's code (github neelsjain/NEFTune, experiment_code/dataset.py).
    """
    return [
        _tokenize_one(number, turns, tokenizer, template, max_length)
        for number, turns in enumerate(conversations)
    ]


def _tokenize_one(
    number: int, turns: Sequence[Turn], tokenizer: Any, template: str, max_length: int
) -> Example:
    text, bounds, learned = "", [0], []
    segments = render_training(template, turns, tokenizer.eos_token)
    for segment in segments:
        text += segment.text
        bounds.append(len(tokenizer(text)["input_ids"]))
        learned.append(segment.learned)
    ids: list[int] = tokenizer(text)["input_ids"]
    labels = [IGNORED] * len(ids)
    for start, end, loss in zip(bounds, bounds[1:], learned, strict=False):
        if loss:
            labels[start:end] = ids[start:end]
    return Example(number, ids[:max_length], labels[:max_length], truncated=len(ids) > max_length)
