"""A process that judges against a server until it is done or killed; what it imports is loaded once."""

from __future__ import annotations

from pathlib import Path

import openai  # noqa: F401  (loaded before the fork)

from neft_lab.judging.alpaca import parsers
from neft_lab.judging.client import ask_all
from neft_lab.judging.evaluators import load_evaluator
from neft_lab.judging.ledger import JudgementLedger
from neft_lab.judging.pairs import Pair
from neft_lab.judging.prices import Price
from neft_lab.judging.questions import Request, make_request
from neft_lab.judging.transport import Service

parsers()
CONCURRENCY = 4
JUDGE = "alpaca_eval_gpt4"


def make_pairs(count: int) -> list[Pair]:
    """The model wins every second pair."""
    return [
        Pair(f"instruction {number}", "reference text", "longer " * 5 if number % 2 else "x")
        for number in range(count)
    ]


def make_requests(url: str, count: int) -> list[Request]:
    evaluator = load_evaluator(JUDGE)
    return [make_request(pair, evaluator, model="gpt-4", base_url=url) for pair in make_pairs(count)]


def work(url: str, folder: Path, count: int, host: str | None = None) -> None:
    service = Service("gpt-4", url, Price(0, 0, "told"), concurrency=CONCURRENCY)
    with JudgementLedger(folder, host=host) as ledger:
        answers = ask_all(make_requests(url, count), load_evaluator(JUDGE), service, ledger)
    preferences = [answer.judgement.preference if answer.judgement else None for answer in answers]
    assert preferences == [2.0 if number % 2 else 1.0 for number in range(count)]
