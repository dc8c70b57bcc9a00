"""Families of comparisons, equivalence, replication and the best of a table."""

from __future__ import annotations

import math

import numpy as np
import pytest

from neft_lab.statistics import (
    PairedDifference,
    benjamini_hochberg,
    compare_with_best,
    equivalence,
    holm,
    paired_difference,
    replication,
)
from neft_lab.statistics.paired import summarize
from neft_lab.statistics.spread import Spread


def difference(value: float, standard_error: float) -> PairedDifference:
    """A difference over so many items that t is normal."""
    spread = Spread(0.0, standard_error**2, 1, 100_000)
    return summarize(value, spread, spread.p_value(value), "sign_flip", n=100_000, asked=100_000)


def test_holm_multiplies_step_by_step() -> None:
    # By hand: 4 x .01, max(3 x .02, .04), max(2 x .03, .06), max(1 x .04, .06).
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.02]), [0.04, 0.06, 0.06, 0.06])


def test_benjamini_hochberg_gives_the_smallest_rate_at_which_each_is_found() -> None:
    # By hand, sorted .01 .02 .03 .2: 4/1 x .01, 4/2 x .02, 4/3 x .03, .2.
    np.testing.assert_allclose(benjamini_hochberg([0.2, 0.01, 0.03, 0.02]), [0.2, 0.04, 0.04, 0.04])


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
def test_a_comparison_that_could_not_be_made_stays_out_of_the_family(adjust: type[holm]) -> None:
    np.testing.assert_allclose(adjust([0.02, math.nan, 0.04]), [0.04, math.nan, 0.04])
    assert len(adjust([])) == 0 and np.isnan(adjust([math.nan])).all()


@pytest.mark.parametrize(
    ("value", "standard_error", "verdict"),
    [
        (0.0, 0.3, "preserved"),  # 90 % interval +-0.49
        (0.0, 0.7, "undecided"),  # +-1.15: no difference seen, and none excluded
        (-0.6, 0.2, "preserved"),  # [-0.93, -0.27]: lower for sure, within the margin all the same
        (-3.0, 0.5, "lost"),
        (-1.5, 0.5, "undecided"),  # [-2.3, -0.7]
        (3.0, 0.5, "gained"),
        (math.nan, math.nan, "undecided"),
    ],
)
def test_preservation_needs_the_interval_within_the_margin(
    value: float, standard_error: float, verdict: str
) -> None:
    assert equivalence(difference(value, standard_error), 1.0) == verdict


def test_equivalence_is_statsmodels_two_one_sided_tests() -> None:
    from statsmodels.stats.weightstats import ttost_paired

    generator = np.random.default_rng(0)
    for shift in (0.0, 0.01, 0.03):
        a = generator.random(300)
        b = np.clip(a + generator.normal(shift, 0.1, 300), 0, 1)
        p_value = ttost_paired(100 * a, 100 * b, -2, 2)[0]
        assert (equivalence(paired_difference(a, b), 2.0) == "preserved") == (p_value < 0.05)


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan])
def test_a_margin_must_be_positive(margin: float) -> None:
    with pytest.raises(ValueError, match="margin must be > 0 points"):
        equivalence(difference(0, 1), margin)


@pytest.mark.parametrize(
    ("value", "standard_error", "verdict"),
    [
        (30.0, 2.0, "outside"),  # the paper says 35
        (35.0, 2.0, "reproduced"),
        (10.0, 20.0, "inconclusive"),  # holds 35 and 0
        (27.0, 6.0, "inconclusive"),  # holds 35, not 0, but 8 points away
        (math.nan, math.nan, "inconclusive"),
    ],
)
def test_replication_is_judged_on_the_effect(value: float, standard_error: float, verdict: str) -> None:
    assert replication(difference(value, standard_error), published=35.0, margin=5.0) == verdict


def test_the_best_is_not_alone_unless_the_data_say_so() -> None:
    generator = np.random.default_rng(0)
    base = generator.random(400)
    scores = [
        np.clip(base + shift + generator.normal(0, 0.05, 400), 0, 1) for shift in (0.0, 0.3, 0.302, 0.1)
    ]
    found = compare_with_best(scores)
    leader = int(np.argmax([score.mean() for score in scores]))
    assert [cell.cell for cell in found] == [0, 1, 2, 3]
    assert [cell.contends for cell in found] == [False, True, True, False]
    assert [cell.leads for cell in found] == [index == leader for index in range(4)]
    assert math.isnan(found[leader].p_value)


def test_cells_are_compared_on_the_items_they_share() -> None:
    cells = [[1.0, 1.0, 0.0, math.nan], [math.nan, 0.0, 0.0, 1.0]]
    assert [cell.leads for cell in compare_with_best(cells)] == [True, False]
    with pytest.raises(ValueError, match="no item is scored in every cell"):
        compare_with_best([[1.0, math.nan], [math.nan, 1.0]])
    with pytest.raises(ValueError, match="same seeds and items"):
        compare_with_best([[1.0, 0.0], [1.0]])
