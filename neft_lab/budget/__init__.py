"""What a run or sweep will cost, and what it can show, before it starts."""

from neft_lab.budget.account import as_json
from neft_lab.budget.estimate import Budget, check_budget, estimate_budget
from neft_lab.budget.sight import foresee_difference
from neft_lab.statistics import PUBLISHED_PAIR, SmallestDifference, smallest_difference

__all__ = [
    "PUBLISHED_PAIR",
    "Budget",
    "SmallestDifference",
    "as_json",
    "check_budget",
    "estimate_budget",
    "foresee_difference",
    "smallest_difference",
]
