"""What judging costs: a dated price table, estimates before, exact sums after."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from neft_lab.config import UserError
from neft_lab.paths import CONF_DIR

MILLION = 1_000_000
BYTES_PER_TOKEN = 4.4
"""Judge prompts under GPT-4's tokenizer, where nothing better is known. No text has more tokens than bytes."""
ANSWER_TOKENS = 40
"""A ranking or a function call; a judge that explains itself writes more."""
MESSAGE_TOKENS = 12
"""What the chat format adds to the texts of a system and a user message, at most."""


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens, and of when they are."""

    input: float
    output: float
    as_of: str

    def usd(self, tokens_in: float, tokens_out: float) -> float:
        """Dollars for tokens read and written."""
        return (tokens_in * self.input + tokens_out * self.output) / MILLION


@dataclass(frozen=True)
class CostEstimate:
    """What a run over some requests will cost, and where its token counts come from."""

    requests: int
    tokens_in: float
    tokens_out: float
    usd: float
    source: str
    """ledger: answers of this judge; tiktoken: counted; bytes: guessed from them."""

    def __str__(self) -> str:
        return (
            f"{self.requests} judge requests, about {self.tokens_in:,.0f} tokens in and {self.tokens_out:,.0f} out "
            f"(from {self.source}): ${self.usd:.2f}"
        )


@cache
def price_table() -> dict[str, Price]:
    """All known prices by model, from conf/prices.yaml."""
    rows = yaml.safe_load((CONF_DIR / "prices.yaml").read_text(encoding="utf-8"))
    return {model: Price(row["input"], row["output"], str(row["as_of"])) for model, row in rows.items()}


def find_price(model: str, told: Sequence[float] | None) -> Price:
    """The price the user tells, else the table's.

    Raises:
        UserError: neither is there.
    """
    if told is not None:
        return Price(told[0], told[1], "told")
    table = price_table()
    if model in table:
        return table[model]
    close = difflib.get_close_matches(model, table, n=1)
    hint = f" (the table has '{close[0]}')" if close else ""
    raise UserError(
        f"the price of judge model '{model}' is not known{hint}; give judge.usd_per_million_tokens=[input,output] "
        "in dollars, [0,0] for a server of your own, or add it to conf/prices.yaml"
    )


def upper_bound(body: dict[str, Any], price: Price) -> float:
    """The most that one request can cost: a token per byte in, every allowed token out."""
    tokens_in = prompt_bytes(body) + MESSAGE_TOKENS + len(str(body.get("tools", "")))
    return price.usd(tokens_in, body["max_tokens"])


def estimate_cost(
    bodies: Sequence[dict[str, Any]],
    price: Price,
    *,
    answered: Sequence[tuple[int, int, int]] = (),
    openai: bool = False,
) -> CostEstimate:
    """What requests with these `bodies` will cost.

    Token counts come from `answered`, (prompt bytes, tokens in, tokens out) of earlier answers of the same judge; else
    from OpenAI's tokenizer where the service is OpenAI's own (`openai`); else from the number of bytes.
    """
    sizes = [prompt_bytes(body) for body in bodies]
    if answered:
        rate = sum(row[1] for row in answered) / max(sum(row[0] for row in answered), 1)
        tokens_in, source = rate * sum(sizes), "ledger"
        tokens_out = len(bodies) * sum(row[2] for row in answered) / len(answered)
    else:
        tokens_out = float(sum(min(body["max_tokens"], ANSWER_TOKENS) for body in bodies))
        counted = _count_tokens(bodies) if openai and bodies else None
        tokens_in, source = (
            (counted, "tiktoken") if counted is not None else (sum(sizes) / BYTES_PER_TOKEN, "bytes")
        )
    return CostEstimate(len(bodies), tokens_in, tokens_out, price.usd(tokens_in, tokens_out), source)


def prompt_bytes(body: dict[str, Any]) -> int:
    """UTF-8 bytes of the texts of a request."""
    return len(_prompt(body).encode())


def _count_tokens(bodies: Sequence[dict[str, Any]]) -> float | None:
    """Tokens by OpenAI's tokenizer, or None where its table cannot be had."""
    import tiktoken

    try:
        encoding = tiktoken.encoding_for_model(bodies[0]["model"])
    except Exception:  # unknown model, or any failure to fetch the table: there is a fallback
        return None
    return float(sum(len(encoding.encode_ordinary(_prompt(body))) + MESSAGE_TOKENS for body in bodies))


def _prompt(body: dict[str, Any]) -> str:
    return (
        body["prompt"] if "prompt" in body else "\n".join(message["content"] for message in body["messages"])
    )
