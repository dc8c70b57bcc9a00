"""Length control: alpaca_eval's own function side by side, its traps avoided, and what the interval rests on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neft_lab.statistics import (
    Difficulty,
    Estimate,
    GamedBaselines,
    estimate_difficulty,
    length_controlled_difference,
    length_controlled_win_rate,
)
from neft_lab.statistics.length_fit import refit_resampled
from neft_lab.statistics.scores import Floats

PUBLISHED = Path(__file__).parents[1].parent / "shared" / "data" / "alpaca_eval"


@dataclass(frozen=True)
class Judged:
    """Outputs and verdicts of a made-up model, whose judge likes length and easy instructions."""

    preferences: Floats
    output_lengths: Floats
    reference_lengths: Floats
    difficulty: Floats
    gamed: GamedBaselines


def judge(seed: int, *, items: int = 200, quality: float = 0.3, likes_length: float = 1.2) -> Judged:
    generator = np.random.default_rng(seed)
    references = generator.integers(50, 900, items).astype(float)
    outputs = np.floor(references * generator.uniform(0.5, 2.5, items)) + 1
    difficulty = generator.normal(size=items)
    feature = np.tanh((references - outputs) / np.std(references - outputs, ddof=1))
    chance = 1 / (1 + np.exp(likes_length * feature - 0.8 * difficulty - quality))
    preferences = np.where(generator.random(items) < chance, 2.0, 1.0)
    preferences[generator.random(items) < 0.05] = 0
    gamed = GamedBaselines(
        scores=generator.random(2 * items),
        length_features=generator.normal(size=2 * items),
        difficulty=np.tile(difficulty, 2),
        items=np.tile(np.arange(items), 2),
    )
    return Judged(preferences, outputs, references, difficulty, gamed)


@pytest.fixture
def alpaca_evals_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Judged, str], float]:
    """alpaca_eval's own length-controlled win rate, given the difficulties that it would download."""
    pandas = pytest.importorskip("pandas")
    import sklearn
    from alpaca_eval.metrics import glm_winrate

    def evaluate(judged: Judged, name: str) -> float:
        gamed = {
            "model": "gamed",
            "index": judged.gamed.items,
            "preference": judged.gamed.scores,
            "std_delta_len": judged.gamed.length_features,
            "instruction_difficulty": judged.gamed.difficulty,
            "not_gamed_baseline": False,
        }
        pandas.DataFrame(gamed).to_csv(tmp_path / "df_gamed.csv", index=False)
        monkeypatch.setattr(glm_winrate, "hf_hub_download", lambda filename, **_: tmp_path / filename)
        frame = {
            "preference": judged.preferences,
            "output_1": ["r" * int(length) for length in judged.reference_lengths],
            "output_2": ["o" * int(length) for length in judged.output_lengths],
            "generator_1": "reference",
            "generator_2": "model",
        }
        with sklearn.config_context():  # alpaca_eval leaves scikit-learn's metadata routing on
            metrics = glm_winrate.get_length_controlled_winrate(
                pandas.DataFrame(frame), glm_name=name, save_weights_dir=None
            )
        return float(metrics["length_controlled_winrate"])

    return evaluate


def control(judged: Judged, **options: Any) -> Estimate:
    return length_controlled_win_rate(
        judged.preferences, judged.output_lengths, judged.reference_lengths, resamples=100, **options
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["length_controlled_v1", "length_controlled_noreg", "length_controlled_minimal"]
)
@pytest.mark.parametrize(("seed", "quality", "holes"), [(0, 0.3, 0), (1, -2.0, 5)])
def test_the_value_is_that_of_alpaca_evals_own_function(
    alpaca_evals_own: Callable[[Judged, str], float], name: str, seed: int, quality: float, holes: int
) -> None:
    judged = judge(seed, items=300, quality=quality)
    judged.preferences[:holes] = math.nan
    options: dict[str, Any] = {
        "length_controlled_v1": {"difficulty": judged.difficulty, "gamed": judged.gamed},
        "length_controlled_noreg": {"difficulty": judged.difficulty},
        "length_controlled_minimal": {},
    }[name]
    assert control(judged, **options).value == pytest.approx(alpaca_evals_own(judged, name), abs=1e-6)


def test_a_subset_uses_its_own_difficulties_whatever_the_order() -> None:
    judged = judge(2)
    kept = np.random.default_rng(0).permutation(200)[:120]
    part = Judged(
        judged.preferences[kept],
        judged.output_lengths[kept],
        judged.reference_lengths[kept],
        judged.difficulty[kept],
        judged.gamed,
    )
    right = control(part, difficulty=part.difficulty).value
    shifted = control(part, difficulty=judged.difficulty[:120]).value
    back = np.argsort(kept)
    ordered = Judged(
        part.preferences[back], part.output_lengths[back], part.reference_lengths[back], part.difficulty[back], part.gamed
    )  # fmt: skip
    assert right == pytest.approx(
        control(ordered, difficulty=ordered.difficulty).value, abs=1.0
    )  # other folds
    assert abs(right - shifted) > 0.01


