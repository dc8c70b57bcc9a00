"""Length-controlled win rates: what the judge would say if both answers were equally long."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neft_lab.statistics.difficulty import Difficulty, estimate_difficulty
from neft_lab.statistics.estimates import Estimate
from neft_lab.statistics.length_fit import FOLDS, length_feature
from neft_lab.statistics.length_model import GamedBaselines, LengthFit, fit_model
from neft_lab.statistics.paired import PairedDifference, summarize
from neft_lab.statistics.resampling import draw_counts
from neft_lab.statistics.scores import Floats, Preferences, as_rows, find_complete, preference_scores
from neft_lab.statistics.spread import Spread, keep_width

DifficultySource = Literal["given", "estimated", "none"]
_UNKNOWN = (math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class _Arm:
    """One arm: scores (s, n), lengths (s, n), reference lengths (n,), and which of the caller's rows its seeds are (s,)."""

    scores: Floats
    lengths: Floats
    reference_lengths: Floats
    rows: NDArray[np.intp]

    @classmethod
    def read(cls, preferences: Preferences, output_lengths: ArrayLike, reference_lengths: ArrayLike) -> _Arm:
        scores, lengths = as_rows(preference_scores(preferences)), as_rows(output_lengths)
        references = np.asarray(reference_lengths, dtype=np.float64)
        if lengths.shape != scores.shape or references.shape != scores.shape[1:]:
            raise ValueError(
                "preferences, output_lengths and reference_lengths must have the same items, "
                f"got {scores.shape}, {lengths.shape} and {references.shape}"
            )
        seeds, items = find_complete(scores)
        return cls(scores, lengths, references, np.arange(len(scores))).keep(seeds, np.ones_like(items))

    @property
    def seeds(self) -> int:
        return len(self.scores)

    @property
    def items(self) -> int:
        return int(self.scores.shape[1])

    @property
    def judged(self) -> int:
        return len(np.flatnonzero(find_complete(self.scores)[1]))

    @property
    def overlap(self) -> float | None:
        """Percent of outputs on the rarer side of the reference's length; an equal length is on both."""
        if not self.lengths.size:
            return None
        longer = np.mean(self.lengths >= self.reference_lengths)
        shorter = np.mean(self.lengths <= self.reference_lengths)
        return 100 * float(min(longer, shorter))

    @property
    def one_sided(self) -> bool:
        """Whether a seed won or lost every comparison, which resampling cannot vary."""
        return bool(
            np.any(np.nanmin(self.scores, axis=1) == 1) or np.any(np.nanmax(self.scores, axis=1) == 0)
        )

    def keep(self, seeds: NDArray[np.bool_], items: NDArray[np.bool_]) -> _Arm:
        """The same arm with only some seeds, and verdicts on only some items."""
        scores = np.where(items, self.scores, math.nan)
        return _Arm(scores[seeds], self.lengths[seeds], self.reference_lengths, self.rows[seeds])

    def fit(
        self, difficulty: ArrayLike | Difficulty | None, gamed: GamedBaselines | None
    ) -> tuple[DifficultySource, list[LengthFit]]:
        """Fit every seed; no fits where fewer than ten items are judged in every seed."""
        if gamed is not None and difficulty is None:
            raise ValueError("gamed baselines come with difficulties: pass the difficulty of every item too")
        source: DifficultySource = "none"
        difficulties: list[Floats | None] = [None] * self.seeds
        enough = self.judged >= 2 * FOLDS
        if difficulty is None and self.seeds > 1 and enough:
            estimated = estimate_difficulty(self.scores + 1, self.lengths, self.reference_lengths)
            source, difficulties = estimated.source, list(estimated.values)
        elif difficulty is not None:
            known = difficulty if isinstance(difficulty, Difficulty) else Difficulty(as_rows(difficulty))
            rows = (
                known.values[self.rows] if known.values.ndim == 2 and len(known.values) > 1 else known.values
            )
            source, difficulties = known.source, list(np.broadcast_to(rows, self.scores.shape))
        if not enough:
            return source, []
        lengths = [length_feature(row, self.reference_lengths) for row in self.lengths]
        return source, [
            fit_model(*seed, gamed) for seed in zip(self.scores, lengths, difficulties, strict=True)
        ]


