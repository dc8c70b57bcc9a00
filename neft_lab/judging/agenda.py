"""What a cell has to ask a judge, in which order, and what it will cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, zip_longest

from neft_lab.judging.audit import sample
from neft_lab.judging.client import JudgingStopped
from neft_lab.judging.evaluators import OPENAI_URL
from neft_lab.judging.judge import Judge
from neft_lab.judging.ledger import JudgementLedger
from neft_lab.judging.pairs import Pair
from neft_lab.judging.prices import CostEstimate, estimate_cost, prompt_bytes
from neft_lab.judging.questions import Judgement, Request

REPEAT_DRAW = 1
CANARY_DRAW = 1_000_000
"""Plus the day's number: a canary is asked once a day, whatever the number of cells."""
CANARY_AGE = timedelta(days=1)


@dataclass(frozen=True)
class Questions:
    """All that one cell asks: the verdicts that count first, then the audits."""

    main: list[Request]
    swapped: list[Request]
    repeated: list[Request]
    canaries: list[tuple[Request, Judgement]]
    """A pair answered on an earlier day, and what was said then."""

    @property
    def all(self) -> list[Request]:
        """Every request in the order of asking."""
        return [*self.main, *self.swapped, *self.repeated, *(request for request, _ in self.canaries)]


def plan_questions(
    judge: Judge, pairs: Iterable[Pair], stored: Iterable[Pair], ledger: JudgementLedger
) -> Questions:
    """What has to be asked about a cell's pairs, and about stored ones.

    Equal answers are draws that nobody is asked about. Audits take the same instructions in every cell.
    """
    different = list(dict.fromkeys(pair for pair in pairs if not pair.identical))
    audited = sample(different, judge.config.audit_pairs, text=lambda pair: pair.instruction)
    return Questions(
        main=[judge.request(pair) for pair in dict.fromkeys([*different, *stored])],
        swapped=[judge.request(pair, other_order=True) for pair in audited],
        repeated=[judge.request(pair, draw=REPEAT_DRAW) for pair in audited],
        canaries=_choose_canaries(judge, ledger),
    )


def _choose_canaries(judge: Judge, ledger: JudgementLedger) -> list[tuple[Request, Judgement]]:
    """The first pairs this judge ever decided, if that was on an earlier day."""
    now = datetime.now(UTC)
    chosen = []
    if judge.config.canaries:
        before = (now - CANARY_AGE).isoformat()
        for entry in ledger.entries(judge=judge.name, draw=0, before=before, limit=judge.config.canaries):
            pair = Pair(entry.instruction, entry.reference, entry.output)
            plain = judge.request(pair)
            other = plain.question.switched != entry.switched
            draw = CANARY_DRAW + now.toordinal()
            chosen.append((judge.request(pair, draw=draw, other_order=other), entry.judgement))
    return chosen


def estimate(
    judge: Judge, requests: Sequence[Request], ledger: JudgementLedger, *, network: bool = True
) -> CostEstimate:
    """What those of the requests that the ledger cannot answer will cost.

    Without `network` OpenAI's tokenizer, whose table may have to be fetched, is not used.
    """
    known = ledger.find([request.question.key for request in requests])
    bodies = [
        judge.evaluator.body(request.pair, switched=request.question.switched, model=judge.service.model)
        for request in requests
        if request.question.key not in known
    ]
    answered = []
    for entry in ledger.entries(judge=judge.name, limit=200):
        told = entry.judgement
        if told.tokens_in is not None and told.tokens_out is not None:
            pair = Pair(entry.instruction, entry.reference, entry.output)
            body = judge.evaluator.body(pair, switched=entry.switched, model=judge.service.model)
            answered.append((prompt_bytes(body), told.tokens_in, told.tokens_out))
    return estimate_cost(
        bodies,
        judge.service.price,
        answered=answered,
        openai=network and judge.service.base_url == OPENAI_URL,
    )


def check_budget(judge: Judge, cost: CostEstimate, ledger: JudgementLedger) -> None:
    """Raise JudgingStopped, before a cent is spent, where the estimate does not fit under `max_usd`."""
    limit = judge.service.max_usd
    if limit is None or cost.usd == 0:
        return
    committed = ledger.committed()
    if committed + cost.usd > limit:
        raise JudgingStopped(
            f"{cost}, and ${committed:.2f} of judge.max_usd={limit:g} are spent; nothing was asked. "
            f"Raise judge.max_usd to at least {committed + cost.usd:.2f}, or judge fewer pairs"
        )


def interleave(groups: Sequence[Sequence[Request]]) -> list[Request]:
    """Requests of several cells in turn, each question once, so that a judge's drift hits all of them alike."""
    mixed = (request for request in chain.from_iterable(zip_longest(*groups)) if request is not None)
    return list({request.question.key: request for request in mixed}.values())