def test_the_interval_has_its_nominal_width() -> None:
    # Without length or difficulty effects the model is a mean of 400 verdicts with one nuisance coefficient.
    generator = np.random.default_rng(0)
    verdicts = np.where(generator.random(400) < 0.5, 2.0, 1.0)
    lengths = generator.integers(100, 900, (2, 400))
    found = length_controlled_win_rate(verdicts, lengths[0], lengths[1])
    assert found.standard_error == pytest.approx(100 * math.sqrt(0.25 / 400), rel=0.1)
    assert found.high - found.low == pytest.approx(2 * 1.96 * found.standard_error, rel=0.1)
    assert found.low <= found.value <= found.high


def test_refits_are_scikit_learns_unpenalised_logistic_regressions() -> None:
    from sklearn.linear_model import LogisticRegression

    judged = judge(4)
    features = np.stack([np.tanh(judged.output_lengths / 500 - 1), judged.difficulty, np.ones(200)], axis=1)
    targets = np.where(judged.preferences == 0, 0.5, judged.preferences - 1)
    counts = np.random.default_rng(0).multinomial(200, np.full(200, 1 / 200), size=3).astype(float)
    ours = refit_resampled(features, targets, counts)
    for coefficients, weights in zip(ours, counts, strict=True):
        model = LogisticRegression(C=1e8, fit_intercept=False, tol=1e-10, max_iter=10_000)
        shares = np.concatenate([targets * weights, (1 - targets) * weights])
        model.fit(np.concatenate([features] * 2), np.repeat([1, 0], 200), sample_weight=shares)
        np.testing.assert_allclose(coefficients, model.coef_[0], atol=1e-4)


@pytest.mark.parametrize("wins", [1, 2, 59])
def test_refits_of_nearly_one_sided_verdicts_stay_finite(wins: int) -> None:
    generator = np.random.default_rng(0)
    features = np.stack([np.linspace(-1, 1, 60), np.ones(60)], axis=1)
    counts = generator.multinomial(60, np.full(60, 1 / 60), size=300).astype(float)
    found = refit_resampled(features, np.repeat([1.0, 0.0], [wins, 60 - wins]), counts)
    assert np.isfinite(found).all()
    won = counts[:, :wins].sum(axis=1)
    mixed = (won > 0) & (won < 60)
    logits = found @ features.T
    assert (logits[:, 0] > logits[:, -1])[mixed].all()  # the first items are the won ones


def test_the_estimate_says_where_the_difficulties_came_from() -> None:
    judged = judge(5)
    three = np.stack([judge(5, quality=q).preferences for q in (0.1, 0.2, 0.3)])
    lengths = np.tile(judged.output_lengths, (3, 1))
    many = length_controlled_win_rate(three, lengths, judged.reference_lengths, resamples=50)
    assert control(judged).difficulty == "none"
    assert control(judged, difficulty=judged.difficulty).difficulty == "given"
    assert (many.difficulty, many.seeds) == ("estimated", 3)
    estimated = estimate_difficulty(three, lengths, judged.reference_lengths)
    assert control(judged, difficulty=estimated.of([0])).difficulty == "estimated"


def test_estimated_difficulties_find_the_true_ones_without_a_rows_own_verdict() -> None:
    generator = np.random.default_rng(0)
    truth = generator.normal(size=150)
    chance = 1 / (1 + np.exp(-1.5 * truth))
    preferences = np.where(generator.random((12, 150)) < chance, 2.0, 1.0)
    lengths = generator.integers(100, 900, (13, 150))
    found = estimate_difficulty(preferences, lengths[:12], lengths[12])
    assert isinstance(found, Difficulty) and found.values.shape == (12, 150)
    assert found.values.std() == pytest.approx(1)
    assert np.corrcoef(found.values[0], truth)[0, 1] > 0.8
    # The verdict of a row is left out of its difficulties: among equally hard instructions they do not tell it.
    pure = estimate_difficulty(
        np.where(generator.random((2, 600)) < 0.5, 2.0, 1.0), np.ones((2, 600)), np.ones(600)
    )
    assert abs(pure.values.mean()) < 0.2


def test_difficulties_need_the_verdicts_on_another_row() -> None:
    with pytest.raises(ValueError, match="at least two rows"):
        estimate_difficulty([[1.0, 2.0]], [[3, 4]], [5, 6])


def test_gamed_baselines_come_with_difficulties() -> None:
    judged = judge(0)
    with pytest.raises(ValueError, match="pass the difficulty"):
        control(judged, gamed=judged.gamed)


def test_lengths_that_hardly_overlap_are_flagged_as_extrapolation() -> None:
    judged = judge(6)
    assert not control(judged).extrapolates
    longer = length_controlled_win_rate(
        judged.preferences, judged.reference_lengths + 300, judged.reference_lengths, resamples=20
    )
    assert longer.extrapolates and longer.length_overlap == 0


