"""What single verdicts say beside the win rate: how it goes with the answer's length, and how often who won."""

from __future__ import annotations

import math

from neft_lab.claims.results import CellResult
from neft_lab.statistics import Estimate
from neft_lab.store import read_json
from neft_lab.textstats import win_rate_by_length

COUNTS = {"n_wins": "wins", "n_losses": "losses", "n_draws": "draws"}
"""The published numbers of verdicts, and the judge stage's names for them."""


def band_estimate(row: CellResult, band: str, metric: str) -> Estimate:
    """Win rate, or the number of verdicts, of answers with "low-high" characters, high excluded."""
    rows = read_json(row.folders["judge"] / "annotations.json")
    preferences, lengths = [one["preference"] for one in rows], [len(one["output_2"]) for one in rows]
    (found,) = win_rate_by_length(preferences, lengths, bands=[float(edge) for edge in band.split("-")])
    return found.win_rate if metric == "win_rate" else exactly(found.win_rate.n)


def count_verdicts(row: CellResult, metric: str) -> Estimate:
    """How many instructions a model won, lost or drew."""
    counts = read_json(row.folders["judge"] / "results.json")["counts"]
    return exactly(counts[COUNTS[metric]])


def exactly(value: float) -> Estimate:
    """A number without an interval."""
    return Estimate(float(value), math.nan, math.nan, math.nan, 0)
