"""From verdicts to the numbers of a leaderboard row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neft_lab.judging.hub_difficulty import find_published
from neft_lab.judging.pairs import Pair, Verdict

if TYPE_CHECKING:
    from neft_lab.statistics import Estimate

Metrics = dict[str, float]


def summarise(
    pairs: Sequence[Pair], verdicts: Sequence[Verdict], *, evaluator: str | None, hub: Path | None = None
) -> tuple[Metrics, dict[str, Any]]:
    """Win rates in percent with their intervals, and facts in words: counts, holes by reason, length control.

    A metric that does not exist (no verdict, too few of them) is left out.
    """
    from neft_lab.statistics import count_verdicts, win_rate

    preferences = [verdict.preference for verdict in verdicts]
    counts = count_verdicts(preferences)
    controlled = _control_length(pairs, preferences, evaluator, hub)
    metrics = flatten("win_rate", win_rate(preferences)) | flatten("length_controlled_win_rate", controlled)
    metrics |= {"judge_holes": float(counts.missing), "discrete_win_rate": counts.discrete_win_rate}
    if controlled.length_overlap is not None:
        metrics["length_overlap"] = controlled.length_overlap
    facts = {
        "counts": {
            "wins": counts.wins,
            "losses": counts.losses,
            "draws": counts.draws,
            "total": counts.total,
        },
        "holes": dict(Counter(verdict.hole for verdict in verdicts if verdict.hole is not None)),
        "length_control": {"difficulty": controlled.difficulty, "extrapolates": controlled.extrapolates},
    }
    return known(metrics), facts


def flatten(name: str, estimate: Estimate) -> Metrics:
    """An estimate as columns: the value, and what belongs to it; what is not known is left out."""
    columns = {
        name: estimate.value,
        f"{name}_standard_error": estimate.standard_error,
        f"{name}_low": estimate.low,
        f"{name}_high": estimate.high,
        f"{name}_n": float(estimate.n),
    }
    return known(columns)


def known(metrics: Metrics) -> Metrics:
    """Metrics without those that do not exist, such as the error of a single row."""
    return {column: value for column, value in metrics.items() if not math.isnan(value)}


def _control_length(
    pairs: Sequence[Pair], preferences: Sequence[float | None], evaluator: str | None, hub: Path | None
) -> Estimate:
    from neft_lab.statistics import length_controlled_win_rate

    published = find_published(
        [pair.instruction for pair in pairs],
        evaluator=evaluator,
        reference_generators={pair.reference_generator for pair in pairs},
        folder=hub,
    )
    return length_controlled_win_rate(
        preferences,
        [len(pair.output) for pair in pairs],
        [len(pair.reference) for pair in pairs],
        difficulty=published.difficulty if published else None,
        gamed=published.gamed if published else None,
    )
