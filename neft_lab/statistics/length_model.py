"""AlpacaEval 2's length-controlled model of one set of outputs.

Dubois et al. (2024): logit P(model wins) = w_len tanh(z) + w_diff d + w_base, with z the standardised difference of
lengths (reference minus model, characters) and d the instruction's difficulty; predicted at z = 0 and averaged over
instructions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neft_lab.statistics.length_fit import fit_soft_logistic, refit_resampled, sigmoid
from neft_lab.statistics.scores import Floats

_GAMED_WEIGHT = 0.2 / 2  # of a row of each of the two gamed baselines, against 1 for a row of the model


@dataclass(frozen=True)
class GamedBaselines:
    """Verdicts on answers made concise and verbose on purpose, which keep w_len apart from quality.

    Row by row (r,): `scores` in [0, 1], `length_features` (z, as standardised by AlpacaEval), `difficulty`, and `items`,
    the position of the row's instruction among the items it will be used with.
    """

    scores: Floats
    length_features: Floats
    difficulty: Floats
    items: NDArray[np.intp]


@dataclass(frozen=True)
class LengthFit:
    """A fitted model: its rows (r,), the instruction of each, its coefficients, and every instruction at z = 0 (n, k)."""

    features: Floats
    targets: Floats
    weights: Floats
    items: NDArray[np.intp]
    at_equal_length: Floats
    coefficients: Floats

    @property
    def value(self) -> float:
        """The length-controlled win rate in percent."""
        return 100 * float(sigmoid(self.at_equal_length @ self.coefficients).mean())

    def resample(self, counts: Floats) -> Floats:
        """Win rates (resamples,) when instruction i counts `counts[:, i]` times, with all its rows."""
        rates = [self._resample(part) for part in np.array_split(counts, max(len(counts) // 250, 1))]
        return np.concatenate(rates)

    def _resample(self, counts: Floats) -> Floats:
        coefficients = refit_resampled(self.features, self.targets, self.weights * counts[:, self.items])
        predictions = sigmoid(coefficients @ self.at_equal_length.T)
        rates: Floats = 100 * np.einsum("si,si->s", counts, predictions) / counts.sum(axis=1)
        return rates


def fit_model(
    scores: Floats, lengths: Floats, difficulty: Floats | None, gamed: GamedBaselines | None
) -> LengthFit:
    """Fit one seed: scores in [0, 1] (n,), length features tanh(z) (n,), difficulty (n,) if there is any.

    The rows stand in AlpacaEval's order, gamed baselines first, because its folds are cut by row.
    """
    ones = np.ones_like(lengths)
    columns = [lengths, ones] if difficulty is None else [lengths, difficulty, ones]
    features = np.stack(columns, axis=1)
    weights, items = ones, np.arange(len(scores))
    if gamed is not None:
        zeros = np.zeros_like(gamed.scores)
        shown = np.stack([np.tanh(gamed.length_features), gamed.difficulty, zeros], axis=1)
        features = np.concatenate([shown, features])
        scores = np.concatenate([gamed.scores, scores])
        weights = np.concatenate([np.full_like(gamed.scores, _GAMED_WEIGHT), weights])
        items = np.concatenate([gamed.items, items])
    judged = ~np.isnan(scores)
    rows = features[judged], scores[judged], weights[judged]
    coefficients = fit_soft_logistic(*rows)
    columns[0] = np.zeros_like(lengths)
    return LengthFit(*rows, items[judged], np.stack(columns, axis=1), coefficients)
