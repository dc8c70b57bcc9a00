"""All answers side by side: every instruction, every cell's answer and verdict, and the reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from neft_lab.claims.labels import short_label, varying_axes
from neft_lab.datasets import stored_instructions
from neft_lab.judging.pairs import read_preference
from neft_lab.sources import Source
from neft_lab.store import read_json
from neft_lab.textstats import repetition

if TYPE_CHECKING:
    from neft_lab.claims.results import CellResult

Row = Mapping[str, Any]
Place = tuple[str, int]
"""An instruction and how often it occurred before."""


@dataclass
class Instruction:
    """An instruction with the reference answers it was compared with: one, unless cells have different judges."""

    text: str
    dataset: str
    references: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """A cell's answer to one instruction.

    preference: 1 where the reference is better to 2 where this answer is, None without a verdict; hole: why.
    repetition: percent of repeated 2-grams over the whole answer, None below five tokens.
    """

    text: str
    reference: int | None
    preference: float | None
    hole: str | None
    repetition: float | None

    @property
    def characters(self) -> int:
        return len(self.text)


@dataclass(frozen=True)
class ReaderCell:
    """One cell's answers in the order of the instructions, None where it was not asked."""

    label: str
    family: str
    """What it shares with the cells that have its baseline, and no others; empty where there is one family."""
    name: str
    """What tells it apart within its family."""
    baseline: int | None
    """Which cell it is compared with; None for a baseline."""
    answers: Sequence[Answer | None]


@dataclass(frozen=True)
class Reader:
    instructions: Sequence[Instruction]
    cells: Sequence[ReaderCell]


def collect_reader(rows: Sequence[CellResult]) -> Reader:
    """Read the verdicts of every cell that has them, and the bare answers of cells that were not judged."""
    instructions: dict[Place, Instruction] = {}
    found = [{place: _answer(row, place, instructions) for place, row in _read_rows(cell)} for cell in rows]
    answered = [number for number, answers in enumerate(found) if answers]
    cells = _name_cells([rows[number] for number in answered])
    return Reader(
        list(instructions.values()),
        [
            replace(cell, answers=[found[number].get(place) for place in instructions])
            for cell, number in zip(cells, answered, strict=True)
        ],
    )


def _name_cells(rows: Sequence[CellResult]) -> list[ReaderCell]:
    """Cells without their answers; a family is a baseline with all that is compared with it."""
    places = {repr(row.axes): place for place, row in enumerate(rows)}
    baselines = [None if row.baseline is None else places.get(repr(row.baseline)) for row in rows]
    families = [place if base is None else base for place, base in enumerate(baselines)]
    every = varying_axes([row.axes for row in rows])
    cells = []
    for row, base, family in zip(rows, baselines, families, strict=True):
        within = varying_axes(
            [other.axes for other, its in zip(rows, families, strict=True) if its == family]
        )
        shared = [name for name in every if name not in within]
        label = short_label(row.axes, every) or "run"
        cells.append(
            ReaderCell(
                label, short_label(row.axes, shared), short_label(row.axes, within) or label, base, answers=()
            )
        )
    return cells


def _read_rows(cell: CellResult) -> Iterator[tuple[Place, Row]]:
    seen: dict[str, int] = {}
    for row in _answered(cell):
        text = row["instruction"]
        seen[text] = seen.get(text, -1) + 1
        yield (text, seen[text]), row


def _answered(cell: CellResult) -> Sequence[Row]:
    """The verdicts with both answers, or the bare answers beside the references of their instruction set."""
    if "judge" in cell.folders:
        judged: list[Row] = read_json(cell.folders["judge"] / "annotations.json")
        return judged
    if "generate" not in cell.folders:
        return []
    known = _references(cell)
    return [
        row | {"output_1": known.get(row["instruction"])}
        for row in read_json(cell.folders["generate"] / "outputs.json")
    ]


def _references(cell: CellResult) -> dict[str, str | None]:
    """By instruction, of the set that the cell was asked from; nothing where the set is not on this machine."""
    source = cell.records.get("generate", {}).get("sources", {}).get("instructions")
    asked = stored_instructions(Source(**source)) if source else None
    return {one.instruction: one.reference for one in asked or []}


def _answer(row: Row, place: Place, instructions: dict[Place, Instruction]) -> Answer:
    instruction = instructions.setdefault(
        place, Instruction(row["instruction"], str(row.get("dataset") or "none"))
    )
    text = row["output_2"] if "output_2" in row else row["output"]
    reference = row.get("output_1")
    if reference is not None and reference not in instruction.references:
        instruction.references.append(reference)
    return Answer(
        text=text,
        reference=None if reference is None else instruction.references.index(reference),
        preference=read_preference(row.get("preference")),
        hole=row.get("hole"),
        repetition=repetition(text, chunk=max(5, len(text.split()))),
    )
