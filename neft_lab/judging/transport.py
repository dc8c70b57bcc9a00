"""One question to a judge service: sent, retried, priced, and in the ledger before anyone sees the answer.

The official client carries the request with its own retries off; what to do about each failure is decided
here, for all questions together where a service asks for patience.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from neft_lab.config import UserError
from neft_lab.judging.evaluators import OPENAI_URL, Evaluator
from neft_lab.judging.failures import RateLimited, Stopped, Transient, classify, read_response
from neft_lab.judging.ledger import JudgementLedger
from neft_lab.judging.prices import Price, upper_bound
from neft_lab.judging.questions import Judgement, Request

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from tenacity import RetryCallState

PATIENCE = 1800.0
"""Seconds that one question may wait for a service that says it is well but busy."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds between two tries, growing, where the service does not say how long."""


@dataclass(frozen=True)
class Service:
    """Where a judge is asked, how hard, and what that may cost; the fields are those of JudgeConfig."""

    model: str
    base_url: str
    price: Price
    concurrency: int = 16
    requests_per_minute: float | None = None
    timeout: float = 120.0
    attempts: int = 8
    reasks: int = 2
    max_usd: float | None = None


class Transport:
    """An open connection to a service; `async with` closes it.

    Raises:
        UserError: no API key for OpenAI itself.
    """

    def __init__(self, evaluator: Evaluator, service: Service, ledger: JudgementLedger) -> None:
        from aiolimiter import AsyncLimiter

        self._evaluator, self._service, self._ledger = evaluator, service, ledger
        self._client = _open(service)
        rate = service.requests_per_minute
        self._limiter = AsyncLimiter(1, 60 / rate) if rate else None
        self._resume_at = 0.0

    async def __aenter__(self) -> Transport:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def ask(self, request: Request, *, stopped: Callable[[], bool]) -> Judgement:
        """One response, however often the service has to be asked for it.

        Raises:
            ServiceFailure: there is none. BudgetSpent: the next try could cost too much.
        """
        from tenacity import AsyncRetrying, retry_if_exception_type

        switched = request.question.switched
        body = self._evaluator.body(request.pair, switched=switched, model=self._service.model)
        patience = _Patience(self._service.attempts)
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(Transient), stop=patience.is_over, wait=self._wait, reraise=True
        ):
            with attempt:
                await self._until_open()
                if stopped():
                    raise Stopped("not asked")
                return await self._send(request, body)
        raise AssertionError("tenacity returns or raises")

    async def _send(self, request: Request, body: dict[str, Any]) -> Judgement:
        most = upper_bound(body, self._service.price)
        limit = self._service.max_usd
        reservation = None
        if limit is not None:
            reservation = self._ledger.reserve(most, limit=limit)
            await asyncio.to_thread(self._ledger.sync)
        started = time.monotonic()
        endpoint: Any = self._client.chat.completions if self._evaluator.chat else self._client.completions
        try:
            async with asyncio.timeout(self._service.timeout):
                response = await endpoint.with_raw_response.create(**body)
            choice, whole = read_response(response.http_response.text)
        except Exception as error:
            failure = classify(error)
            if reservation is not None and not failure.may_be_charged:
                self._ledger.release(reservation)
            raise failure from None
        tokens = _read_tokens(whole)
        completion = self._evaluator.completion(choice)
        judgement = Judgement(
            preference=self._evaluator.parse(completion, switched=request.question.switched),
            raw_completion=completion,
            tokens_in=tokens[0] if tokens else None,
            tokens_out=tokens[1] if tokens else None,
            usd=self._service.price.usd(*tokens) if tokens else most,
            model_version=whole.get("model"),
            seconds=round(time.monotonic() - started, 4),
        )
        self._ledger.record(request.question, judgement, reservation=reservation)
        await asyncio.to_thread(self._ledger.sync)
        return judgement

    def _wait(self, state: RetryCallState) -> float:
        """What the service asks for, which holds for every question, else a growing random pause."""
        from tenacity import wait_random_exponential

        failure = state.outcome.exception() if state.outcome else None
        if isinstance(failure, Transient) and failure.retry_after is not None:
            self._resume_at = max(self._resume_at, time.monotonic() + failure.retry_after)
            return failure.retry_after
        return wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)(state)

    async def _until_open(self) -> None:
        while (pause := self._resume_at - time.monotonic()) > 0:
            await asyncio.sleep(pause)
        if self._limiter is not None:
            await self._limiter.acquire()


class _Patience:
    """Ends the tries of one question: a count of failures, and a time for a service that is only busy."""

    def __init__(self, attempts: int) -> None:
        self.left = attempts

    def is_over(self, state: RetryCallState) -> bool:
        if state.outcome is not None and isinstance(state.outcome.exception(), RateLimited):
            return bool((state.seconds_since_start or 0.0) > PATIENCE)
        self.left -= 1
        return self.left <= 0


def _read_tokens(response: dict[str, Any]) -> tuple[int, int] | None:
    """Tokens read and written, where the service tells."""
    usage = response.get("usage")
    if not isinstance(usage, dict):
        return None
    read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return (read, written) if isinstance(read, int) and isinstance(written, int) else None


def require_key(service: Service) -> str:
    """The API key of the environment, which a service of one's own may do without.

    Raises:
        UserError: no API key for OpenAI itself.
    """
    key = os.environ.get("OPENAI_API_KEY")
    if not key and service.base_url == OPENAI_URL:
        raise UserError("OPENAI_API_KEY must be set in the environment to ask a judge at api.openai.com")
    return key or "none"


def _open(service: Service) -> AsyncOpenAI:
    from openai import AsyncOpenAI

    return AsyncOpenAI(
        api_key=require_key(service), base_url=service.base_url, max_retries=0, timeout=service.timeout
    )