def test_a_model_against_itself_is_at_fifty() -> None:
    lengths = np.arange(100, 300)
    found = length_controlled_win_rate([1.5] * 200, lengths, lengths, resamples=20)
    assert found.value == pytest.approx(50) and (found.low, found.high) == pytest.approx((50, 50))


@pytest.mark.parametrize("preferences", [[None] * 30, [None] * 25 + [1.0, 2.0, 1.0, 2.0, 1.0]])
def test_too_few_verdicts_give_a_hole(preferences: list[float | None]) -> None:
    found = length_controlled_win_rate(preferences, np.arange(30), np.arange(30)[::-1])
    assert math.isnan(found.value) and found.n == sum(p is not None for p in preferences)


@pytest.mark.parametrize("preference", [1.0, 2.0])
def test_a_model_that_always_wins_or_loses_has_an_estimate(preference: float) -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(50, 900, (2, 60))
    found = length_controlled_win_rate([preference] * 60, lengths[0], lengths[1], resamples=50)
    assert 0 <= found.low <= found.value <= found.high <= 100
    assert found.value == pytest.approx(100 * (preference - 1), abs=0.1)
    assert found.high - found.low == pytest.approx(4.7, abs=0.2)  # 1.96 sqrt(2) / 60


def test_misshapen_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must have the same items, got \(1, 2\), \(1, 3\) and \(2,\)"):
        length_controlled_win_rate([1.0, 2.0], [1, 2, 3], [1, 2])


def test_the_difference_is_that_of_the_two_win_rates_and_more_precise_than_unpaired() -> None:
    one, other = judge(7), judge(7, quality=-0.5)  # the same instructions and draws
    found = length_controlled_difference(
        one.preferences, one.output_lengths, other.preferences, other.output_lengths, one.reference_lengths,
        difficulty=one.difficulty, resamples=300,
    )  # fmt: skip
    left, right = control(one, difficulty=one.difficulty), control(other, difficulty=one.difficulty)
    assert found.value == pytest.approx(left.value - right.value, abs=1e-9)
    assert found.standard_error < math.hypot(left.standard_error, right.standard_error)
    assert (found.about, found.test, found.n) == ("checkpoints", "resampled_t", 200)
    assert found.p_value < 0.05 and found.low > 0


def test_only_instructions_judged_in_both_arms_enter_the_difference() -> None:
    one, other = judge(7), judge(8)
    one.preferences[:5], other.preferences[5:9] = math.nan, math.nan
    found = length_controlled_difference(
        one.preferences, one.output_lengths, other.preferences, other.output_lengths, one.reference_lengths,
        resamples=20,
    )  # fmt: skip
    assert (found.n, found.dropped) == (191, 9)


def test_length_explains_most_of_the_published_gain() -> None:
    arms = []
    for model in ("alpaca-7b-neft", "alpaca-7b"):
        path = PUBLISHED / f"{model}.alpaca_eval_gpt4.annotations.json"
        if not path.is_file():
            pytest.skip("AlpacaEval's annotations are not here: they may not be copied into the project")
        arms.append(json.loads(path.read_text(encoding="utf-8")))
    preferences = [[row["preference"] for row in rows] for rows in arms]
    lengths = [[len(row["output_2"]) for row in rows] for rows in arms]
    references = [len(row["output_1"]) for row in arms[0]]
    found = length_controlled_difference(
        preferences[0], lengths[0], preferences[1], lengths[1], references, resamples=300
    )
    # Raw +35.2; the leaderboard's length-controlled values, with its own difficulties, differ by 31.61 - 26.29 = 5.3.
    assert found.low < 5.3 < found.high < 20


def test_seeds_that_repeat_each_other_add_no_information() -> None:
    judged = judge(9)
    rows = (np.tile(judged.preferences, (3, 1)), np.tile(judged.output_lengths, (3, 1)))
    three = length_controlled_win_rate(
        *rows, judged.reference_lengths, difficulty=judged.difficulty, resamples=100
    )
    one = control(judged, difficulty=judged.difficulty)
    assert (three.value, three.standard_error) == pytest.approx((one.value, one.standard_error), rel=1e-9)


def test_a_seed_without_verdicts_takes_its_difficulties_along() -> None:
    one, other = judge(9), judge(10)
    holes = np.full(200, math.nan)
    lengths = np.stack([one.output_lengths, one.output_lengths, other.output_lengths])
    rows = Difficulty(np.stack([one.difficulty, holes, other.difficulty]))
    found = length_controlled_win_rate(
        np.stack([one.preferences, holes, other.preferences]),
        lengths,
        one.reference_lengths,
        difficulty=rows,
        resamples=50,
    )
    assert (found.seeds, found.n) == (2, 200) and 0 < found.value < 100
