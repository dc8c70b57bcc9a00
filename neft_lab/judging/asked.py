"""A judge asked over HTTP: its verdicts on a cell's pairs, and what the audits say of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from neft_lab.judging.agenda import Questions, check_budget, estimate, interleave, plan_questions
from neft_lab.judging.audit import Repeat, audit_canaries, audit_repeats, audit_swaps
from neft_lab.judging.client import Answer, JudgingStopped, ask_all, look_up
from neft_lab.judging.judge import Judge
from neft_lab.judging.ledger import JudgementLedger
from neft_lab.judging.pairs import DRAW, Pair, Verdict
from neft_lab.judging.questions import Judgement, Request
from neft_lab.judging.summary import Metrics
from neft_lab.progress import Progress


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
