"""How instructions are answered."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from neft_lab.config.precision import Precision
from neft_lab.config.rules import key, neutral, require


class GenerationSource(Enum):
    model = "model"
    file = "file"


@dataclass
class GenerationConfig:
    name: str = key()
    source: GenerationSource = key()
    outputs: str | None = neutral()
    """AlpacaEval outputs file, for source: file."""
    instructions: str = neutral()
    """starter, alpaca_eval, or a JSON file of AlpacaEval rows; its digest enters the key."""
    split: str = key()
    limit: int | None = key()
    template: str = key()
    prompt_suffix: str = key()
    """What follows the template; the paper generates with a newline that training did not have."""
    max_new_tokens: int = key()
    max_prompt_tokens: int = key()
    repetition_penalty: float = key()
    temperature: float = key()
    """0 is greedy."""
    top_p: float = key()
    token_budget: int = key()
    """Prompt and answer tokens of one batch, padding included."""
    precision: Precision = key()

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "max_prompt_tokens", "token_budget", "repetition_penalty"):
            require(getattr(self, name) > 0, f"generation.{name}", getattr(self, name), "must be > 0")
        require(self.limit is None or self.limit > 0, "generation.limit", self.limit, "must be > 0 or null")
        require(self.temperature >= 0, "generation.temperature", self.temperature, "must be >= 0")
        require(0 < self.top_p <= 1, "generation.top_p", self.top_p, "must be in (0, 1]")
        splits = ("evaluation", "validation")
        require(self.split in splits, "generation.split", self.split, f"must be one of {', '.join(splits)}")
        if self.source is GenerationSource.file:
            require(
                bool(self.outputs),
                "generation.outputs",
                self.outputs,
                "must name a file with generation=file",
            )
