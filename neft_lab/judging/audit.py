"""Is this judge worth believing? Its agreement with stored verdicts, with itself, and with its mirror image."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neft_lab.judging.controls import prefer_longest
from neft_lab.judging.pairs import Pair, Row, Verdict, read_preference
from neft_lab.judging.summary import Metrics, flatten

if TYPE_CHECKING:
    from neft_lab.statistics import Estimate, PairedDifference

NOT_VALIDATED = "judge not validated"


@dataclass(frozen=True)
class StoredVerdict:
    """A pair that people or a trusted judge have decided: the mean of their preferences."""

    pair: Pair
    preference: float


@dataclass(frozen=True)
class Validation:
    """Agreement in percent with stored verdicts: the judge's, the longer-answer rule's, and what lies between."""

    judge: Estimate
    longer_rule: Estimate
    above_chance: PairedDifference
    above_longer_rule: PairedDifference

    @property
    def passed(self) -> bool:
        """Better than a coin and than the longer-answer rule on the same rows, both at 95 %."""
        return self.above_chance.low > 0 and self.above_longer_rule.low > 0

    @property
    def sentence(self) -> str:
        """The finding in words, for the foot of a table."""
        found = (
            f"agreement with {self.judge.n} stored verdicts {self.judge.value:.1f} % "
            f"({self.judge.low:.1f} to {self.judge.high:.1f}), longer-answer rule {self.longer_rule.value:.1f} %"
        )
        return found if self.passed else f"{NOT_VALIDATED}: {found}"


def read_stored(rows: Sequence[Row], *, limit: int) -> list[StoredVerdict]:
    """Stored verdicts by pair, several on one pair averaged; a fixed sample of `limit` where there are more.

    Pairs of equal answers and rows without a verdict are left out.
    """
    found: dict[Pair, list[float]] = defaultdict(list)
    for row in rows:
        preference = read_preference(row.get("preference"))
        pair = Pair(row["instruction"], row["output_1"], row["output_2"])
        if preference is not None and not pair.identical:
            found[pair].append(preference)
    stored = [StoredVerdict(pair, sum(values) / len(values)) for pair, values in found.items()]
    return stored if len(stored) <= limit else sample(stored, limit, text=lambda row: _text(row.pair))


def sample(items: Sequence[Any], count: int, *, text: Any) -> list[Any]:
    """A sample that depends on the items' texts alone: the same in every cell and on every machine."""
    return sorted(items, key=lambda item: hashlib.sha256(text(item).encode()).digest())[:count]


def _text(pair: Pair) -> str:
    return "\0".join((pair.instruction, pair.reference, pair.output))


def validate(stored: Sequence[StoredVerdict], verdicts: Sequence[Verdict]) -> Validation | None:
    """Compare a judge's verdicts on stored pairs with the stored ones; None where fewer than two can be compared.

    A row counts 1 where the winners are equal, 1/2 where one side sees a draw, else 0, so that a coin has 1/2.
    """
    from neft_lab.statistics import accuracy, paired_difference

    rows = [
        (row, verdict.preference) for row, verdict in zip(stored, verdicts, strict=True) if verdict.preference
    ]
    if len(rows) < 2:
        return None
    lengths = prefer_longest([row.pair for row, _ in rows])
    judge = [_agreement(row.preference, preference) for row, preference in rows]
    longer = [_agreement(row.preference, _known(rule)) for (row, _), rule in zip(rows, lengths, strict=True)]
    return Validation(
        judge=accuracy(judge),
        longer_rule=accuracy(longer),
        above_chance=paired_difference(judge, [0.5] * len(judge)),
        above_longer_rule=paired_difference(judge, longer),
    )


def _known(verdict: Verdict) -> float:
    assert verdict.preference is not None
    return verdict.preference


def winner(preference: float) -> float:
    """0 the reference, 1 the model, 1/2 a draw."""
    return 0.5 if preference == 1.5 else float(preference > 1.5)


def _agreement(one: float, other: float) -> float:
    return 1 - abs(winner(one) - winner(other))


@dataclass(frozen=True)
class Repeat:
    """One pair judged twice: the verdict that counts, and the one of an audit."""

    first: float
    second: float
    switched: bool
    """In the first verdict the model's answer was shown first."""


def audit_repeats(repeats: Sequence[Repeat], *, name: str) -> Metrics:
    """Percent of pairs with the same winner both times, as `name`; empty without pairs."""
    from neft_lab.statistics import accuracy

    if not repeats:
        return {}
    return flatten(name, accuracy([_agreement(row.first, row.second) for row in repeats]))


def audit_swaps(repeats: Sequence[Repeat]) -> Metrics:
    """Pairs judged in both orders: percent with the same winner, and how much the first place is worth.

    `first_place_preference`: mean preference in percent for the answer shown first, over both orders; 50 is no bias.
    """
    from neft_lab.statistics import accuracy

    if not repeats:
        return {}
    first_place = [_first_place(row) for row in repeats]
    return audit_repeats(repeats, name="position_consistency") | flatten(
        "first_place_preference", accuracy(first_place)
    )


def _first_place(row: Repeat) -> float:
    """Mean score of the answer shown first over the two orders."""
    model_first, reference_first = (row.first, row.second) if row.switched else (row.second, row.first)
    return ((model_first - 1) + (2 - reference_first)) / 2


def audit_canaries(repeats: Sequence[Repeat]) -> Metrics:
    """Pairs judged again on a later day: percent with the same winner, and the shift of the win rate in points."""
    from neft_lab.statistics import paired_difference

    metrics = audit_repeats(repeats, name="canary_agreement")
    if len(repeats) > 1:
        shift = paired_difference([row.second - 1 for row in repeats], [row.first - 1 for row in repeats])
        metrics |= {
            "canary_shift": shift.value,
            "canary_shift_low": shift.low,
            "canary_shift_high": shift.high,
        }
    return metrics


def validation_metrics(validation: Validation | None) -> Metrics:
    """Columns of the gate; `judge_validated` is 1 or 0, and 0 where nothing is stored to compare with."""
    if validation is None:
        return {"judge_validated": 0.0}
    return {
        "judge_validated": float(validation.passed),
        **flatten("stored_agreement", validation.judge),
        "longer_rule_agreement": validation.longer_rule.value,
        "agreement_above_longer_rule": validation.above_longer_rule.value,
        "agreement_above_longer_rule_low": validation.above_longer_rule.low,
        "agreement_above_longer_rule_high": validation.above_longer_rule.high,
    }
