"""A judge over HTTP as a configuration names it: who is asked, and where."""

from __future__ import annotations

from dataclasses import dataclass

from neft_lab.config import JudgeConfig, UserError
from neft_lab.judging.evaluators import OPENAI_URL, Evaluator, load_evaluator
from neft_lab.judging.pairs import Pair
from neft_lab.judging.prices import find_price
from neft_lab.judging.questions import Request, judge_name, make_request
from neft_lab.judging.transport import Service


@dataclass(frozen=True)
class Judge:
    """An evaluator at a service, as a configuration names them."""

    evaluator: Evaluator
    service: Service
    config: JudgeConfig

    @property
    def name(self) -> str:
        """How the ledger calls it."""
        return judge_name(self.evaluator, model=self.service.model, base_url=self.service.base_url)

    def request(self, pair: Pair, *, draw: int = 0, other_order: bool = False) -> Request:
        """The question about a pair, in the order that the configured seed gives or the other one."""
        return make_request(
            pair,
            self.evaluator,
            model=self.service.model,
            base_url=self.service.base_url,
            seed=self.config.seed,
            draw=draw,
            other_order=other_order,
        )


def load_judge(config: JudgeConfig) -> Judge:
    """Find the evaluator, the address and the price.

    Raises:
        UserError: unknown evaluator or price, or an evaluator of another provider without an address for it.
    """
    evaluator = load_evaluator(str(config.evaluator))
    if not evaluator.speaks_openai and not (config.base_url and config.served_model and evaluator.chat):
        raise UserError(
            f"judge.evaluator '{evaluator.name}' is not asked over OpenAI's protocol by alpaca-eval; give judge.base_url "
            "and judge.served_model of a service that speaks it, or choose another evaluator"
        )
    model = config.served_model or evaluator.model
    service = Service(
        model=model,
        base_url=config.base_url or evaluator.base_url or OPENAI_URL,
        price=find_price(model, config.usd_per_million_tokens),
        concurrency=config.concurrency,
        requests_per_minute=config.requests_per_minute,
        timeout=config.timeout,
        attempts=config.attempts,
        reasks=config.reasks,
        max_usd=config.max_usd,
    )
    return Judge(evaluator, service, config)