def length_controlled_win_rate(
    preferences: Preferences,
    output_lengths: ArrayLike,
    reference_lengths: ArrayLike,
    *,
    difficulty: ArrayLike | Difficulty | None = None,
    gamed: GamedBaselines | None = None,
    resamples: int = 1_000,
    seed: int = 0,
) -> Estimate:
    """AlpacaEval 2's length-controlled win rate in percent, with a 95 % interval.

    `preferences`, `output_lengths` (characters): (items,) or (seeds, items); `reference_lengths`, `difficulty`: (items,),
    all in the same order, so that subsets are correct. With `difficulty` and `gamed` this is alpaca_eval's
    `length_controlled_v1`. Without `difficulty` it is estimated from the other seeds' verdicts; one seed alone has none
    (`length_controlled_minimal`). The estimate says which. The interval resamples instructions, each with all its
    rows, at one and the same regularisation.
    """
    arm = _Arm.read(preferences, output_lengths, reference_lengths)
    source, fits = arm.fit(difficulty, gamed)
    if not fits:
        return Estimate(*_UNKNOWN, arm.judged, arm.seeds, source, arm.overlap)
    rates = _resample(fits, _draw(arm.items, resamples, seed))
    value, spread = _summarize_seeds(_values(fits), rates, items=arm.judged)
    spread = keep_width(spread, arm.judged) if arm.one_sided else spread
    low, high = value - spread.half_width(), value + spread.half_width()
    if arm.seeds == 1 and not arm.one_sided:
        low, high = (float(bound) for bound in np.quantile(rates[:, 0], [0.025, 0.975]))
        low, high = min(low, value), max(high, value)  # the value is shrunken, its resamples are not
    bounds = max(low, 0.0), min(high, 100.0)
    return Estimate(value, spread.standard_error, *bounds, arm.judged, arm.seeds, source, arm.overlap)


def length_controlled_difference(
    preferences: Preferences,
    output_lengths: ArrayLike,
    baseline_preferences: Preferences,
    baseline_output_lengths: ArrayLike,
    reference_lengths: ArrayLike,
    *,
    difficulty: ArrayLike | Difficulty | None = None,
    baseline_difficulty: ArrayLike | Difficulty | None = None,
    gamed: GamedBaselines | None = None,
    resamples: int = 1_000,
    seed: int = 0,
) -> PairedDifference:
    """Difference of two length-controlled win rates, arm minus baseline, in points, with a 95 % interval.

    Arguments as in `length_controlled_win_rate`; the seeds of both arms in the same rows. Instructions are resampled
    for both arms at once; only those judged in both arms and every seed are used. `baseline_difficulty` is needed only
    where difficulties were estimated per row; else the baseline has the same as the arm.
    """
    arm = _Arm.read(preferences, output_lengths, reference_lengths)
    baseline = _Arm.read(baseline_preferences, baseline_output_lengths, reference_lengths)
    arm, baseline = _share_items(arm, baseline)
    _, fits = arm.fit(difficulty, gamed)
    _, baseline_fits = baseline.fit(difficulty if baseline_difficulty is None else baseline_difficulty, gamed)
    if not fits or not baseline_fits:
        unknown = Spread(0.0, math.nan, max(arm.seeds, 1), arm.judged)
        return summarize(math.nan, unknown, math.nan, "resampled_t", n=arm.judged, asked=arm.items)
    counts = _draw(arm.items, resamples, seed)
    rates = _resample(fits, counts) - _resample(baseline_fits, counts)
    value, spread = _summarize_seeds(_values(fits) - _values(baseline_fits), rates, items=arm.judged)
    spread = keep_width(spread, arm.judged) if arm.one_sided or baseline.one_sided else spread
    return summarize(value, spread, spread.p_value(value), "resampled_t", n=arm.judged, asked=arm.items)


def _share_items(arm: _Arm, baseline: _Arm) -> tuple[_Arm, _Arm]:
    if arm.scores.shape != baseline.scores.shape:
        raise ValueError(
            f"arms must have the same seeds and items, got {arm.scores.shape} and {baseline.scores.shape}"
        )
    seeds, items = find_complete(arm.scores, baseline.scores)
    return arm.keep(seeds, items), baseline.keep(seeds, items)


def _draw(items: int, resamples: int, seed: int) -> Floats:
    return draw_counts(items, resamples=resamples, generator=np.random.default_rng(seed))


def _values(fits: list[LengthFit]) -> Floats:
    return np.array([fit.value for fit in fits])


def _resample(fits: list[LengthFit], counts: Floats) -> Floats:
    return np.stack([fit.resample(counts) for fit in fits], axis=1)


def _summarize_seeds(values: Floats, rates: Floats, *, items: int) -> tuple[float, Spread]:
    """Mean over seeds (s,) and its spread, from what resampled instructions give for every seed (resamples, s)."""
    seeds = len(values)
    joint = rates.mean(axis=1)
    item_variance = float(joint.var(ddof=1))
    if seeds == 1:
        return float(values[0]), Spread(0.0, item_variance, 1, items)
    apart = rates - joint[:, None]
    residual_variance = float(apart.var(axis=0, ddof=1).mean()) / (seeds - 1)
    seed_variance = float(values.var(ddof=1)) / seeds
    spread = Spread(seed_variance, max(item_variance - residual_variance, 0.0), seeds, items)
    return float(values.mean()), spread
