"""Judges that read nothing: the longer answer, and a coin. A judge worth its price beats both."""

from __future__ import annotations

import random
from collections.abc import Sequence

from neft_lab.judging.pairs import DRAW, TIE, Pair, Verdict


def prefer_longest(pairs: Sequence[Pair]) -> list[Verdict]:
    """The answer with more characters wins; equal lengths are a draw."""
    return [Verdict(preference=_longer(pair)) for pair in pairs]


def _longer(pair: Pair) -> float:
    difference = len(pair.output) - len(pair.reference)
    return TIE if difference == 0 else 1.0 + (difference > 0)


def prefer_random(pairs: Sequence[Pair], *, seed: int) -> list[Verdict]:
    """A coin per pair, which depends on its texts and the seed alone, never on the order of the rows."""
    return [DRAW if pair.identical else Verdict(preference=_toss(pair, seed)) for pair in pairs]


def _toss(pair: Pair, seed: int) -> float:
    texts = "\0".join((str(seed), pair.instruction, pair.reference, pair.output))
    return random.Random(texts).choice((1.0, 2.0))
