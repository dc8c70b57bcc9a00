"""What answers look like, apart from any judge: length, repetition, diversity, likeness to a ground truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from neft_lab.statistics import Estimate, win_rate

LENGTH_BANDS = (0.0, 300.0, 600.0, 1000.0, 2000.0, math.inf)
MOST_DIVERSE = 20.0
"""The log-diversity of a text without any repeat, in place of infinity."""


@dataclass(frozen=True)
class TextSummary:
    """Table 4 of the paper for one set of outputs."""

    characters: float
    tokens: float
    """Mean number of whitespace-separated tokens."""
    chunk: int
    n: int
    kept: int
    """Outputs of at least `chunk` tokens: the ones that the fields below are means over (NaN without any)."""
    repetition: float
    """Repeated 2-grams, percent."""
    diversity_published: float
    diversity_intended: float
    without_repeats: int
    """Chunks with no repeated 2-, 3- or 4-gram: they score the ceiling of 20 whatever else they say."""


@dataclass(frozen=True)
class TextMeasures:
    """What one output looks like; None where it is too short, or has no reference.

    words: whitespace-separated tokens. repetition: repeated 2-grams of the first chunk, percent. rouge_l, bleu: against
    the reference, percent.
    """

    characters: int
    words: int
    repetition: float | None
    diversity_published: float | None
    diversity_intended: float | None
    rouge_l: float | None
    bleu: float | None


@dataclass(frozen=True)
class LengthBand:
    """Win rate over the outputs whose length in characters lies in [low, high)."""

    low: float
    high: float
    win_rate: Estimate


def describe(outputs: Sequence[str], *, chunk: int) -> TextSummary:
    """Summarise lengths, repetition and diversity of `outputs`, over the first `chunk` tokens of each.

    The paper's chunks: 50, 100, 150, 150 for alpaca, evol_instruct, sharegpt, open_platypus.
    """
    rows = [measure(text, chunk=chunk) for text in outputs]
    kept = [row.diversity_intended for row in rows if row.diversity_intended is not None]
    return TextSummary(
        characters=_mean([row.characters for row in rows]),
        tokens=_mean([row.words for row in rows]),
        chunk=chunk,
        n=len(outputs),
        kept=len(kept),
        repetition=_mean([row.repetition for row in rows if row.repetition is not None]),
        diversity_published=_mean(
            [row.diversity_published for row in rows if row.diversity_published is not None]
        ),
        diversity_intended=_mean(kept),
        without_repeats=sum(value == MOST_DIVERSE for value in kept),
    )


def measure(text: str, *, chunk: int, reference: str | None = None) -> TextMeasures:
    """Measure one output; ``chunk`` as for ``describe``, ``reference`` is the answer it is compared with."""
    rates = _repetition_rates(text, chunk)
    return TextMeasures(
        characters=len(text),
        words=len(text.split()),
        repetition=None if rates is None else 100 * rates[0],
        diversity_published=None if rates is None else _log_diversity(rates, as_published=True),
        diversity_intended=None if rates is None else _log_diversity(rates, as_published=False),
        rouge_l=None if reference is None else 100 * rouge_l(text, reference),
        bleu=None if reference is None else 100 * bleu(text, reference),
    )


def output_characters(outputs: Sequence[str]) -> int:
    """AlpacaEval's `avg_length`: mean number of characters, cut to an integer."""
    if not outputs:
        raise ValueError("outputs must hold at least one text, got none")
    return int(_mean([len(text) for text in outputs]))


def repetition(text: str, *, chunk: int) -> float | None:
    """Share of repeated 2-grams among the first `chunk` whitespace tokens, percent; None if there are fewer tokens."""
    return measure(text, chunk=chunk).repetition


def log_diversity(text: str, *, chunk: int, as_published: bool) -> float | None:
    """Log-diversity of the first `chunk` whitespace tokens (paper, section 4); None if there are fewer tokens.

    -ln(1 - D), D the product of 1 - r over 2-, 3- and 4-grams, r the share of repeats. The paper's code divides r, a
    fraction already, by 100 once more: `as_published` does so too, for comparison with its numbers only.
    """
    found = measure(text, chunk=chunk)
    return found.diversity_published if as_published else found.diversity_intended


def rouge_l(output: str, truth: str) -> float:
    """ROUGE-L F1 in [0, 1] (rouge-score: lower case, alphanumeric tokens, no stemming)."""
    return float(_rouge_scorer()(truth, output))


def bleu(output: str, truth: str) -> float:
    """BLEU-4 of one answer in [0, 1] (sacrebleu: 13a tokens, exponential smoothing, effective order)."""
    import sacrebleu

    return min(float(sacrebleu.sentence_bleu(output, [truth]).score) / 100, 1.0)


def truncated_share(ended: Sequence[bool]) -> float:
    """Percent of outputs cut at the length limit; `ended` says of each whether it came to its end by itself."""
    return _mean([0.0 if done else 100.0 for done in ended])


def win_rate_by_length(
    preferences: Sequence[float | None], characters: Sequence[float], *, bands: Sequence[float] = LENGTH_BANDS
) -> list[LengthBand]:
    """Win rate within bands of the output's own length; `bands` are the edges in characters, rising."""
    pairs = list(zip(preferences, characters, strict=True))
    return [
        LengthBand(low, high, win_rate([preference for preference, length in pairs if low <= length < high]))
        for low, high in pairwise(bands)
    ]


def _repetition_rates(text: str, chunk: int) -> tuple[float, float, float] | None:
    """Share of repeats among the 2-, 3- and 4-grams of the first `chunk` tokens.

    The last n-gram is left out, as in the code behind the paper; with it the published columns do not come out.
    """
    if chunk < 5:
        raise ValueError(f"chunk must be at least 5 tokens, got {chunk}")
    tokens = text.split()[:chunk]
    if len(tokens) < chunk:
        return None

    def rate(order: int) -> float:
        grams = {tuple(tokens[start : start + order]) for start in range(chunk - order)}
        return 1 - len(grams) / (chunk - order)

    return rate(2), rate(3), rate(4)


def _log_diversity(rates: tuple[float, float, float], *, as_published: bool) -> float:
    divisor = 100 if as_published else 1
    repeated = 1 - math.prod(1 - rate / divisor for rate in rates)
    return MOST_DIVERSE if repeated <= math.exp(-MOST_DIVERSE) else -math.log(repeated)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


@cache
def _rouge_scorer() -> Callable[[str, str], float]:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    return lambda truth, output: scorer.score(truth, output)["rougeL"].fmeasure
