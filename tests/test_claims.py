"""What is said of arms: families, corrections, equal items, margins, doses and the best; on cells made up."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neft_lab.claims.answer import answer_sentence, warnings_of
from neft_lab.claims.arms import best_arms, make_arms
from neft_lab.claims.comparisons import Comparison, compare, detectable_difference, label_comparisons
from neft_lab.claims.results import CellResult
from neft_lab.config import SweepConfig
from neft_lab.plan import expand
from neft_lab.statistics import paired_difference, sign_flip_p
from neft_lab.tables import difference_table
from tests.claim_cases import make_row

ITEMS = 40


def draw(seed: int, rate: float) -> list[float]:
    return (np.random.default_rng(seed).random(ITEMS) < rate).astype(float).tolist()


def make_grid(
    root: Path, rates: dict[Any, float], *, key: str = "noise.alpha", **axes: Any
) -> list[CellResult]:
    """One cell per value of the key, each compared with the first."""
    base = {**axes, key: next(iter(rates))}
    return [
        make_row(root, {**axes, key: value}, draw(place, rate), baseline=None if place == 0 else base)
        for place, (value, rate) in enumerate(rates.items())
    ]


def primary(rows: list[CellResult], sweep: SweepConfig) -> list[Comparison]:
    return compare(rows, sweep, [sweep.primary])


def test_claims_are_corrected_by_holm_over_the_whole_sweep(tmp_path: Path) -> None:
    found = primary(make_grid(tmp_path, {0: 0.2, 5: 0.55, 10: 0.5, 15: 0.2}), SweepConfig())
    raw = [one.difference.p_value for one in found]
    smallest = int(np.argmin(raw))
    assert found[smallest].adjusted_p == pytest.approx(3 * raw[smallest])
    assert {(one.correction, one.family) for one in found} == {("Holm", 3)}
    assert all((one.verdict == "higher") == (one.adjusted_p < 0.05) for one in found)  # type: ignore[operator]


def test_the_family_is_what_the_sweep_file_names(tmp_path: Path) -> None:
    rows = [
        row
        for name in ("starter", "alpaca")
        for row in make_grid(tmp_path, {0: 0.2, 5: 0.5, 10: 0.4}, dataset=name)
    ]
    assert {one.family for one in primary(rows, SweepConfig())} == {4}
    for one in primary(rows, SweepConfig(family=["noise.alpha"])):
        assert one.family == 2
        assert one.adjusted_p is not None and one.adjusted_p <= 2 * one.difference.p_value


def test_an_arm_is_told_with_the_data_set_it_was_compared_on(tmp_path: Path) -> None:
    rows = [
        row
        for name in ("starter", "alpaca")
        for row in make_grid(tmp_path, {0: 0.1, 5: 0.9}, dataset=name, seed=0)
    ]
    found = primary(rows, SweepConfig(family=["noise.alpha"]))
    assert label_comparisons(found) == ["starter, α 5", "alpaca, α 5"]
    assert [row[0] for row in difference_table(found).rows] == ["starter, α 5", "alpaca, α 5"]
    told = answer_sentence(found, SweepConfig(), rows)
    assert "the checkpoint with noise scale α 5 (starter) is higher by" in told
    assert "the checkpoint with noise scale α 5 (alpaca) is higher by" in told
    assert "over families of 1 comparison)" in told
    (alone,) = primary(rows[:2], SweepConfig())
    assert label_comparisons([alone]) == ["α 5"]


def test_the_answer_is_in_the_unit_of_its_metric(tmp_path: Path) -> None:
    sweep = SweepConfig(primary="held_out_loss")
    base = np.random.default_rng(0).normal(2, 0.3, 50)
    rows = [
        make_row(tmp_path, {"noise.alpha": alpha}, draw(0, 0.5), baseline={"noise.alpha": 0} if alpha else None,
                 losses=(base + alpha * np.linspace(0.018, 0.022, 50)).tolist())
        for alpha in (0, 5)
    ]  # fmt: skip
    told = answer_sentence(primary(rows, sweep), sweep, rows)
    assert told.startswith(
        "Against the baseline, on held-out loss: the checkpoint with noise scale α 5 is higher by 0.1"
    )
    assert "] nats (Holm" in told


def test_arms_without_a_score_in_common_are_told_so(tmp_path: Path) -> None:
    rows = [
        make_row(tmp_path, {"noise.alpha": 0}, [0.5, None, None]),
        make_row(tmp_path, {"noise.alpha": 5}, [None, 0.5, 0.5], baseline={"noise.alpha": 0}),
    ]
    told = answer_sentence(primary(rows, SweepConfig()), SweepConfig(), rows)
    assert told.endswith("No two arms have scores on the same items.")


def test_false_discoveries_are_allowed_only_where_the_sweep_is_marked_exploratory(tmp_path: Path) -> None:
    rows = make_grid(tmp_path, {0: 0.2, 5: 0.55, 10: 0.5, 15: 0.45})
    strict, loose = primary(rows, SweepConfig()), primary(rows, SweepConfig(exploratory=True))
    assert {one.correction for one in loose} == {"Benjamini-Hochberg"}
    assert all(a.adjusted_p >= b.adjusted_p for a, b in zip(strict, loose, strict=True))  # type: ignore[operator]
    assert "exploratory, Benjamini-Hochberg" in answer_sentence(loose, SweepConfig(exploratory=True), rows)
    assert "(Holm, 5%, over 3 comparisons)" in answer_sentence(strict, SweepConfig(), rows)


def test_only_the_primary_metric_is_claimed(tmp_path: Path) -> None:
    rows = [
        make_row(tmp_path, {"noise.alpha": 0}, draw(0, 0.3), losses=[2.0, 2.5, 3.0]),
        make_row(
            tmp_path, {"noise.alpha": 5}, draw(1, 0.3), losses=[1.0, 1.4, 2.1], baseline={"noise.alpha": 0}
        ),
    ]
    found = {one.metric: one for one in compare(rows, SweepConfig(), ["win_rate", "held_out_loss"])}
    assert found["held_out_loss"].adjusted_p is None and found["held_out_loss"].verdict == "described"
    assert found["win_rate"].adjusted_p is not None


def test_both_arms_count_the_same_instructions_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    """AlpacaEval drops a verdict that is not parsed from one arm alone, and then compares different questions."""
    base, arm = draw(0, 0.5), draw(1, 0.5)
    rows = [
        make_row(tmp_path, {"noise.alpha": 0}, [None, None, *base[2:]]),
        make_row(tmp_path, {"noise.alpha": 5}, [*arm[:-1], None], baseline={"noise.alpha": 0}),
    ]
    (one,) = primary(rows, SweepConfig())
    assert one.difference.n == ITEMS - 3
    assert one.difference.value == pytest.approx(100 * (np.mean(arm[2:-1]) - np.mean(base[2:-1])))
    assert "3 of 40 items lack a score in some arm" in one.flags


def test_one_seed_speaks_of_two_checkpoints_and_more_of_arms(tmp_path: Path) -> None:
    def rows(seeds: int) -> list[CellResult]:
        return [row for seed in range(seeds) for row in make_grid(tmp_path, {0: 0.1, 5: 0.9}, seed=seed)]

    (one,), (three,) = primary(rows(1), SweepConfig()), primary(rows(3), SweepConfig())
    assert (one.difference.about, three.difference.about) == ("checkpoints", "arms")
    assert "the checkpoint with" in answer_sentence([one], SweepConfig(), rows(1))
    assert "checkpoint" not in answer_sentence([three], SweepConfig(), rows(3))
    assert any("between checkpoints" in line for line in warnings_of([one], rows(1)))
    assert not any("between checkpoints" in line for line in warnings_of([three], rows(3)))


@pytest.mark.parametrize(
    ("margin", "verdict"),
    [({"leaderboard": 1.0}, "described"), ({"held_out_loss": 0.5}, "preserved"), ({"held_out_loss": 0.001}, "undecided"), ({}, "described")],
)  # fmt: skip
def test_preserved_is_an_equivalence_test_with_the_sweeps_margin(
    tmp_path: Path, margin: dict[str, float], verdict: str
) -> None:
    losses = np.random.default_rng(0).normal(2, 0.5, 60)
    rows = [
        make_row(tmp_path, {"noise.alpha": 0}, draw(0, 0.3), losses=losses.tolist()),
        make_row(tmp_path, {"noise.alpha": 5}, draw(1, 0.3), baseline={"noise.alpha": 0},
                 losses=(losses + np.random.default_rng(1).normal(0, 0.1, 60)).tolist()),
    ]  # fmt: skip
    (one,) = compare(rows, SweepConfig(margin=margin), ["held_out_loss"])
    assert one.verdict == verdict


def test_a_judge_that_is_not_validated_decides_nothing(tmp_path: Path) -> None:
    rows = make_grid(tmp_path, {0: 0.0, 5: 1.0})
    rows = [replace(row, metrics={**row.metrics, "judge_validated": 0.0}) for row in rows]
    (one,) = primary(rows, SweepConfig())
    assert one.verdict == "judge not validated" and one.adjusted_p is not None and one.adjusted_p < 0.05
    assert answer_sentence([one], SweepConfig(), rows).startswith("No answer: this judge is not validated")


def test_the_best_is_bold_only_where_a_comparison_rules_others_out(tmp_path: Path) -> None:
    rows = make_grid(tmp_path, {0: 0.1, 5: 0.9, 10: 0.88})
    arms = make_arms(rows, ["win_rate"])
    assert best_arms(arms, "win_rate") == {1, 2}
    alike = make_arms(make_grid(tmp_path, {0: 0.5, 5: 0.52, 10: 0.48}), ["win_rate"])
    assert best_arms(alike, "win_rate") == frozenset(), "where nobody is ruled out nobody is the best"
    assert best_arms(arms, "output_characters") == frozenset(), "longer is not better"


def test_the_lowest_loss_is_the_best(tmp_path: Path) -> None:
    spread = np.random.default_rng(0).normal(2, 0.3, 50)
    rows = [
        make_row(tmp_path, {"noise.alpha": alpha}, draw(0, 0.5), losses=(spread + shift).tolist())
        for alpha, shift in ((0, 0.4), (5, 0.0))
    ]
    rows[0] = make_row(
        tmp_path, {"noise.alpha": 0}, draw(0, 0.5), losses=(spread + np.linspace(0.3, 0.5, 50)).tolist()
    )
    assert best_arms(make_arms(rows, ["held_out_loss"]), "held_out_loss") == {1}


def configured(row: CellResult, *overrides: str) -> CellResult:
    quick = ["judge=longest", "leaderboard=none", "tracker=none"]
    return replace(row, config=expand([*overrides, *quick])[0].config)


def dosed(root: Path, kind: str, alpha: float, equivalent: float) -> CellResult:
    row = make_row(root, {"noise": kind}, draw(len(kind), 0.5), baseline={"noise": "none"},
                   metrics={"equivalent_alpha": equivalent})  # fmt: skip
    return configured(row, f"noise={kind}", f"noise.alpha={alpha}")


def test_arms_called_matched_whose_measured_doses_differ_are_flagged(tmp_path: Path) -> None:
    plain = configured(make_row(tmp_path, {"noise": "none"}, draw(0, 0.5)), "noise=none")
    uniform = dosed(tmp_path, "uniform", 5, 5.0)
    fair, unfair = dosed(tmp_path, "gaussian_matched", 5, 5.1), dosed(tmp_path, "gaussian_matched", 5, 8.66)
    assert not any(one.flags for one in primary([plain, uniform, fair], SweepConfig()))
    flags = [one.flags for one in primary([plain, uniform, unfair], SweepConfig())]
    assert flags[1] == ["called matched, but measured doses differ: equivalent alpha 8.66 and 5"]
    raw = dosed(tmp_path, "gaussian", 5, 8.66)
    assert not any(one.flags for one in primary([plain, uniform, raw], SweepConfig())), (
        "raw noise claims no match"
    )
    assert all(one.flags for one in primary([plain, uniform, raw], SweepConfig(matched_dose=True)))


def test_length_controlled_differences_stand_beside_raw_ones(tmp_path: Path) -> None:
    """An arm that wins by length alone: the raw difference is clear, the controlled one is not."""
    generator = np.random.default_rng(0)
    count = 200
    lengths = {0: generator.integers(60, 140, count), 5: generator.integers(100, 300, count)}
    rows = [
        make_row(tmp_path, {"noise.alpha": alpha}, (generator.random(count) < 1 / (1 + np.exp(-(sizes - 100) / 40))).astype(float).tolist(),
                 lengths=sizes.tolist(), baseline=None if alpha == 0 else {"noise.alpha": 0})
        for alpha, sizes in lengths.items()
    ]  # fmt: skip
    raw, controlled = compare(rows, SweepConfig(), ["win_rate", "length_controlled_win_rate"])
    assert raw.difference.value > 25 and raw.verdict == "higher"
    assert controlled.difference.value < raw.difference.value / 2
    assert controlled.verdict == "described" and controlled.difference.n == count


def test_a_single_seed_is_tested_by_flipping_signs(tmp_path: Path) -> None:
    rows = make_grid(tmp_path, {0: 0.3, 5: 0.6})
    (one,) = primary(rows, SweepConfig())
    differences = np.array(draw(1, 0.6)) - np.array(draw(0, 0.3))
    assert one.difference.test == "sign_flip"
    assert one.difference.p_value == pytest.approx(sign_flip_p(differences), abs=0.01)


def test_what_a_sweep_could_have_seen_is_measured_on_its_own_pairs(tmp_path: Path) -> None:
    rows = make_grid(tmp_path, {0: 0.3, 5: 0.6, 10: 0.5})
    found = detectable_difference(rows, SweepConfig())
    assert found is not None
    differences = [
        100 * (np.array(draw(place, rate)) - np.array(draw(0, 0.3))) for place, rate in ((1, 0.6), (2, 0.5))
    ]
    assert found.variation.paired_sd == pytest.approx(max(one.std(ddof=1) for one in differences))
    assert found.alpha == pytest.approx(0.05 / 2) and "this sweep's own pairs" in str(found)


def test_a_loss_is_detectable_in_nats(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(2, 0.5, 50)
    rows = [
        make_row(tmp_path, {"noise.alpha": 0}, draw(0, 0.5), losses=base.tolist()),
        make_row(tmp_path, {"noise.alpha": 5}, draw(0, 0.5), losses=(base + generator.normal(0, 0.1, 50)).tolist(),
                 baseline={"noise.alpha": 0}),
    ]  # fmt: skip
    found = detectable_difference(rows, SweepConfig(primary="held_out_loss"))
    assert found is not None
    assert found.points == pytest.approx(2.87 * 0.1 / math.sqrt(50), rel=0.2)
    assert "50 rows" in str(found) and "nats" in str(found)


def test_arms_that_answer_alike_say_nothing_of_the_spread(tmp_path: Path) -> None:
    scores = draw(0, 0.5)
    rows = [
        make_row(tmp_path, {"noise.alpha": 0}, scores),
        make_row(tmp_path, {"noise.alpha": 5}, scores, baseline={"noise.alpha": 0}),
    ]
    assert detectable_difference(rows, SweepConfig()) is None
    assert paired_difference(scores, scores).value == 0
