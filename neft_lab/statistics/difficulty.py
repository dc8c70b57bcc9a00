"""How hard each instruction is to win on, estimated from the verdicts at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neft_lab.statistics.length_fit import length_feature, sigmoid, soft_log_loss
from neft_lab.statistics.scores import Floats, Preferences, as_rows, preference_scores

_PRIOR_SDS = (0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Difficulty:
    """Difficulty of every instruction, (items,) or one row per seed (seeds, items), and where it came from."""

    values: Floats
    source: Literal["given", "estimated"] = "given"

    def of(self, rows: Sequence[int]) -> Difficulty:
        """The difficulties that belong to some of the rows they were estimated with."""
        return Difficulty(self.values[list(rows)], self.source)


def estimate_difficulty(
    preferences: Preferences, output_lengths: ArrayLike, reference_lengths: ArrayLike
) -> Difficulty:
    """Estimate for every row the instructions' difficulty from the *other* rows, so that no verdict explains itself.

    `preferences`, `output_lengths` (characters): (rows, items), a row being one cell's or seed's outputs;
    `reference_lengths`: (items,). AlpacaEval's joint model, logit P = w_base[row] + w_len[row] tanh(z) + d[item], with
    a normal prior on d whose width is the one that best predicts left-out verdicts. Scaled to a standard deviation of
    one. At least two rows.
    """
    scores = as_rows(preference_scores(preferences))
    if len(scores) < 2:
        raise ValueError(
            "difficulty is estimated from the verdicts on other rows: at least two rows are needed"
        )
    lengths = np.stack([length_feature(row, reference_lengths) for row in as_rows(output_lengths)])
    judged = ~np.isnan(scores)
    targets = np.where(judged, scores, 0.5)
    fits = [_fit_jointly(targets, lengths, judged, prior_sd) for prior_sd in _PRIOR_SDS]
    losses = [soft_log_loss((logits + left_out)[judged], targets[judged]) for logits, left_out in fits]
    values = fits[int(np.argmin(losses))][1]
    deviation = values.std()
    return Difficulty(values / deviation if deviation > 0 else values, "estimated")


def _fit_jointly(
    targets: Floats, lengths: Floats, judged: NDArray[np.bool_], prior_sd: float
) -> tuple[Floats, Floats]:
    """Return each row's logits without difficulty, and the difficulties with that row left out; both (rows, items)."""
    from scipy.optimize import minimize

    rows, items = targets.shape

    def split(parameters: Floats) -> tuple[Floats, Floats, Floats]:
        return parameters[:rows, None], parameters[rows : 2 * rows, None], parameters[2 * rows :]

    def loss(parameters: Floats) -> tuple[float, Floats]:
        base, slope, difficulty = split(parameters)
        logits = base + slope * lengths + difficulty
        value = float((judged * (np.logaddexp(0, logits) - targets * logits)).sum())
        value += float(difficulty @ difficulty) / (2 * prior_sd**2) + 1e-3 * float((base**2 + slope**2).sum())
        errors = judged * (sigmoid(logits) - targets)
        gradient = [
            errors.sum(axis=1) + 2e-3 * base[:, 0],
            (errors * lengths).sum(axis=1) + 2e-3 * slope[:, 0],
            errors.sum(axis=0) + difficulty / prior_sd**2,
        ]
        return value, np.concatenate(gradient)

    found = minimize(loss, np.zeros(2 * rows + items), jac=True, method="L-BFGS-B").x
    base, slope, difficulty = split(found)
    logits = base + slope * lengths
    chances = sigmoid(logits + difficulty)
    curvature = judged * chances * (1 - chances)
    # One Newton step away from the joint fit takes a row's own verdict out of the difficulty it will be used with.
    remaining = curvature.sum(axis=0) - curvature + 1 / prior_sd**2
    return logits, difficulty - judged * (targets - chances) / remaining
