"""What is measured on a trained model beside answers and tasks."""

from __future__ import annotations

from dataclasses import dataclass

from neft_lab.config.precision import Precision
from neft_lab.config.rules import key, require


@dataclass
class AnalysisConfig:
    name: str = key()
    rows: int = key()
    """Training rows and held-out rows whose response loss is measured, each; 0 measures nothing."""
    token_budget: int = key()
    precision: Precision = key()

    def __post_init__(self) -> None:
        require(self.rows >= 0, "analysis.rows", self.rows, "must be >= 0")
