"""Paired differences: tests against scipy, tables and hand-worked sums; intervals against their definition."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from neft_lab.statistics import (
    Replication,
    mcnemar_mid_p,
    paired_difference,
    preference_scores,
    replication,
    sign_flip_p,
)
from neft_lab.statistics.spread import Spread

PUBLISHED = Path(__file__).parents[1].parent / "shared" / "data" / "alpaca_eval"
NAN = math.nan


def test_one_seed_speaks_of_checkpoints_and_more_of_arms() -> None:
    scores = np.random.default_rng(0).random((3, 40))
    assert paired_difference(scores[0], scores[1]).about == "checkpoints"
    both = paired_difference(scores, scores[:, ::-1])
    assert (both.about, both.seeds, both.test) == ("arms", 3, "crossed_t")


def test_a_single_seed_has_the_paired_t_interval() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.random(50), generator.random(50)
    found, theirs = paired_difference(a, b), stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((100 * theirs.low, 100 * theirs.high), rel=1e-4)
    assert found.value == pytest.approx(100 * (a - b).mean())


@pytest.mark.parametrize("count", [6, 12])
def test_few_items_are_flipped_in_every_way_as_scipy_does(count: int) -> None:
    values = np.random.default_rng(count).normal(0.4, 1, count)
    theirs = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=2**count)
    assert sign_flip_p(values) == pytest.approx(theirs.pvalue, abs=1e-12)


def test_many_items_are_flipped_at_random_and_agree_with_the_t_test() -> None:
    values = np.random.default_rng(5).normal(0.1, 1, 500)
    assert sign_flip_p(values, resamples=20_000) == pytest.approx(
        stats.ttest_1samp(values, 0).pvalue, abs=0.006
    )


def test_the_same_seed_gives_the_same_p_value() -> None:
    values = np.random.default_rng(5).normal(0.1, 1, 100)
    assert sign_flip_p(values, seed=3) == sign_flip_p(values, seed=3) != sign_flip_p(values, seed=4)


def test_flipping_wins_and_losses_is_mcnemars_mid_p() -> None:
    values = np.array([1.0] * 40 + [-1.0] * 22 + [0.0] * 100)
    assert sign_flip_p(values, resamples=100_000) == pytest.approx(mcnemar_mid_p(40, 22), abs=0.002)


def test_mcnemars_mid_p_is_that_of_the_textbook() -> None:
    # Fagerland et al. (2013), table 1 (1 and 7 discordant): exact 0.0703, mid-p 0.0391.
    assert mcnemar_mid_p(1, 7) == pytest.approx(0.0391, abs=5e-5)
    assert mcnemar_mid_p(7, 1) == mcnemar_mid_p(1, 7)
    assert mcnemar_mid_p(0, 0) == mcnemar_mid_p(5, 5) == 1


def test_the_declared_test_is_used_whatever_the_values() -> None:
    a, b = np.array([1.0, 1, 1, 1, 1, 1, 1, 0, 0, 0]), np.array([0.0, 0, 0, 0, 0, 0, 0, 1, 0, 0])
    assert paired_difference(a, b).test == "sign_flip"
    documents = paired_difference(a, b, test="mcnemar")
    assert (documents.test, documents.p_value) == ("mcnemar_mid_p", pytest.approx(0.0391, abs=5e-5))


def test_mcnemar_refuses_graded_scores_and_clusters() -> None:
    with pytest.raises(ValueError, match="needs scores of 0 or 1; use test='sign_flip'"):
        paired_difference([0.5, 1.0, 0.0], [0.0, 1.0, 0.0], test="mcnemar")
    with pytest.raises(ValueError, match="takes no clusters"):
        paired_difference([1.0, 1.0, 0.0], [0.0, 1.0, 0.0], test="mcnemar", clusters=["a", "a", "b"])


def test_a_subject_flips_as_a_whole() -> None:
    # Six subjects of ten documents, all better in the same arm: 2 of 2^6 patterns are as extreme.
    a, b = np.full(60, 0.9), np.repeat([0.5, 0.6, 0.7, 0.4, 0.3, 0.2], 10)
    found = paired_difference(a, b, clusters=np.repeat(np.arange(6), 10))
    assert found.p_value == pytest.approx(2 / 64)
    assert found.standard_error == pytest.approx(
        100 * np.std([0.4, 0.3, 0.2, 0.5, 0.6, 0.7], ddof=1) / math.sqrt(6)
    )


def test_only_items_scored_in_both_arms_and_all_seeds_count() -> None:
    a = [[1.0, 1.0, NAN, 1.0, 0.0], [1.0, 0.0, 1.0, 1.0, 0.0]]
    b = [[0.0, NAN, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0, 0.0]]
    found = paired_difference(a, b)
    assert (found.n, found.dropped, found.value) == (3, 2, pytest.approx(50))


def test_a_seed_lost_in_one_arm_is_left_out_of_both() -> None:
    a = np.random.default_rng(0).random((3, 20))
    b = a[:, ::-1].copy()
    b[2] = NAN
    found = paired_difference(a, b)
    assert (found.seeds, found.dropped) == (2, 0)
    assert found.value == pytest.approx(paired_difference(a[:2], b[:2]).value)
    b[1] = NAN
    assert paired_difference(a, b).about == "checkpoints"


def test_arms_without_common_scores_give_a_hole_and_no_error() -> None:
    found = paired_difference([1.0, NAN], [NAN, 1.0])
    assert found.n == 0 and math.isnan(found.value) and math.isnan(found.p_value) and math.isnan(found.low)


def test_arms_of_unequal_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same seeds and items, got \(1, 2\) and \(1, 3\)"):
        paired_difference([1.0, 0.0], [1.0, 0.0, 1.0])


def test_equal_verdicts_do_not_pretend_to_certainty_but_equal_graded_scores_do() -> None:
    losses = paired_difference([0.0] * 32, [0.0] * 32)
    assert losses.p_value == 1 and losses.high == pytest.approx(100 * 2.04 * math.sqrt(2) / 32, abs=0.02)
    graded = paired_difference([0.3, 0.7, 0.2], [0.3, 0.7, 0.2])
    assert (graded.low, graded.high) == (0, 0)


def test_means_of_equal_verdicts_over_data_sets_do_not_pretend_to_certainty_either() -> None:
    """Items that three data sets have won twice: a third is no half, and yet nothing was seen to vary."""
    scores = [2 / 3, 1 / 3, 1.0, 0.0] * 8
    found = paired_difference(scores, scores, averaged=3)
    assert found.high == pytest.approx(100 * 2.04 * math.sqrt(2) / 32, abs=0.02)
    assert replication(found, published=5.0, margin=2.0) is Replication.INCONCLUSIVE


def test_losses_are_compared_in_their_own_unit() -> None:
    found = paired_difference([2.5, 3.0, 2.0], [2.0, 2.0, 2.0], scale=1)
    assert found.value == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"scores must lie in \[0, 1\]"):
        paired_difference([2.5, 3.0, 2.0], [2.0, 2.0, 2.0])


def test_rates_differ_by_no_more_than_a_hundred_points() -> None:
    few = paired_difference([[1.0, 0.0]] * 3, [[0.0, 0.0]] * 3)
    assert (few.low, few.high) == (-100, 100) and few.interval()[1] > 100
    losses = paired_difference([500.0, 0.0], [0.0, 0.0], scale=1)
    assert losses.high > 1000


def test_when_only_seeds_vary_the_interval_is_students_over_seeds() -> None:
    shifts = np.array([0.1, 0.3, 0.2])[:, None]
    found = paired_difference(np.full((3, 50), 0.5) + shifts, np.full((3, 50), 0.5))
    theirs = stats.t.interval(0.95, 2, loc=20, scale=10 / math.sqrt(3))
    assert (found.low, found.high) == pytest.approx(theirs, rel=1e-6)


def test_without_seed_variation_several_seeds_give_the_interval_over_items() -> None:
    spread = Spread(seed_variance=1e-9, item_variance=4.0, seeds=3, items=805)
    assert spread.half_width() == pytest.approx(2 * stats.t.ppf(0.975, 804), rel=0.01)


@pytest.mark.parametrize("items", [6, 20, 805])
def test_students_t_without_scipy_is_close_to_scipys(items: int) -> None:
    for level in (0.9, 0.95, 0.99):
        ours = Spread(0.0, 1.0, 1, items).half_width(level)
        assert ours == pytest.approx(stats.t.ppf((1 + level) / 2, items - 1), rel=0.01)


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_p_value_and_interval_agree(seeds: int) -> None:
    spread = Spread(0.0 if seeds == 1 else 0.6, 0.4, seeds, 300)
    for level in (0.9, 0.95, 0.99):
        assert spread.p_value(spread.half_width(level)) == pytest.approx(1 - level, rel=1e-3)


def test_the_published_pair_differs_by_35_points() -> None:
    scores = []
    for model in ("alpaca-7b-neft", "alpaca-7b"):
        path = PUBLISHED / f"{model}.alpaca_eval_gpt4.annotations.json"
        if not path.is_file():
            pytest.skip("AlpacaEval's annotations are not here: they may not be copied into the project")
        scores.append(preference_scores([row["preference"] for row in json.loads(path.read_text("utf-8"))]))
    found = paired_difference(scores[0], scores[1])
    assert (found.n, found.dropped) == (803, 2)  # two verdicts of the NEFTune model did not parse
    assert found.value == pytest.approx(35.2, abs=0.1)  # 61.64 - 26.46, but for the two rows
    assert found.p_value == pytest.approx(1 / 10_001)
