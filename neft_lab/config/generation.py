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
    """AlpacaEval outputs file, for source: file; ``published`` is the one below paper.published for the cell's model,
    data set and alpha."""
    instructions: str = neutral()
    """starter, alpaca_eval, or a JSON file of AlpacaEval rows; its digest enters the key."""
    split: str = key()
    limit: int | None = key()
    template: str = key()
    """alpaca, vicuna, chatml, or ``trained``: the one of the data set that the model was trained on."""
    prompt_suffix: str = key()
    """What follows the template; the paper generates with a newline that training did not have."""
    meta_prompt: str = key()
    """A sentence on a line of its own after the instruction; the paper's table 5 does not say where it stood."""
    max_new_tokens: int = key()
    min_new_tokens: int = key()
    """The end token is blocked until so many new tokens."""
    max_prompt_tokens: int = key()
    max_total_tokens: int | None = key()
    """Prompt and answer together, as the paper's code counts: 1024 in its first release, 2048 later. null: no limit."""
    repetition_penalty: float = key()
    """On every token of the prompt and the answer so far, as in transformers and so in the paper."""
    temperature: float = key()
    """0 is greedy."""
    top_p: float = key()
    best_of: int = key()
    """Answers sampled per instruction, of which the longest in characters is kept."""
    seed: int = key()
    """Of sampled answers; every answer has a stream of random numbers of its own."""
    token_budget: int = key()
    """Prompt and answer tokens of one batch, padding included."""
    precision: Precision = key()

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "max_prompt_tokens", "token_budget", "repetition_penalty", "best_of"):
            require(getattr(self, name) > 0, f"generation.{name}", getattr(self, name), "must be > 0")
        for name in ("temperature", "seed"):
            require(getattr(self, name) >= 0, f"generation.{name}", getattr(self, name), "must be >= 0")
        require(self.limit is None or self.limit > 0, "generation.limit", self.limit, "must be > 0 or null")
        require(0 < self.top_p <= 1, "generation.top_p", self.top_p, "must be in (0, 1]")
        splits = ("evaluation", "validation")
        require(self.split in splits, "generation.split", self.split, f"must be one of {', '.join(splits)}")
        self._check_lengths()
        if self.source is GenerationSource.file:
            rule = "must name a file with generation=file"
            require(bool(self.outputs), "generation.outputs", self.outputs, rule)
        rule = "needs generation.temperature above 0: greedy answers are all the same"
        require(self.best_of == 1 or self.temperature > 0, "generation.best_of", self.best_of, rule)

    def _check_lengths(self) -> None:
        most = self.max_new_tokens
        rule = f"must be from 0 to generation.max_new_tokens ({most})"
        require(0 <= self.min_new_tokens <= most, "generation.min_new_tokens", self.min_new_tokens, rule)
        total = self.max_total_tokens
        rule = f"must be above generation.max_prompt_tokens ({self.max_prompt_tokens}), or null"
        require(total is None or total > self.max_prompt_tokens, "generation.max_total_tokens", total, rule)
