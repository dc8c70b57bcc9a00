"""From scores to claims: estimates with intervals, paired tests, corrections, and what a design can see.

Nothing here reads a file. Scores are arrays of shape (items,) for one training seed or (seeds, items), NaN is a hole;
rates and their differences are in percent and percentage points, intervals are 95 %.
"""

from neft_lab.statistics.best import BestComparison, compare_with_best
from neft_lab.statistics.design import PUBLISHED_PAIR, SmallestDifference, smallest_difference
from neft_lab.statistics.difficulty import Difficulty, estimate_difficulty
from neft_lab.statistics.equivalence import Preservation, Replication, equivalence, replication
from neft_lab.statistics.estimates import (
    Estimate,
    VerdictCounts,
    accuracy,
    count_verdicts,
    mean_value,
    win_rate,
)
from neft_lab.statistics.length_control import length_controlled_difference, length_controlled_win_rate
from neft_lab.statistics.length_model import GamedBaselines
from neft_lab.statistics.multiplicity import benjamini_hochberg, holm
from neft_lab.statistics.paired import PairedDifference, mcnemar_mid_p, paired_difference, sign_flip_p
from neft_lab.statistics.power import Variation, measure_variation, minimum_detectable_difference, power
from neft_lab.statistics.resampling import resample_means
from neft_lab.statistics.scores import preference_scores

__all__ = [
    "PUBLISHED_PAIR",
    "BestComparison",
    "Difficulty",
    "Estimate",
    "GamedBaselines",
    "PairedDifference",
    "Preservation",
    "Replication",
    "SmallestDifference",
    "Variation",
    "VerdictCounts",
    "accuracy",
    "benjamini_hochberg",
    "compare_with_best",
    "count_verdicts",
    "equivalence",
    "estimate_difficulty",
    "holm",
    "length_controlled_difference",
    "length_controlled_win_rate",
    "mcnemar_mid_p",
    "mean_value",
    "measure_variation",
    "minimum_detectable_difference",
    "paired_difference",
    "power",
    "preference_scores",
    "replication",
    "resample_means",
    "sign_flip_p",
    "smallest_difference",
    "win_rate",
]
