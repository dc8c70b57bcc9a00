"""Evaluation instructions, and training rows that are among them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from neft_lab.config import UserError
from neft_lab.datasets.conversations import Conversation, Malformed, read_text
from neft_lab.datasets.rows import read_rows, stored_snapshot
from neft_lab.hub import fetch_snapshot
from neft_lab.prompts import Turn
from neft_lab.sources import Source

HUB_FILE = "alpaca_eval.json"
SHOWN_WORDS = 8


@dataclass(frozen=True)
class Instruction:
    """One evaluation instruction, with its reference answer where there is one."""

    instruction: str
    reference: str | None
    dataset: str
    generator: str | None = None


def load_instructions(source: Source) -> list[Instruction]:
    """Evaluation instructions (and references) in file order. Raises UserError naming the row that is wrong."""
    if source.kind == "hub":
        folder = fetch_snapshot(source.location, "dataset", source.revision, patterns=[HUB_FILE])
        return _read(folder / HUB_FILE)
    return _read(Path(source.location))


def stored_instructions(source: Source) -> list[Instruction] | None:
    """The same where they are on this machine already, without the network; None where they are not."""
    folder = stored_snapshot(source) if source.kind == "hub" else None
    path = folder / HUB_FILE if folder else Path(source.location)
    return _read(path) if path.is_file() else None


def _read(path: Path) -> list[Instruction]:
    found: dict[str, Instruction] = {}
    for number, row in read_rows(path):
        where = f"{path.name} row {number}"
        try:
            text = read_text(row, "instruction")
            given = read_text(row, "input", keep_empty=True) if row.get("input") is not None else ""
        except Malformed as error:
            raise UserError(f"{where} {error}") from None
        text = f"{text}\n\n{given}" if given else text
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


def fingerprint(text: str) -> int:
    """64 bits of a text in which letter case and the kind and amount of white space do not count."""
    plain = " ".join(text.casefold().split())
    return int.from_bytes(hashlib.sha256(plain.encode()).digest()[:8])


def fingerprints(texts: Iterable[str]) -> frozenset[int]:
    return frozenset(map(fingerprint, texts))


def asked(turn: Turn) -> str:
    """What a training row asks, spelled as an evaluation instruction would be."""
    return f"{turn.prompt}\n\n{turn.input}" if turn.input else turn.prompt


def is_leaked(conversation: Conversation, evaluation: Collection[int]) -> bool:
    """Whether any question of a row is an evaluation instruction; ``evaluation``: their fingerprints."""
    return any(fingerprint(asked(turn)) in evaluation for turn in conversation.turns)


def refuse_leaked(conversations: Iterable[Conversation], evaluation: Collection[int]) -> None:
    """Raise UserError naming the first training row that is an evaluation instruction, and how many there are."""
    leaked = [row for row in conversations if is_leaked(row, evaluation)] if evaluation else []
    if leaked:
        first = leaked[0]
        others = f" (and {len(leaked) - 1} more)" if len(leaked) > 1 else ""
        raise UserError(
            f"{first.file} row {first.number} '{_opening(first, evaluation)}'{others} is among the evaluation "
            "instructions; remove it, or set dataset.leaked_rows=drop"
        )


def _opening(conversation: Conversation, evaluation: Collection[int]) -> str:
    text = next(asked(turn) for turn in conversation.turns if fingerprint(asked(turn)) in evaluation)
    words: Sequence[str] = text.split()
    return " ".join(words[:SHOWN_WORDS]) + (" ..." if len(words) > SHOWN_WORDS else "")
