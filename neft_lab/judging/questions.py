"""Questions to a judge: what identifies one, the request that asks it, and the judgement that comes back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from neft_lab.judging.evaluators import Evaluator
from neft_lab.judging.pairs import Pair
from neft_lab.store import canonical_json


@dataclass(frozen=True)
class Question:
    """A pair, the order it is shown in, who is asked, with which words, decoded how."""

    instruction: str
    reference: str
    output: str
    switched: bool
    """The model's answer is shown first."""
    judge: str
    prompt: str
    """SHA-256 of the prompt template."""
    decoding: str
    draw: int = 0
    """0 for the verdict that counts; above it for asking the same again."""

    @cached_property
    def key(self) -> str:
        """SHA-256 of all fields."""
        fields = [self.instruction, self.reference, self.output, self.switched, self.judge, self.prompt]
        return hashlib.sha256(canonical_json([*fields, self.decoding, self.draw]).encode()).hexdigest()


@dataclass(frozen=True)
class Judgement:
    """One answer of a judge, with or without a verdict in it."""

    preference: float | None
    raw_completion: Any
    tokens_in: int | None = None
    tokens_out: int | None = None
    usd: float | None = None
    model_version: str | None = None
    """The model that says it answered, which is not always the one that was asked for."""
    answered_at: str = ""
    """UTC, ISO 8601; empty: now."""
    seconds: float | None = None
    origin: str = "asked"


@dataclass(frozen=True)
class Entry:
    """A judgement read back, with its pair."""

    key: str
    instruction: str
    reference: str
    output: str
    switched: bool
    judge: str
    draw: int
    judgement: Judgement


@dataclass(frozen=True)
class Request:
    """A question, and the pair it is about."""

    question: Question
    pair: Pair


def judge_name(evaluator: Evaluator, *, model: str, base_url: str) -> str:
    """Who is asked: evaluator, model and address; another address may serve another model under the same name."""
    return f"{evaluator.name}|{model}|{base_url}"


def make_request(
    pair: Pair,
    evaluator: Evaluator,
    *,
    model: str,
    base_url: str,
    seed: int = 0,
    draw: int = 0,
    other_order: bool = False,
) -> Request:
    """The question about one pair in alpaca_eval's order, or with `other_order` the other way round."""
    question = Question(
        instruction=pair.instruction,
        reference=pair.reference,
        output=pair.output,
        switched=evaluator.switched(pair.instruction, seed=seed) != other_order,
        judge=judge_name(evaluator, model=model, base_url=base_url),
        prompt=evaluator.prompt_digest,
        decoding=evaluator.decoding,
        draw=draw,
    )
    return Request(question, pair)
