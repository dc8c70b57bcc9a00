"""Pairs of answers and the verdicts on them, in and out of AlpacaEval's JSON."""

from __future__ import annotations

import json
import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neft_lab.config import UserError

Row = Mapping[str, Any]

TIE = 1.5
"""Preference of a draw; 1 is "the reference is better", 2 "the model is better"."""


@dataclass(frozen=True)
class Pair:
    """One instruction with the reference's answer and the model's (AlpacaEval's output_1 and output_2)."""

    instruction: str
    reference: str
    output: str
    reference_generator: str = "reference"
    generator: str = "model"
    dataset: str | None = None

    @property
    def identical(self) -> bool:
        """Whether both answers are the same text, which AlpacaEval calls a draw without asking anyone."""
        return self.reference == self.output


@dataclass(frozen=True)
class Verdict:
    """What a judge made of one pair: a preference from 1 (reference) to 2 (model), or a named hole."""

    preference: float | None
    raw_completion: Any = None
    hole: str | None = None


DRAW = Verdict(preference=TIE)


def read_rows(path: str | Path, *, option: str) -> list[dict[str, Any]]:
    """Read a JSON file of AlpacaEval rows.

    Raises:
        UserError: no such file, not JSON, or not a list of objects that carry an instruction.
    """
    file = Path(path)
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{option}={path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{option}={path} is not a JSON file of AlpacaEval rows: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "instruction" in row for row in rows):
        raise UserError(f"{option}={path} must be a JSON list of objects with the key 'instruction'")
    return rows


def match_rows(outputs: Sequence[Row], references: Sequence[Row]) -> list[Pair]:
    """Pair every output with the reference answer to the same instruction, in the order of the outputs.

    An instruction that occurs several times is paired occurrence by occurrence. References without an output
    are left out; an output without a reference is an error, where AlpacaEval's inner join drops it.

    Raises:
        UserError: an output whose instruction has no reference (left).
    """
    waiting: dict[str, deque[Row]] = defaultdict(deque)
    for row in references:
        waiting[row["instruction"]].append(row)
    pairs = []
    for row in outputs:
        if not waiting[row["instruction"]]:
            raise UserError(
                f"judge.reference has no answer to {row['instruction'][:60]!r}, which the outputs contain; "
                "the instructions must be equal to the character"
            )
        pairs.append(_pair(row, waiting[row["instruction"]].popleft()))
    return pairs


def _pair(row: Row, reference: Row) -> Pair:
    return Pair(
        instruction=row["instruction"],
        reference=reference["output"],
        output=row["output"],
        reference_generator=reference.get("generator") or "reference",
        generator=row.get("generator") or "model",
        dataset=row.get("dataset") or reference.get("dataset"),
    )


def check_reference(references: Sequence[Row]) -> None:
    """Refuse the one file that is taken for AlpacaEval 1's reference and is not.

    AlpacaEval's repository has two sets of text_davinci_003 answers. The leaderboard was judged against the long one
    (mean 482 characters); `results/text_davinci_003/model_outputs.json` is the short one (308).

    Raises:
        UserError: the references are the short set.
    """
    davinci = [len(row["output"]) for row in references if row.get("generator") == "text_davinci_003"]
    if len(davinci) == len(references) == 805 and sum(davinci) / 805 < 400:
        raise UserError(
            "judge.reference holds text_davinci_003's short answers, which AlpacaEval 1 was not judged against; "
            "use output_1 of its annotation files, or judge.reference=alpaca_eval"
        )


def read_preference(value: Any) -> float | None:
    """A stored preference as AlpacaEval counts it: 0 is a draw, anything outside 1 to 2 is missing."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return None
    if value == 0:
        return TIE
    return float(value) if 1 <= value <= 2 else None


def annotation_rows(
    pairs: Sequence[Pair], verdicts: Sequence[Verdict], *, annotator: str
) -> list[dict[str, Any]]:
    """Rows of AlpacaEval's annotations.json, one per pair, holes included with a null preference."""
    return [_annotation(pair, verdict, annotator) for pair, verdict in zip(pairs, verdicts, strict=True)]


def _annotation(pair: Pair, verdict: Verdict, annotator: str) -> dict[str, Any]:
    row = {
        "instruction": pair.instruction,
        "dataset": pair.dataset,
        "output_1": pair.reference,
        "generator_1": pair.reference_generator,
        "output_2": pair.output,
        "generator_2": pair.generator,
        "annotator": annotator,
        "preference": verdict.preference,
        "raw_completion": verdict.raw_completion,
    }
    return row if verdict.hole is None else row | {"hole": verdict.hole}


def output_characters(outputs: Iterable[str]) -> int:
    """AlpacaEval's avg_length: the mean number of characters over all outputs, truncated to an integer."""
    lengths = [len(output) for output in outputs]
    return int(sum(lengths) / len(lengths)) if lengths else 0
