"""Asking a judge many questions at a time: what is known is not asked, and one failure is never another's."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from neft_lab.judging.alpaca import parsers
from neft_lab.judging.evaluators import Evaluator
from neft_lab.judging.failures import Refused, ServiceFailure, Stopped, Unusable
from neft_lab.judging.ledger import BudgetSpent, JudgementLedger
from neft_lab.judging.questions import Judgement, Request
from neft_lab.judging.transport import Service, Transport

DOWN_AFTER = 10
"""Questions in a row without any response after which the service counts as down."""
UNREADABLE_AFTER = 20
"""Answers without a single verdict among them after which it makes no sense to pay for more."""
FAILED_RUNS = 2
"""Runs that gave a question up while others were answered, after which it is a hole for good."""


@dataclass(frozen=True)
class Answer:
    """What came of a request: the judgement that counts, or why there is none."""

    judgement: Judgement | None
    hole: str | None = None
    lasting: bool = True
    """The hole will not go away by asking again."""


NOT_ASKED = Answer(None, "not asked", lasting=False)


class JudgingStopped(Exception):
    """The service, or the budget, does not let the judging go on. What was answered is in the ledger."""


def ask_all(
    requests: Sequence[Request],
    evaluator: Evaluator,
    service: Service,
    ledger: JudgementLedger,
    *,
    advance: Callable[[int], None] = lambda done: None,
) -> list[Answer]:
    """Answers to all requests, in their order; no question is asked twice, nor one that the ledger answers.

    Raises:
        JudgingStopped: the service is down or refuses everything, or `max_usd` is reached.
        UserError: no API key for a service that needs one.
    """
    run = _Run(service, ledger, advance)
    once = list({request.question.key: request for request in requests}.values())
    answers = run.look_up(once)
    waiting = [number for number, answer in enumerate(answers) if answer is None]
    advance(len(once) - len(waiting))
    if waiting:
        parsers()  # its import takes seconds, in which answers on their way would run into their time-out
        asyncio.run(run.ask(once, answers, iter(waiting), evaluator))
        run.settle(once, answers)
    found = {request.question.key: answer for request, answer in zip(once, answers, strict=True)}
    return [found[request.question.key] or NOT_ASKED for request in requests]


def look_up(requests: Sequence[Request], service: Service, ledger: JudgementLedger) -> list[Answer]:
    """What the ledger says to requests, without asking anybody."""
    found = _Run(service, ledger, lambda done: None).look_up(requests)
    return [answer or NOT_ASKED for answer in found]


@dataclass
class _Run:
    """One pass over requests: what its workers share."""

    service: Service
    ledger: JudgementLedger
    advance: Callable[[int], None]
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    stopped: Exception | None = None
    silent_in_a_row: int = 0
    refused: int = 0
    unread: int = 0
    read: int = 0

    def look_up(self, requests: Sequence[Request]) -> list[Answer | None]:
        """What the ledger says to each request; None: ask."""
        keys = [request.question.key for request in requests]
        known, failures = self.ledger.find(keys), self.ledger.failed_runs(keys)
        return [self._known(known.get(key, []), failures.get(key, {})) for key in keys]

    def _known(self, judgements: Sequence[Judgement], failures: Mapping[str, str]) -> Answer | None:
        for judgement in judgements:
            if judgement.preference is not None:
                return Answer(judgement)
        if len(judgements) > self.service.reasks:
            return Answer(judgements[-1], "unparsable")
        if len(failures) >= FAILED_RUNS:
            return Answer(None, list(failures.values())[-1])
        return None

    async def ask(
        self,
        requests: Sequence[Request],
        answers: list[Answer | None],
        waiting: Iterator[int],
        evaluator: Evaluator,
    ) -> None:
        """Answer what is waiting, with as many workers as the service takes at a time.

        When the run has to stop, what is in flight is still read and stored: it is paid for.
        """

        async def work(transport: Transport) -> None:
            for number in waiting:
                if self.stopped is not None:
                    return
                try:
                    answers[number] = await self._answer(requests[number], transport)
                except Exception as error:  # told when all workers have come home
                    self.stopped = self.stopped or error
                    return
                self.advance(1)

        async with Transport(evaluator, self.service, self.ledger) as transport:
            await asyncio.gather(*(work(transport) for _ in range(self.service.concurrency)))

    async def _answer(self, request: Request, transport: Transport) -> Answer:
        """One verdict, asked for again while what comes back has none in it."""
        key = request.question.key
        judgements = self.ledger.find([key], everywhere=False).get(key, [])
        known = self._known(judgements, {})
        asked = len(judgements)
        while known is None:
            try:
                judgement = await transport.ask(request, stopped=lambda: self.stopped is not None)
            except Unusable:
                raise
            except ServiceFailure as failure:
                return self._give_up(failure)
            asked += 1
            self._count(judgement)
            if judgement.preference is not None:
                known = Answer(judgement)
            elif asked > self.service.reasks:
                known = Answer(judgement, "unparsable")
        return known

    def _count(self, judgement: Judgement) -> None:
        self.silent_in_a_row = 0
        self.read += judgement.preference is not None
        self.unread += judgement.preference is None
        if self.read == 0 and self.unread >= max(UNREADABLE_AFTER, self.service.concurrency):
            shown = str(judgement.raw_completion)[:120]
            raise JudgingStopped(f"none of {self.unread} answers holds a verdict, the last one is {shown!r}")

    def _give_up(self, failure: ServiceFailure) -> Answer:
        if isinstance(failure, Stopped):
            return NOT_ASKED
        if isinstance(failure, Refused):
            self.refused += 1
            if self.read == 0 and self.refused >= DOWN_AFTER:
                raise JudgingStopped(f"the service refuses every request; {failure}")
            return Answer(None, failure.reason)
        self.silent_in_a_row += 1
        if self.silent_in_a_row >= DOWN_AFTER:
            raise JudgingStopped(f"the service does not answer; the last failure was {failure}")
        return Answer(None, failure.reason, lasting=False)

    def settle(self, requests: Sequence[Request], answers: list[Answer | None]) -> None:
        """Say why the run stopped; or, where it did not, remember which questions alone got no response."""
        if self.stopped is not None:
            answered = sum(answer is not None and answer.judgement is not None for answer in answers)
            self._explain(answered, len(answers))
        for number, answer in enumerate(answers):
            if answer is not None and answer.hole is not None and not answer.lasting:
                key = requests[number].question.key
                self.ledger.record_failure(key, run=self.name, reason=answer.hole)
                lasting = len(self.ledger.failed_runs([key])[key]) >= FAILED_RUNS
                answers[number] = replace(answer, lasting=lasting)

    def _explain(self, answered: int, asked: int) -> None:
        where = f"judge '{self.service.model}' at {self.service.base_url}"
        rest = f"{answered} of {asked} questions are answered and kept; the same command goes on from there"
        if isinstance(self.stopped, BudgetSpent):
            raise JudgingStopped(f"judge.max_usd is reached: {self.stopped}; {rest}, with a higher cap")
        if isinstance(self.stopped, Unusable):
            raise JudgingStopped(f"{where} cannot be used: {self.stopped}; {rest}")
        if isinstance(self.stopped, JudgingStopped):
            raise JudgingStopped(f"{where}: {self.stopped}; {rest}")
        assert self.stopped is not None
        raise self.stopped
