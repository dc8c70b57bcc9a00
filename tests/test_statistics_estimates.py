"""Win rates, accuracies and means: equal to alpaca_eval, to published numbers and to sums done by hand."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neft_lab.statistics import (
    accuracy,
    count_verdicts,
    mean_value,
    preference_scores,
    resample_means,
    win_rate,
)

PUBLISHED = Path(__file__).parents[1].parent / "shared" / "data" / "alpaca_eval"
NAN = math.nan


def read_rows(name: str) -> list[dict[str, Any]]:
    path = PUBLISHED / name
    if not path.is_file():
        pytest.skip(f"{name} is not here: AlpacaEval's data may not be copied into the project")
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return rows


@pytest.mark.parametrize(
    ("model", "judge"),
    [
        ("alpaca-7b", "alpaca_eval_gpt4"),
        ("alpaca-7b-neft", "alpaca_eval_gpt4"),
        ("alpaca-7b", "weighted_alpaca_eval_gpt4_turbo"),
    ],
)
def test_published_leaderboards_come_out_to_nine_digits(model: str, judge: str) -> None:
    preferences = [row["preference"] for row in read_rows(f"{model}.{judge}.annotations.json")]
    with (PUBLISHED / f"{judge}_leaderboard.csv").open(newline="") as stream:
        published = next(row for row in csv.DictReader(stream) if row[""] == model)
    estimate, counts = win_rate(preferences), count_verdicts(preferences)
    assert estimate.value == pytest.approx(float(published["win_rate"]), abs=1e-9)
    assert estimate.standard_error == pytest.approx(float(published["standard_error"]), abs=1e-9)
    assert counts.discrete_win_rate == pytest.approx(float(published["discrete_win_rate"]), abs=1e-9)
    ours = [counts.wins, counts.losses, counts.draws, counts.total, estimate.n]
    theirs = [int(published[name]) for name in ("n_wins", "n_wins_base", "n_draws", "n_total", "n_total")]
    assert ours == theirs


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["ranks", "weighted", "with holes"])
def test_win_rates_equal_those_of_alpaca_eval(kind: str) -> None:
    from alpaca_eval.metrics.winrate import pairwise_to_winrate

    generator = np.random.default_rng(3)
    preferences: list[float | None] = generator.choice([0.0, 1.0, 1.5, 2.0], 200).tolist()
    if kind == "weighted":
        preferences = generator.uniform(1, 2, 200).tolist()
    if kind == "with holes":
        preferences[3:20:4], preferences[50] = [None, 3.0, -1.0, NAN, 7.0], None
    theirs = pairwise_to_winrate(np.array(preferences, dtype=float))
    ours, counts = win_rate(preferences), count_verdicts(preferences)
    assert ours.value == pytest.approx(theirs["win_rate"], abs=1e-9)
    assert ours.standard_error == pytest.approx(theirs["standard_error"], abs=1e-9)
    assert counts.discrete_win_rate == pytest.approx(theirs["discrete_win_rate"], abs=1e-9)
    assert [ours.n, counts.wins, counts.losses, counts.draws] == [
        theirs[name] for name in ("n_total", "n_wins", "n_wins_base", "n_draws")
    ]


def test_zero_is_a_draw_and_null_is_a_hole() -> None:
    np.testing.assert_array_equal(preference_scores([0, 1, 1.5, 2, 1.25, None]), [0.5, 0, 0.5, 1, 0.25, NAN])


def test_the_interval_of_a_rate_is_wilsons() -> None:
    # 30 of 100, z = 1.96: Wilson's interval is [0.2189, 0.3958]; here t with 99 degrees and sd with ddof 1 widen it.
    estimate = accuracy([1.0] * 30 + [0.0] * 70)
    assert (estimate.low, estimate.high) == pytest.approx((21.8, 39.7), abs=0.15)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_equal_verdicts_still_have_an_interval_of_some_width(score: float) -> None:
    estimate = accuracy([score] * 32)
    assert estimate.high - estimate.low == pytest.approx(10.7 + 0.8, abs=0.6)  # Wilson: 0 of 32 -> [0, 10.7]
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 100


def test_a_cell_without_verdicts_is_a_hole_and_no_error() -> None:
    estimate = win_rate([None, None])
    assert estimate.n == 0 and math.isnan(estimate.value) and math.isnan(estimate.low)
    assert count_verdicts([None]).missing == 1


def test_documents_of_one_subject_are_not_independent() -> None:
    # Two subjects of 50 equal answers each: by document sd/sqrt(100) = 5.03, by subject |100 - 0| / 2 = 50.
    values, subjects = [1.0] * 50 + [0.0] * 50, ["law"] * 50 + ["art"] * 50
    assert accuracy(values).standard_error == pytest.approx(100 * math.sqrt(0.25 / 99), rel=1e-12)
    assert accuracy(values, clusters=subjects).standard_error == pytest.approx(50, rel=1e-12)


def test_the_clustered_error_is_that_of_the_sandwich_estimator() -> None:
    import statsmodels.api as sm

    generator = np.random.default_rng(0)
    subjects = generator.integers(0, 12, 300)
    values = (generator.random(300) < 0.3 + 0.03 * subjects).astype(float)
    fit = sm.OLS(values, np.ones(300)).fit(
        cov_type="cluster", cov_kwds={"groups": subjects, "use_correction": False}
    )
    ours = accuracy(values, clusters=subjects).standard_error
    assert ours == pytest.approx(100 * fit.bse[0] * math.sqrt(12 / 11), rel=1e-9)


def test_a_macro_mean_counts_every_subject_the_same() -> None:
    values, subjects = [1.0, 1.0, 1.0, 0.0], ["law", "law", "law", "art"]
    assert accuracy(values, clusters=subjects).value == 75
    estimate = accuracy(values, clusters=subjects, macro=True)
    assert (estimate.value, estimate.standard_error) == pytest.approx((50, 50))


def test_a_macro_mean_needs_subjects() -> None:
    with pytest.raises(ValueError, match="macro=True needs clusters"):
        accuracy([0.0, 1.0], macro=True)


def test_preferences_passed_as_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scores must lie in \[0, 1\], got 2"):
        accuracy([1.0, 2.0])


def test_labels_must_be_as_many_as_documents() -> None:
    with pytest.raises(ValueError, match="one cluster per item"):
        accuracy([0.0, 1.0], clusters=["law"])


def test_a_seed_without_scores_does_not_take_the_others_along() -> None:
    estimate = accuracy([[1.0, 0.0, 1.0, NAN], [1.0, 1.0, 0.0, 1.0], [NAN] * 4])
    assert (estimate.value, estimate.n, estimate.seeds) == (pytest.approx(100 * 4 / 6), 3, 2)


def test_the_error_over_seeds_and_instructions_is_that_of_two_way_analysis_of_variance() -> None:
    # Rows 3 and 5 on average; by hand: mean squares 12 (seeds), 6 (items), 0 (rest).
    scores = np.array([[1.0, 3.0, 5.0], [3.0, 5.0, 7.0]])
    estimate = mean_value(scores)
    # seed part 12/6... = ((3-4)^2 + (5-4)^2) / 1 / 2 = 1; item part = var(2, 4, 6) / 3 = 4/3.
    assert estimate.standard_error == pytest.approx(math.sqrt(1 + 4 / 3), rel=1e-12)


def test_a_mean_in_its_own_unit_has_a_t_interval() -> None:
    estimate = mean_value([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])
    half = 2.262157 * math.sqrt(55 / 6 / 10)  # t table, 9 degrees; variance 55/6
    assert (estimate.low, estimate.high) == pytest.approx((5.5 - half, 5.5 + half), abs=2e-3)


def test_resampled_means_spread_like_the_standard_error_and_keep_cells_paired() -> None:
    generator = np.random.default_rng(0)
    first = (generator.random(400) < 0.3).astype(float)
    means = resample_means(np.stack([first, first, 1 - first]), resamples=4000, seed=1)
    assert means.shape == (4000, 3)
    assert 100 * means[:, 0].std() == pytest.approx(accuracy(first).standard_error, rel=0.04)
    np.testing.assert_allclose(means[:, 0], means[:, 1], rtol=1e-12)
    np.testing.assert_allclose(means[:, 0] + means[:, 2], 1, rtol=1e-12)


def test_resampling_depends_on_the_seed_alone_and_leaves_holes_out() -> None:
    scores = [[1.0, 0.0, NAN, 1.0], [NAN, NAN, NAN, NAN]]
    one, same = resample_means(scores, resamples=50, seed=1), resample_means(scores, resamples=50, seed=1)
    np.testing.assert_array_equal(one, same)
    assert np.isnan(one[:, 1]).all()
    assert not np.array_equal(one, resample_means(scores, resamples=50, seed=2))
