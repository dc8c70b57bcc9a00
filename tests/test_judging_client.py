"""The judge client against a real HTTP server that misbehaves: every case ends in a verdict or a named hole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neft_lab.config import UserError
from neft_lab.judging.client import Answer, JudgingStopped, ask_all
from neft_lab.judging.evaluators import load_evaluator
from neft_lab.judging.failures import read_retry_after
from neft_lab.judging.ledger import JudgementLedger
from neft_lab.judging.pairs import Pair
from neft_lab.judging.prices import Price
from neft_lab.judging.questions import Judgement, Request, make_request
from neft_lab.judging.transport import Service
from tests.judge_server import judge_server

FREE = Price(0.0, 0.0, "told")
PAID = Price(30.0, 60.0, "told")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[JudgementLedger]:
    with JudgementLedger(tmp_path / "judgements") as opened:
        yield opened


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neft_lab.judging.transport.FIRST_WAIT", 0.01)


def _service(url: str, **changes: Any) -> Service:
    return Service(
        **({"model": "gpt-4", "base_url": url, "price": FREE, "concurrency": 8, "timeout": 1.0} | changes)
    )


def _pairs(count: int, cue: str = "") -> list[Pair]:
    """Of every two pairs the model wins the first and loses the second."""
    longer = [number % 2 == 0 for number in range(count)]
    return [
        Pair(f"instruction {number} {cue}", "reference text", "longer " * 5 if wins else "x")
        for number, wins in enumerate(longer)
    ]


def _ask(
    pairs: list[Pair], ledger: JudgementLedger, service: Service, name: str = "alpaca_eval_gpt4"
) -> tuple[list[Request], list[Answer]]:
    evaluator = load_evaluator(name)
    requests = [
        make_request(pair, evaluator, model=service.model, base_url=service.base_url) for pair in pairs
    ]
    return requests, ask_all(requests, evaluator, service, ledger)


def _preferences(answers: list[Answer]) -> list[float | None]:
    return [answer.judgement.preference if answer.judgement else None for answer in answers]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alpaca_eval_gpt4", [2.0, 1.0]),
        ("alpaca_eval_gpt4_fn", [2.0, 1.0]),
        ("chatgpt_fn", [2.0, 1.0]),
        ("chatgpt", [2.0, 1.0]),
        ("weighted_alpaca_eval_gpt4_turbo", [1.9, 1.1]),
        ("alpaca_eval_clf_gpt4_turbo", [2.0, 1.0]),
        ("text_davinci_003", [2.0, 1.0]),
    ],
)
def test_every_kind_of_judge_gives_the_verdict_whatever_the_order_shown(
    ledger: JudgementLedger, name: str, expected: list[float]
) -> None:
    with judge_server() as (url, seen):
        requests, answers = _ask(_pairs(8), ledger, _service(url), name)
    assert {request.question.switched for request in requests} == {True, False}
    assert _preferences(answers) == pytest.approx(expected * 4)
    assert len(seen.bodies) == 8


@pytest.mark.parametrize(
    "cue", ["429x3", "429waitx1", "500x2", "503x2", "hangx1", "resetx2", "cutx2", "shortx1", "htmlx1", "nothingx1",
            "dripx1", "nochoicesx1", "garbagex1", "blankx2", "nullx1"],
)  # fmt: skip
def test_a_failure_that_passes_ends_in_the_right_verdict(ledger: JudgementLedger, cue: str) -> None:
    with judge_server() as (url, seen):
        _, answers = _ask(_pairs(2, f"[[{cue}]]"), ledger, _service(url))
    assert _preferences(answers) == [2.0, 1.0]
    assert all(answer.hole is None for answer in answers)
    assert sum(seen.served.values()) == 2


def test_a_missing_logprobs_field_is_asked_for_again(ledger: JudgementLedger) -> None:
    with judge_server() as (url, _):
        _, answers = _ask(
            _pairs(2, "[[nologprobsx1]]"), ledger, _service(url), "weighted_alpaca_eval_gpt4_turbo"
        )
    assert _preferences(answers) == pytest.approx([1.9, 1.1])


@pytest.mark.parametrize(
    ("cue", "hole", "requests"),
    [
        ("400", "http 400", 1),
        ("500", "http 500", 3),
        ("cut", "no JSON", 3),
        ("nothing", "empty response", 3),
        ("reset", "connection", 3),
        ("hang", "timeout", 3),
        ("garbage", "unparsable", 3),
        ("blank", "unparsable", 3),
        ("null", "unparsable", 3),
    ],
)
def test_a_failure_that_stays_is_a_named_hole_and_no_other_rows(
    ledger: JudgementLedger, cue: str, hole: str, requests: int
) -> None:
    pairs = [
        *_pairs(4),
        *_pairs(1, f"[[{cue}]]"),
        *[Pair(f"after {number}", "ref", "longer") for number in range(4)],
    ]
    with judge_server() as (url, seen):
        _, answers = _ask(pairs, ledger, _service(url, attempts=3, timeout=0.4))
    assert answers[4].hole == hole
    assert [answer.hole for number, answer in enumerate(answers) if number != 4] == [None] * 8
    assert sum(f"[[{cue}]]" in str(body) for body in seen.bodies) == requests


def test_an_unparsable_answer_is_kept_and_after_its_reasks_never_asked_again(ledger: JudgementLedger) -> None:
    with judge_server() as (url, seen):
        service = _service(url, reasks=1)
        requests, _ = _ask(_pairs(1, "[[garbage]]"), ledger, service)
        _, again = _ask(_pairs(1, "[[garbage]]"), ledger, service)
    assert len(seen.bodies) == 2
    assert again[0].hole == "unparsable" and again[0].lasting
    kept = ledger.find([requests[0].question.key])[requests[0].question.key]
    assert [row.raw_completion for row in kept] == ["Both answers have their merits."] * 2


def test_what_the_ledger_knows_is_not_asked_again(ledger: JudgementLedger) -> None:
    with judge_server() as (url, seen):
        _, first = _ask(_pairs(6), ledger, _service(url))
        _, second = _ask(_pairs(6), ledger, _service(url))
    assert len(seen.bodies) == 6
    assert _preferences(first) == _preferences(second)


def test_another_prompt_model_or_address_is_another_question(ledger: JudgementLedger) -> None:
    with judge_server() as (url, seen):
        _ask(_pairs(1), ledger, _service(url))
        _ask(_pairs(1), ledger, _service(url, model="gpt-4-0613"))
        _ask(_pairs(1), ledger, _service(url), "chatgpt")
        _ask(_pairs(1), ledger, _service(url + "/"))
    assert len(seen.bodies) == 4


def test_no_more_requests_than_allowed_are_in_flight(ledger: JudgementLedger) -> None:
    with judge_server(latency=0.05) as (url, seen):
        _ask(_pairs(20), ledger, _service(url, concurrency=5))
    assert seen.most_in_flight == 5


def test_requests_keep_to_the_rate(ledger: JudgementLedger) -> None:
    with judge_server() as (url, seen):
        _ask(_pairs(6), ledger, _service(url, requests_per_minute=600))
    assert max(seen.times) - min(seen.times) >= 5 * 0.1 - 0.03


def test_a_retry_after_stops_all_workers_for_that_long(ledger: JudgementLedger) -> None:
    pairs = [*_pairs(1, "[[429waitx1]]"), *_pairs(12)]
    with judge_server(latency=0.05) as (url, seen):
        _, answers = _ask(pairs, ledger, _service(url, concurrency=2))
    gaps = [late - early for early, late in zip(sorted(seen.times), sorted(seen.times)[1:], strict=False)]
    assert max(gaps) > 0.8 and all(answer.hole is None for answer in answers)


def test_a_wrong_key_stops_at_once_and_says_so(ledger: JudgementLedger) -> None:
    with (
        judge_server() as (url, seen),
        pytest.raises(JudgingStopped, match=r"cannot be used: http 401.*wrong key"),
    ):
        _ask(_pairs(50, "[[401]]"), ledger, _service(url, concurrency=4))
    assert len(seen.bodies) <= 4


def test_an_account_without_credit_stops_at_once(ledger: JudgementLedger) -> None:
    with judge_server() as (url, seen), pytest.raises(JudgingStopped, match="no credit"):
        _ask(_pairs(50, "[[quota]]"), ledger, _service(url, concurrency=4))
    assert len(seen.bodies) <= 4


def test_a_service_that_is_down_stops_the_judging_and_the_next_run_goes_on(ledger: JudgementLedger) -> None:
    pairs = [*_pairs(3), *_pairs(60, "[[500x2]]")]
    with judge_server() as (url, seen):
        with pytest.raises(
            JudgingStopped, match=r"does not answer.*http 500.*of 63 questions are answered and kept"
        ):
            _ask(pairs, ledger, _service(url, attempts=1, concurrency=1))
        assert len(seen.bodies) == 3 + 10
        seen.misbehaved.clear()
        _, answers = _ask(pairs, ledger, _service(url, attempts=3))
    assert all(answer.hole is None for answer in answers)


def test_a_pair_that_fails_in_two_runs_is_a_lasting_hole(ledger: JudgementLedger) -> None:
    pairs = [*_pairs(1, "[[500]]"), *_pairs(2)]
    with judge_server() as (url, seen):
        _, first = _ask(pairs, ledger, _service(url, attempts=2))
        _, second = _ask(pairs, ledger, _service(url, attempts=2))
        _, third = _ask(pairs, ledger, _service(url, attempts=2))
    assert (first[0].lasting, second[0].lasting) == (False, True)
    assert (third[0].hole, third[0].lasting) == ("http 500", True)
    assert sum("500" in str(body) for body in seen.bodies) == 4


def test_two_outages_make_no_holes(ledger: JudgementLedger) -> None:
    with judge_server() as (url, seen):
        for _ in range(2):
            with pytest.raises(JudgingStopped, match="does not answer"):
                _ask(_pairs(20, "[[500x2]]"), ledger, _service(url, attempts=1, concurrency=1))
        assert len(seen.bodies) == 20
        _, answers = _ask(_pairs(20, "[[500x2]]"), ledger, _service(url))
    assert all(answer.hole is None for answer in answers)


def test_a_full_disk_stops_before_more_is_paid_for(ledger: JudgementLedger) -> None:
    ledger._database.execute("PRAGMA max_page_count = 40")
    pairs = [Pair(f"instruction {number}", "r" * 2000, f"{number}" * 2000) for number in range(100)]
    with judge_server() as (url, seen), pytest.raises(OSError, match=r"No space left.*sqlite"):
        _ask(pairs, ledger, _service(url, concurrency=2))
    kept = len(ledger.entries())
    assert kept > 0 and len(seen.bodies) <= kept + 2


def test_a_service_that_repeats_the_key_does_not_make_us_tell_it(
    ledger: JudgementLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with judge_server() as (url, _), pytest.raises(JudgingStopped) as stopped:
        _ask(_pairs(1, "[[echokey]]"), ledger, _service(url))
    assert "sk-secret" not in str(stopped.value) and "***" in str(stopped.value)


def test_an_answer_that_does_not_tell_its_tokens_counts_as_dear_as_it_can_be(ledger: JudgementLedger) -> None:
    with judge_server() as (url, _):
        _ask(_pairs(1, "[[nousage]]"), ledger, _service(url, price=PAID, max_usd=1))
    assert ledger.spent() > _usd({"messages": [{"content": "x" * 1300}]})


def test_refusing_everything_stops_the_judging(ledger: JudgementLedger) -> None:
    with (
        judge_server() as (url, seen),
        pytest.raises(JudgingStopped, match="refuses every request; http 400"),
    ):
        _ask(_pairs(50, "[[400]]"), ledger, _service(url, concurrency=1))
    assert len(seen.bodies) == 10


def test_answers_without_any_verdict_stop_before_they_cost_a_fortune(ledger: JudgementLedger) -> None:
    with (
        judge_server() as (url, seen),
        pytest.raises(JudgingStopped, match="none of 20 answers holds a verdict"),
    ):
        _ask(_pairs(100, "[[garbage]]"), ledger, _service(url, concurrency=2))
    assert len(seen.bodies) < 25


def test_the_spend_cap_holds_and_a_higher_one_goes_on(ledger: JudgementLedger) -> None:
    pairs = _pairs(30)
    with judge_server() as (url, seen):
        with pytest.raises(
            JudgingStopped, match=r"judge.max_usd is reached.*of 30 questions are answered and kept"
        ):
            _ask(pairs, ledger, _service(url, price=PAID, max_usd=0.2))
        assert 0 < len(seen.bodies) < 30
        assert ledger.committed() <= 0.2
        assert ledger.spent() == pytest.approx(sum(_usd(body) for body in seen.bodies), rel=1e-9)
        _, answers = _ask(pairs, ledger, _service(url, price=PAID, max_usd=20))
    assert all(answer.hole is None for answer in answers) and len(seen.bodies) == 30


def _usd(body: dict[str, Any]) -> float:
    return (len(body["messages"][-1]["content"]) // 4 * 30 + 10 * 60) / 1e6


def test_a_request_that_may_have_been_charged_stays_counted(ledger: JudgementLedger) -> None:
    with judge_server() as (url, _):
        _ask(_pairs(1, "[[hangx1]]"), ledger, _service(url, price=PAID, max_usd=1, timeout=0.3))
        reserved = ledger.committed() - ledger.spent()
        assert reserved > 0
        _ask(_pairs(1, "[[500x1]]"), ledger, _service(url, price=PAID, max_usd=1))
    assert ledger.committed() - ledger.spent() == pytest.approx(reserved)


def test_openai_itself_is_not_asked_without_a_key(
    ledger: JudgementLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY must be set"):
        _ask(_pairs(1), ledger, _service("https://api.openai.com/v1"))


def test_judgements_keep_tokens_price_version_and_time(ledger: JudgementLedger) -> None:
    with judge_server(version="gpt-4-0613") as (url, _):
        requests, _ = _ask(_pairs(1), ledger, _service(url, price=PAID))
    (row,) = ledger.find([requests[0].question.key])[requests[0].question.key]
    assert row.model_version == "gpt-4-0613" and row.tokens_out == 10 and row.tokens_in
    assert row.usd == pytest.approx((row.tokens_in * 30 + 10 * 60) / 1e6)
    assert row.answered_at.startswith("20") and row.seconds is not None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"retry-after": "7"}, 7.0), ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5), ({}, None),
     ({"retry-after": "soon"}, None), ({"retry-after": "99999"}, 600.0), ({"retry-after": "-3"}, None),
     ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0)],
)  # fmt: skip
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert read_retry_after(headers) == seconds


def test_eight_hundred_known_answers_take_less_than_a_second(ledger: JudgementLedger) -> None:
    service, evaluator = (
        _service("http://127.0.0.1:9/v1"),
        load_evaluator("alpaca_eval_gpt4"),
    )  # nobody listens there
    pairs = [Pair(f"instruction {number}" * 10, "r" * 500, "o" * 1000) for number in range(805)]
    requests = [
        make_request(pair, evaluator, model=service.model, base_url=service.base_url) for pair in pairs
    ]
    ledger.record_all([(request.question, Judgement(2.0, "raw" * 50)) for request in requests])
    started = time.perf_counter()
    _, answers = _ask(pairs, ledger, service)
    assert time.perf_counter() - started < 1.0
    assert _preferences(answers) == [2.0] * 805
