"""Who compares answers with references."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

from neft_lab.config.model import ModelConfig
from neft_lab.config.precision import Precision
from neft_lab.config.rules import key, neutral, require


class JudgeKind(Enum):
    none = "none"
    local = "local"
    longest = "longest"
    random = "random"
    file = "file"
    alpaca_eval = "alpaca_eval"
    openai_compatible = "openai_compatible"

    @property
    def over_http(self) -> bool:
        """Whether verdicts are asked of a service and kept in the ledger."""
        return self in (JudgeKind.alpaca_eval, JudgeKind.openai_compatible)


@dataclass
class JudgeConfig:
    name: str = key()
    kind: JudgeKind = key()
    evaluator: str | None = key()
    """Name of an evaluator configuration that alpaca-eval ships: prompt, decoding, parser."""
    reference: str = neutral()
    """starter, alpaca_eval or alpaca_eval_gpt4_baseline (of the hub), or a JSON file: AlpacaEval outputs, or annotations,
    whose output_1 is meant; its digest enters the key."""
    annotations: str | None = neutral()
    """AlpacaEval annotations file, for kind: file."""
    reparse: bool = key()
    """kind: file reads the verdicts anew from the stored raw completions, with the evaluator's parser."""
    stored: str | None = neutral()
    """AlpacaEval annotations by people or a trusted judge that this judge is measured against; their digest
    enters the key."""
    stored_pairs: int = key()
    """How many of the stored pairs this judge is asked about; a fixed sample where there are more."""
    seed: int = key()
    """Which answer is shown first (AlpacaEval's is 0), and the coin of kind: random."""
    model: ModelConfig | None = key()
    """The causal LM behind the local judge."""
    token_budget: int = key()
    """Tokens of one batch of the local judge, padding included."""
    max_prompt_tokens: int = key()
    """Tokens of one question to the local judge; longer texts are cut, both answers alike."""
    precision: Precision = key()
    served_model: str | None = key()
    """Model asked for over HTTP; null: the one that the evaluator names."""
    base_url: str | None = key()
    """Address of an OpenAI-compatible service, up to /v1; null: the evaluator's own."""
    reasks: int = key()
    """How often an answer without a verdict in it is asked for again."""
    audit_pairs: int = key()
    """Pairs asked a second time, and as many asked in the other order."""
    canaries: int = key()
    """Answered pairs asked again on a later day, to see the judge drift."""
    concurrency: int = neutral()
    requests_per_minute: float | None = neutral()
    timeout: float = neutral()
    """Seconds that one request may take."""
    attempts: int = neutral()
    """Tries of one request when the service fails, before the pair is given up for this run."""
    usd_per_million_tokens: list[float] | None = neutral()
    """[input, output]; null: the price table conf/prices.yaml."""
    max_usd: float | None = neutral()
    """What all judging in this results folder may ever cost together."""

    def __post_init__(self) -> None:
        if self.kind is JudgeKind.file:
            require(
                bool(self.annotations),
                "judge.annotations",
                self.annotations,
                "must name a file with judge=file",
            )
        if self.kind is JudgeKind.local:
            require(self.model is not None, "judge.model", self.model, "must be given with judge=local")
        if self.kind.over_http:
            require(
                bool(self.evaluator),
                "judge.evaluator",
                self.evaluator,
                "must name an alpaca-eval configuration",
            )
        if self.kind is JudgeKind.openai_compatible:
            require(
                bool(self.base_url),
                "judge.base_url",
                self.base_url,
                "must be the service's address, up to /v1",
            )
            rule = "must hold no login, which records would keep: set OPENAI_API_KEY"
            require(
                "@" not in urlsplit(self.base_url or "").netloc,
                "judge.base_url",
                "an address with a login",
                rule,
            )
            require(
                bool(self.served_model),
                "judge.served_model",
                self.served_model,
                "must name the model that answers",
            )
        for name in ("token_budget", "max_prompt_tokens", "concurrency", "timeout", "attempts"):
            require(getattr(self, name) > 0, f"judge.{name}", getattr(self, name), "must be > 0")
        for name in ("reasks", "audit_pairs", "canaries", "stored_pairs"):
            require(getattr(self, name) >= 0, f"judge.{name}", getattr(self, name), "must be >= 0")
        require(self.requests_per_minute is None or self.requests_per_minute > 0, "judge.requests_per_minute",
                self.requests_per_minute, "must be > 0 or null")  # fmt: skip
        require(
            self.max_usd is None or self.max_usd >= 0, "judge.max_usd", self.max_usd, "must be >= 0 or null"
        )
        prices = self.usd_per_million_tokens
        require(prices is None or (len(prices) == 2 and min(prices) >= 0), "judge.usd_per_million_tokens", prices,
                "must be [input, output] in dollars, or null")  # fmt: skip
