"""What a design can see: against statsmodels, formulas and its own named inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from neft_lab.budget import PUBLISHED_PAIR, smallest_difference
from neft_lab.statistics import Variation, measure_variation, minimum_detectable_difference, power


def test_a_single_seed_has_the_power_of_the_paired_t_test() -> None:
    from statsmodels.stats.power import TTestPower

    variation = Variation(paired_sd=50, seed_sd=0, source="user")
    for difference in (2.0, 5.0, 8.0):
        theirs = TTestPower().power(effect_size=difference / 50, nobs=805, alpha=0.05)
        ours = power(difference, items=805, seeds=1, variation=variation)
        assert ours == pytest.approx(theirs, abs=2e-3)


def test_when_only_seeds_vary_power_is_that_of_a_t_test_over_seeds() -> None:
    from statsmodels.stats.power import TTestPower

    variation = Variation(paired_sd=0, seed_sd=2, source="user")
    for seeds in (2, 3, 5):
        theirs = TTestPower().power(effect_size=4 / 2, nobs=seeds, alpha=0.05)
        assert power(4.0, items=805, seeds=seeds, variation=variation) == pytest.approx(theirs, abs=0.01)


def test_without_a_difference_the_power_is_the_level() -> None:
    variation = Variation(paired_sd=50, seed_sd=1.5, source="user", repeatable=0.5)
    for seeds in (1, 3, 5):
        assert power(0.0, items=805, seeds=seeds, variation=variation) == pytest.approx(0.05, abs=0.006)


def test_the_smallest_difference_is_found_with_the_asked_power() -> None:
    variation = Variation(paired_sd=56, seed_sd=1.0, source="user", repeatable=0.5)
    for seeds in (1, 3):
        found = minimum_detectable_difference(items=805, seeds=seeds, variation=variation, power=0.8)
        assert power(found, items=805, seeds=seeds, variation=variation) == pytest.approx(0.8, abs=1e-6)


def test_a_large_sample_needs_two_point_eight_standard_errors() -> None:
    found = minimum_detectable_difference(items=10_000, seeds=1, variation=Variation(50, 0, "user"))
    assert found == pytest.approx((1.95996 + 0.84162) * 50 / 100, rel=1e-3)


def test_seeds_help_as_far_as_the_variation_is_theirs() -> None:
    varied = Variation(50, 2.0, "user", repeatable=0.2)
    smallest = [minimum_detectable_difference(items=805, seeds=n, variation=varied) for n in (2, 3, 5, 10)]
    assert smallest == sorted(smallest, reverse=True)


def test_a_pilot_gives_back_the_variation_it_was_made_with() -> None:
    generator = np.random.default_rng(0)
    seeds, items = 40, 600
    repeated, fresh = generator.normal(0, 0.10, items), generator.normal(0, 0.05, (seeds, items))
    shifts = generator.normal(0, 0.03, (seeds, 1))
    found = measure_variation(
        np.clip(0.5 + repeated + fresh + shifts, 0, 1), np.full((seeds, items), 0.5), source="pilot"
    )
    assert found.paired_sd == pytest.approx(100 * math.hypot(0.10, 0.05), rel=0.05)
    assert found.repeatable == pytest.approx(0.8, abs=0.05)
    assert found.seed_sd == pytest.approx(3, rel=0.25)
    assert found.source == "pilot"


def test_one_seed_says_nothing_of_how_seeds_vary() -> None:
    found = measure_variation([0.1, 0.5, 0.9], [0.2, 0.2, 0.2], source="pilot")
    assert math.isnan(found.seed_sd)
    with pytest.raises(ValueError, match="seed_sd is not known from pilot: a design of 3 seeds needs it"):
        power(5.0, items=805, seeds=3, variation=found)


@pytest.mark.parametrize(
    "wrong", [{"paired_sd": -1.0}, {"seed_sd": -1.0}, {"repeatable": 1.5}, {"paired_sd": math.nan}]
)
def test_impossible_variations_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="standard deviations must be >= 0"):
        Variation(**{"paired_sd": 50.0, "seed_sd": 1.0, "source": "user", **wrong})  # type: ignore[arg-type]


def test_designs_that_cannot_be_run_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 items and 1 seed"):
        power(5.0, items=1, seeds=1, variation=PUBLISHED_PAIR)
    with pytest.raises(ValueError, match="power must lie between"):
        minimum_detectable_difference(items=805, seeds=1, variation=PUBLISHED_PAIR, power=0.01)
    with pytest.raises(ValueError, match="at least 1 comparison"):
        smallest_difference(items=805, seeds=1, comparisons=0)


def test_the_answer_names_its_inputs_and_their_source() -> None:
    text = str(
        smallest_difference(items=805, seeds=3, variation=Variation(50, 1.5, "pilot sweep starter_study"))
    )
    for part in ("805 instructions", "arms of 3 seeds", "80% power", "paired sd 50 points", "seed sd 1.5 points",
                 "from pilot sweep starter_study"):  # fmt: skip
        assert part in text
    assert "these two checkpoints" in str(smallest_difference(items=32, seeds=1))


def test_large_differences_are_written_out() -> None:
    lengths = Variation(1234.5, 61.0, "this sweep's own pairs")
    text = str(smallest_difference(items=100, seeds=3, variation=lengths, unit="characters"))
    assert "paired sd 1234 characters" in text and "seed sd 61 characters" in text and "e+" not in text


def test_an_unknown_seed_variation_is_said() -> None:
    found = smallest_difference(items=805, seeds=3)
    assert found.assumes_equal_seeds and "if seeds do not differ" in str(found)
    assert not smallest_difference(items=805, seeds=1).assumes_equal_seeds


def test_a_family_of_comparisons_needs_a_larger_difference() -> None:
    one, six = (smallest_difference(items=805, seeds=1, comparisons=n) for n in (1, 6))
    assert six.alpha == pytest.approx(0.05 / 6) and six.points > one.points
