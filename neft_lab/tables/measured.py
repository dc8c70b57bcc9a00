"""What was measured beside the sweep's metrics: texts, doses, win rates by length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from neft_lab.claims.comparisons import Arm
from neft_lab.claims.labels import short_labels, title_of
from neft_lab.tables.ablation import print_estimate
from neft_lab.tables.table import Table, rounded

if TYPE_CHECKING:
    from neft_lab.statistics import Estimate
    from neft_lab.textstats import LengthBand


def metric_table(title: str, arms: Sequence[Arm], metrics: Sequence[str], notes: Sequence[str]) -> Table:
    """One line per arm, one column for each metric that some arm has."""
    known = [name for name in metrics if any(_has(arm, name) for arm in arms)]
    rows = [[label, *(print_estimate(arm, name) for name in known)]
            for label, arm in zip(short_labels([arm.axes for arm in arms]), arms, strict=True)]  # fmt: skip
    return Table(title, ["arm", *map(title_of, known)], rows, ["In brackets: 95 % intervals.", *notes])


def _has(arm: Arm, metric: str) -> bool:
    return metric in arm.estimates and not math.isnan(arm.estimates[metric].value)


def dose_table(arms: Sequence[Arm]) -> Table:
    """The noise that was really given, as measured while training; several seeds are averaged."""
    header = ["arm", *DOSE.values()]
    rows = []
    for label, arm in zip(short_labels([arm.axes for arm in arms]), arms, strict=True):
        trained = [row.metrics for row in arm.rows if "mean_noise_norm" in row.metrics]
        if trained:
            means = (_mean([metrics.get(name, math.nan) for metrics in trained]) for name in DOSE)
            rows.append([label, *("–" if math.isnan(value) else f"{value:.3g}" for value in means)])
    return Table("Noise given", header, rows, [DOSE_NOTE])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


DOSE = {
    "mean_noise_norm": "norm per example", "noise_to_embedding_rms": "noise RMS ÷ embedding RMS",
    "changed_token_share": "tokens changed %", "equivalent_alpha": "equivalent alpha",
}  # fmt: skip
"""What is measured of the noise, as columns are headed."""

DOSE_NOTE = (
    "Measured while training, over real tokens. Tokens changed: of a sample, those whose nearest vocabulary row changes "
    "under the noise. Equivalent alpha: with this mean norm in the paper's training code, sqrt(3) times it."
)


def band_table(bands: Sequence[tuple[Arm, Sequence[LengthBand]]]) -> Table:
    """Win rates by the output's own length, with the number of verdicts behind each."""
    named = zip(short_labels([arm.axes for arm, _ in bands]), (found for _, found in bands), strict=True)
    rows = [[label, *(_banded(band.win_rate) for band in found)] for label, found in named]
    edges = [(band.low, band.high) for band in bands[0][1]] if bands else []
    header = [f"{low:g} to {high:g}" if math.isfinite(high) else f"{low:g} and more" for low, high in edges]
    notes = ["Win rate % over the outputs of so many characters, the upper end left out, all seeds together; the number "
             "of verdicts in parentheses."]  # fmt: skip
    return Table("Win rate by output length", ["arm", *header], rows, notes)


def _banded(found: Estimate) -> str:
    return f"{rounded(found.value, found.low, found.high)} ({found.n})" if found.n else "–"
