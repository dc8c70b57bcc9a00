"""How long the resampling behind a large leaderboard takes: ours against scipy's bootstrap and liblinear.

    python benchmarks/win_rates.py

48 cells x 805 instructions x 10,000 resamples of raw win rates, all cells on the same draws; then the paired tests of
the 47 other cells with the first, and one length-controlled interval. The peers are timed on fewer resamples, as said,
and scaled up. Data are random verdicts: the time does not depend on them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(Path(__file__).parents[1]))

from neft_lab.statistics import length_controlled_win_rate, paired_difference, resample_means, win_rate
from neft_lab.statistics.length_fit import length_feature, refit_resampled
from neft_lab.statistics.resampling import draw_counts

CELLS, ITEMS, RESAMPLES = 48, 805, 10_000
REPEATS = 3


def seconds(work: Callable[[], object], *, scale: float = 1.0) -> float:
    """The best of a few runs."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times) * scale


def show(what: str, ours: float, peer: str, theirs: float) -> None:
    print(f"{what:<62} {ours:8.3f} s   {peer:<28} {theirs:8.3f} s   {theirs / ours:6.1f} x")


def main() -> None:
    generator = np.random.default_rng(0)
    scores = (generator.random((CELLS, ITEMS)) < 0.3).astype(float)

    ours = seconds(lambda: resample_means(scores, resamples=RESAMPLES))
    peer = seconds(
        lambda: stats.bootstrap(
            (scores,), np.mean, axis=-1, n_resamples=RESAMPLES // 10, batch=100, method="percentile", rng=0
        ),
        scale=10,
    )
    show(f"{CELLS} cells x {ITEMS} x {RESAMPLES:,} resampled win rates", ours, "scipy.stats.bootstrap", peer)

    ours = seconds(lambda: [paired_difference(row, scores[0], resamples=RESAMPLES) for row in scores[1:]])
    peer = seconds(
        lambda: stats.permutation_test(
            (scores[1] - scores[0],),
            np.mean,
            permutation_type="samples",
            n_resamples=RESAMPLES,
            vectorized=True,
        ),
        scale=CELLS - 1,
    )
    show(
        f"{CELLS - 1} paired differences, {RESAMPLES:,} sign flips each",
        ours,
        "scipy.stats.permutation_test",
        peer,
    )

    lengths = generator.integers(50, 2_000, (2, ITEMS))
    features = np.stack([length_feature(lengths[0], lengths[1]), np.ones(ITEMS)], axis=1)
    counts = draw_counts(ITEMS, resamples=1_000, generator=generator)
    ours = seconds(lambda: refit_resampled(features, scores[0], counts))
    peer = seconds(lambda: [refit_one_by_one(features, scores[0], row) for row in counts[:50]], scale=20)
    show("1,000 refits of the length model", ours, "liblinear, one by one", peer)

    print(f"{CELLS} win rates with intervals: {seconds(lambda: [win_rate(row + 1) for row in scores]):.3f} s")
    one = seconds(lambda: length_controlled_win_rate(scores[0] + 1, lengths[0], lengths[1]))
    print(f"one length-controlled win rate with its interval: {one:.3f} s")


def refit_one_by_one(features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> None:
    model = LogisticRegression(C=1e4, l1_ratio=1.0, solver="liblinear", fit_intercept=False)
    shares = np.concatenate([targets * weights, (1 - targets) * weights])
    model.fit(np.concatenate([features] * 2), np.repeat([1, 0], len(targets)), sample_weight=shares)


if __name__ == "__main__":
    main()
