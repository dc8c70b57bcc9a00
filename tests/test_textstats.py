"""Text statistics against the paper's formulas worked by hand and known answers for the public NEFTune outputs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from neft_lab.textstats import (
    bleu,
    describe,
    log_diversity,
    output_characters,
    repetition,
    rouge_l,
    truncated_share,
    win_rate_by_length,
)

PUBLISHED = Path(__file__).parents[1].parent / "shared" / "data" / "alpaca_eval"
MAT = "the cat sat on the mat and the cat sat on the rug"


def read_outputs(name: str) -> list[str]:
    path = PUBLISHED / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here: AlpacaEval's outputs may not be copied into the project")
    return [row["output"] for row in json.loads(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(
    ("text", "repeats", "published", "intended"),
    [
        # r2 = 1/2, r3 = 1/3, r4 = 0 over N - k = 4, 3, 2 grams: the last gram is dropped
        ("a b a b a b", 50.0, 4.789494, 0.405465),
        ("a b c d e f", 0.0, 20.0, 20.0),
        (MAT, 100 * 4 / 11, 4.729266, 0.425359),  # r2 = 4/11, r3 = 3/10, r4 = 2/9
    ],
)
def test_diversity_of_toy_strings_is_that_of_the_formula(
    text: str, repeats: float, published: float, intended: float
) -> None:
    chunk = len(text.split())
    assert repetition(text, chunk=chunk) == pytest.approx(repeats)
    assert log_diversity(text, chunk=chunk, as_published=True) == pytest.approx(published, abs=1e-6)
    assert log_diversity(text, chunk=chunk, as_published=False) == pytest.approx(intended, abs=1e-6)


def test_only_the_first_chunk_counts_and_short_texts_have_none() -> None:
    assert log_diversity("a b c d e f f f f f", chunk=6, as_published=True) == 20
    assert log_diversity("a b c", chunk=6, as_published=True) is None
    assert repetition("a b c", chunk=6) is None
    with pytest.raises(ValueError, match="chunk must be at least 5 tokens, got 4"):
        repetition("a b c d", chunk=4)


@pytest.mark.parametrize(
    ("model", "characters", "tokens", "kept", "at_cap", "repeats", "published", "intended"),
    [
        ("alpaca-7b-neft", 1067.4957, 170.6969, 759, 538, 1.41908, 16.45439, 15.11847),
        ("alpaca-7b", 396.2932, 66.0609, 468, 135, 5.03472, 11.05396, 7.79536),
    ],
)
def test_the_public_outputs_have_their_known_answers(
    model: str,
    characters: float,
    tokens: float,
    kept: int,
    at_cap: int,
    repeats: float,
    published: float,
    intended: float,
) -> None:
    outputs = read_outputs(model)
    found = describe(outputs, chunk=50)
    assert (found.n, found.kept, found.without_repeats) == (805, kept, at_cap)
    assert (found.characters, found.tokens) == pytest.approx((characters, tokens), abs=1e-4)
    assert found.repetition == pytest.approx(repeats, abs=1e-5)
    assert found.diversity_published == pytest.approx(published, abs=1e-5)
    assert found.diversity_intended == pytest.approx(intended, abs=1e-5)
    assert output_characters(outputs) == int(characters)  # the leaderboard's avg_length


def test_win_rate_by_length_has_its_known_answers() -> None:
    path = PUBLISHED / "alpaca-7b-neft.alpaca_eval_gpt4.annotations.json"
    if not path.is_file():
        pytest.skip("AlpacaEval's annotations are not here: they may not be copied into the project")
    rows = json.loads(path.read_text(encoding="utf-8"))
    bands = win_rate_by_length([row["preference"] for row in rows], [len(row["output_2"]) for row in rows])
    assert [band.win_rate.n for band in bands] == [39, 114, 236, 378, 36]
    rates = [band.win_rate.value for band in bands]
    assert rates == pytest.approx([23.0769, 36.8421, 54.661, 76.1905, 75.0], abs=1e-4)


def test_bands_hold_their_lower_edge_and_may_be_empty() -> None:
    bands = win_rate_by_length([2, 1, None], [300, 299, 1])
    assert [(band.low, band.high, band.win_rate.n) for band in bands[:2]] == [(0, 300, 1), (300, 600, 1)]
    assert bands[1].win_rate.value == 100
    assert bands[-1].win_rate.n == 0 and math.isnan(bands[-1].win_rate.value)


def test_every_output_needs_a_verdict() -> None:
    with pytest.raises(ValueError):
        win_rate_by_length([2], [1, 1])


def test_rouge_l_is_the_longest_common_subsequence() -> None:
    # LCS "the cat sat on mat" = 5 of 6 words on either side... precision 5/6, recall 5/6.
    assert rouge_l("the cat sat on a mat", "the cat sat on the mat") == pytest.approx(5 / 6)
    assert rouge_l("the cat sat", "the cat sat on the mat") == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert rouge_l("", "the cat") == 0


def test_bleu_is_one_for_the_truth_and_follows_its_formula() -> None:
    assert bleu(MAT, MAT) == 1
    assert bleu("", "the cat") == 0
    # n-gram precisions 5/6, 3/5, 2/4, 1/3; no brevity penalty.
    expected = (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert bleu("the cat sat on a mat", "the cat sat on the mat") == pytest.approx(expected)
    # Four words of six, all right: brevity penalty e^(1 - 6/4).
    assert bleu("the cat sat on", "the cat sat on the mat") == pytest.approx(math.exp(-0.5))


def test_truncated_share_is_in_percent_and_unknown_without_outputs() -> None:
    assert truncated_share([True, True, True, False]) == 25
    assert math.isnan(truncated_share([]))


def test_a_summary_without_long_texts_has_lengths_but_no_diversity() -> None:
    found = describe(["a b", "c"], chunk=50)
    assert (found.characters, found.tokens, found.kept) == (2, 1.5, 0)
    assert math.isnan(found.diversity_intended) and math.isnan(found.repetition)
    with pytest.raises(ValueError, match="at least one text"):
        output_characters([])
