"""The paper's published numbers as data, and which of them are compared with which."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from neft_lab.config import UserError, nearest
from neft_lab.paths import PAPER_NUMBERS

MEAN = "mean"
"""The data set of a row that averages over all others."""

BAND = "chars"
"""The variant of numbers about answers of some length only."""

GROUPS = {"table2": ("table2", "appendix_a1"), "published": ("alpaca_eval_1", "table4_check", "length_split")}
"""Artifacts that one sweep is set beside, where they are more than its own."""

NO_RUN = {
    "training_data": "a property of the training data, not of a run",
    "analysis_setting": "a setting of the paper's analysis, used here as it is (conf/analysis/paper.yaml)",
}
"""Methods of rows that no run can give."""


@dataclass(frozen=True)
class Published:
    """One published number. ``variant`` is what its artifact varies beside model, data set and noise: (name, value)."""

    artifact: str
    model: str
    dataset: str
    method: str
    variant: tuple[str, str] | None
    noise: str
    alpha: float | None
    metric: str
    judge: str
    value: float
    unit: str
    note: str

    @property
    def label(self) -> str:
        """The row in words: "llama2_7b, alpaca, neftune 5 (epochs 3)"."""
        noise = "" if self.noise in ("uniform", "none") else self.noise
        alpha = f"{self.alpha:g}" if self.alpha else ""
        variant = f"({' '.join(self.variant)})" if self.variant else ""
        arm = " ".join(filter(None, (self.method, noise, alpha, variant)))
        return ", ".join(filter(None, (self.model, self.dataset, arm)))

    @property
    def has_effect(self) -> bool:
        """Whether a difference from plain fine-tuning means something: not of counts, errors and settings."""
        counted = self.unit == "count" or self.metric in ("win_rate_se", "chunk_tokens")
        banded = self.variant is not None and self.variant[0] == BAND  # other instructions in every model
        return self.method not in NO_RUN and not counted and not banded


@lru_cache
def read_numbers() -> tuple[Published, ...]:
    """Every row of results/paper/numbers.csv, in its order."""
    with PAPER_NUMBERS.open(encoding="utf-8", newline="") as file:
        return tuple(_published(row) for row in csv.DictReader(file))


def _published(row: dict[str, str]) -> Published:
    method, _, variant = row["method"].partition(":")
    name, _, value = variant.partition("=")
    return Published(
        row["artifact"], row["model"], row["dataset"], method, (name, value) if variant else None, row["noise"],
        float(row["alpha"]) if row["alpha"] else None, row["metric"], row["judge"], float(row["value"]), row["unit"],
        row["note"],
    )  # fmt: skip


def numbers_of(artifact: str) -> list[Published]:
    """The rows of one artifact. Raises UserError for an artifact that has none."""
    wanted = GROUPS.get(artifact, (artifact,))
    found = [number for number in read_numbers() if number.artifact in wanted]
    if not found:
        known = {number.artifact for number in read_numbers()} | set(GROUPS)
        raise UserError(f"sweep.paper '{artifact}' has no published numbers; {nearest(artifact, known)}")
    return found


def baseline_of(number: Published, numbers: Sequence[Published]) -> Published | None:
    """The plain fine-tuning that a row is compared with: of its own variant where there is one.

    None for plain fine-tuning itself, and where a difference means nothing.
    """
    if not number.has_effect or (number.method == "sft" and number.variant is None):
        return None
    plain = [one for one in numbers if one.method == "sft" and _comparable(one, number)]
    same = [one for one in plain if one.variant == number.variant and one != number]
    bare = [one for one in plain if one.variant is None]
    return next(iter([*same, *bare]), None)


def _comparable(one: Published, other: Published) -> bool:
    names = ("artifact", "model", "metric", "judge")
    anywhere = not other.dataset  # an untouched model has no data set of its own
    return all(getattr(one, name) == getattr(other, name) for name in names) and (
        anywhere or one.dataset == other.dataset
    )
