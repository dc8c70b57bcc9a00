"""What is measured on a trained model and on its answers, beside verdicts and tasks."""

from __future__ import annotations

from dataclasses import dataclass

from neft_lab.config.precision import Precision
from neft_lab.config.rules import key, neutral, require

OTHER = "other"
"""The entry of ``analysis.chunks`` for data sets that have none of their own."""


@dataclass
class AnalysisConfig:
    name: str = key()
    rows: int = key()
    """Training rows and held-out rows whose response loss is measured, each; 0 measures none."""
    answers: int = key()
    """Training prompts that the model answers, for comparison with the responses it was trained on; 0 asks none."""
    answer_tokens: int = key()
    """New tokens of such an answer at most; the response it is compared with is cut there too."""
    flip_tokens: int = key()
    """Tokens of training rows whose nearest vocabulary row is looked up under noise; 0 looks up none."""
    flip_alphas: list[float] = key()
    """Noise scales of that curve."""
    max_length: int | None = key()
    """Tokens of a row at most; null: as in training."""
    token_budget: int = key()
    precision: Precision = key()
    chunks: dict[str, int] = neutral()
    """Tokens of an output over which its repetition is counted, by data set; the number is in the key of describe."""

    def __post_init__(self) -> None:
        for name in ("rows", "answers", "flip_tokens"):
            require(getattr(self, name) >= 0, f"analysis.{name}", getattr(self, name), "must be >= 0")
        for name in ("answer_tokens", "token_budget"):
            require(getattr(self, name) > 0, f"analysis.{name}", getattr(self, name), "must be > 0")
        lengths = self.max_length is None or self.max_length > 0
        require(lengths, "analysis.max_length", self.max_length, "must be > 0 or null")
        alphas = self.flip_alphas
        require(min(alphas, default=0) >= 0, "analysis.flip_alphas", alphas, "must hold no number below 0")
        require(OTHER in self.chunks, "analysis.chunks", self.chunks, f"must have an entry '{OTHER}'")
        require(
            min(self.chunks.values()) >= 5, "analysis.chunks", self.chunks, "must be 5 tokens or more each"
        )

    def chunk_of(self, dataset: str) -> int:
        """The chunk for one data set."""
        return self.chunks.get(dataset, self.chunks[OTHER])
