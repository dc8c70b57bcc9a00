"""AlpacaEval 2's published instruction difficulties and gamed baselines, looked up by instruction.

alpaca_eval indexes its table by row number, which is silently wrong for a subset, another order or a file
with missing rows.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neft_lab.config import UserError
from neft_lab.store import read_json

if TYPE_CHECKING:
    from neft_lab.statistics import Difficulty, GamedBaselines

TABLE = "df_gamed.csv"
INSTRUCTIONS = "alpaca_eval.json"
JUDGE, REFERENCE = "weighted_alpaca_eval_gpt4_turbo", "gpt4_1106_preview"
"""The judge and the reference the difficulties were fitted to; with others they mean nothing."""


@dataclass(frozen=True)
class PublishedDifficulty:
    """What `length_controlled_win_rate` takes beside verdicts and lengths."""

    difficulty: Difficulty
    gamed: GamedBaselines


def find_published(
    instructions: Sequence[str],
    *,
    evaluator: str | None,
    reference_generators: set[str],
    folder: Path | None = None,
) -> PublishedDifficulty | None:
    """The published difficulties of instructions, or None where they do not apply or cannot be had.

    `folder` holds the hub's two files; without it they are fetched, which fails quickly without a network.
    """
    if evaluator != JUDGE or reference_generators != {REFERENCE}:
        return None
    if folder is None:
        from neft_lab.hub import fetch_snapshot

        try:
            folder = fetch_snapshot("tatsu-lab/alpaca_eval", "dataset", None, patterns=[TABLE, INSTRUCTIONS])
        except UserError:
            return None
    if not all((folder / name).is_file() for name in (TABLE, INSTRUCTIONS)):
        return None
    order = {row["instruction"]: place for place, row in enumerate(read_json(folder / INSTRUCTIONS))}
    if any(instruction not in order for instruction in instructions):
        return None
    return _select(folder / TABLE, [order[instruction] for instruction in instructions])


def _select(table: Path, places: Sequence[int]) -> PublishedDifficulty:
    from neft_lab.statistics import Difficulty, GamedBaselines

    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    by_place = {int(row["index"]): float(row["instruction_difficulty"]) for row in reversed(rows)}
    item = {place: number for number, place in enumerate(places)}
    kept = [row for row in rows if int(row["index"]) in item]
    gamed = GamedBaselines(
        scores=np.array([float(row["preference"]) for row in kept]),
        length_features=np.array([float(row["std_delta_len"]) for row in kept]),
        difficulty=np.array([float(row["instruction_difficulty"]) for row in kept]),
        items=np.array([item[int(row["index"])] for row in kept], dtype=np.intp),
    )
    return PublishedDifficulty(Difficulty(np.array([by_place[place] for place in places])), gamed)
