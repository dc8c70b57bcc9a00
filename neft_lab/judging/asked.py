"""A judge asked over HTTP: which questions a cell needs, what they will cost, and what the answers say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, zip_longest
from typing import Any

from neft_lab.config import JudgeConfig, UserError
from neft_lab.judging.audit import Repeat, audit_canaries, audit_repeats, audit_swaps, sample
from neft_lab.judging.client import Answer, JudgingStopped, ask_all, look_up
from neft_lab.judging.evaluators import OPENAI_URL, Evaluator, load_evaluator
from neft_lab.judging.ledger import JudgementLedger
from neft_lab.judging.pairs import DRAW, Pair, Verdict
from neft_lab.judging.prices import CostEstimate, estimate_cost, find_price, prompt_bytes
from neft_lab.judging.questions import Judgement, Request, judge_name, make_request
from neft_lab.judging.summary import Metrics
from neft_lab.judging.transport import Service
from neft_lab.progress import Progress

REPEAT_DRAW = 1
CANARY_DRAW = 1_000_000
"""Plus the day's number: a canary is asked once a day, whatever the number of cells."""
CANARY_AGE = timedelta(days=1)


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


@dataclass(frozen=True)
class Asked:
    """What a judge said about a cell's pairs."""

    verdicts: dict[Pair, Verdict]
    metrics: Metrics
    facts: dict[str, Any]


def judge_over_http(
    judge: Judge,
    pairs: Sequence[Pair],
    ledger: JudgementLedger,
    *,
    stored: Sequence[Pair] = (),
    advance: Callable[[int], None] = lambda done: None,
) -> Asked:
    """Verdicts on a cell's pairs and on stored ones, and the audits beside them, from the ledger where it has them.

    Raises:
        JudgingStopped: the service or the budget does not allow it, or some pairs got no answer this time; what was
            answered is kept.
    """
    questions = plan_questions(judge, pairs, stored, ledger)
    check_budget(judge, estimate(judge, questions.all, ledger), ledger)
    answers = ask_all(questions.all, judge.evaluator, judge.service, ledger, advance=advance)
    _require_complete(answers)
    found = {request.question.key: answer for request, answer in zip(questions.all, answers, strict=True)}
    verdicts = {pair: DRAW for pair in pairs if pair.identical}
    for request in questions.main:
        verdicts[request.pair] = _verdict(found[request.question.key])
    metrics = _audit(judge, questions, found) | {"judge_usd": _dollars(answers)}
    return Asked(verdicts, metrics, _describe(answers))


def fill_ledger(
    cells: Sequence[tuple[Judge, Sequence[Pair], Sequence[Pair]]], ledger: JudgementLedger, progress: Progress
) -> list[Exception | None]:
    """Ask for what several cells (judge, pairs, stored pairs) need, interleaved; each judge in one pass.

    Returns for each cell why it cannot be finished now, or None where the ledger has all that it needs.
    """
    groups: dict[str, list[int]] = {}
    questions = [plan_questions(judge, pairs, stored, ledger).all for judge, pairs, stored in cells]
    for number, (judge, _, _) in enumerate(cells):
        groups.setdefault(judge.name, []).append(number)
    found: list[Exception | None] = [None] * len(cells)
    for numbers in groups.values():
        asked = _ask_interleaved(
            cells[numbers[0]][0], [questions[number] for number in numbers], ledger, progress
        )
        for number, failure in zip(numbers, asked, strict=True):
            found[number] = failure
    return found


def _ask_interleaved(
    judge: Judge, groups: Sequence[Sequence[Request]], ledger: JudgementLedger, progress: Progress
) -> list[Exception | None]:
    """Ask one judge all questions of several cells; for each cell what keeps it from being finished."""
    requests = interleave(groups)
    progress.start(len(requests), unit="verdict")
    stopped: Exception | None = None
    try:
        check_budget(judge, estimate(judge, requests, ledger), ledger)
        answers = ask_all(requests, judge.evaluator, judge.service, ledger, advance=progress.advance)
    except Exception as error:  # told by every cell that it keeps from being finished
        stopped, answers = error, look_up(requests, judge.service, ledger)
    by_key = {request.question.key: answer for request, answer in zip(requests, answers, strict=True)}
    return [_obstacle([by_key[request.question.key] for request in group], stopped) for group in groups]


def _obstacle(answers: Sequence[Answer], stopped: Exception | None) -> Exception | None:
    try:
        _require_complete(answers)
    except JudgingStopped as error:
        return stopped or error
    return None


def _require_complete(answers: Sequence[Answer]) -> None:
    """Holes that another run may fill are not published."""
    passing = Counter(answer.hole for answer in answers if answer.hole is not None and not answer.lasting)
    if passing:
        reasons = ", ".join(f"{count} {reason}" for reason, count in passing.most_common())
        raise JudgingStopped(
            f"{sum(passing.values())} of {len(answers)} judge requests got no answer ({reasons}); the others are kept, "
            "run the same command again to ask for the rest (what fails twice becomes a hole in the table)"
        )


def _verdict(answer: Answer) -> Verdict:
    raw = answer.judgement.raw_completion if answer.judgement else None
    preference = answer.judgement.preference if answer.judgement else None
    return Verdict(preference, raw, answer.hole)


def _audit(judge: Judge, questions: Questions, found: dict[str, Answer]) -> Metrics:
    def repeats(requests: Sequence[Request]) -> list[Repeat]:
        rows = []
        for request in requests:
            first, second = found[judge.request(request.pair).question.key], found[request.question.key]
            rows += _repeat(first.judgement, second.judgement, judge.request(request.pair).question.switched)
        return rows

    canaries = []
    for request, before in questions.canaries:
        canaries += _repeat(before, found[request.question.key].judgement, request.question.switched)
    return (
        audit_swaps(repeats(questions.swapped))
        | audit_repeats(repeats(questions.repeated), name="repeat_agreement")
        | audit_canaries(canaries)
    )


def _repeat(first: Judgement | None, second: Judgement | None, switched: bool) -> list[Repeat]:
    if first is None or second is None or first.preference is None or second.preference is None:
        return []
    return [Repeat(first.preference, second.preference, switched)]


def _dollars(answers: Sequence[Answer]) -> float:
    return sum(answer.judgement.usd or 0.0 for answer in answers if answer.judgement is not None)


def _describe(answers: Sequence[Answer]) -> dict[str, Any]:
    """Who answered, and when the first and the last verdict were given."""
    told = [answer.judgement for answer in answers if answer.judgement is not None]
    times = sorted(judgement.answered_at for judgement in told)
    return {
        "model_versions": dict(
            Counter(judgement.model_version for judgement in told if judgement.model_version)
        ),
        "answered": [times[0], times[-1]] if times else [],
    }
