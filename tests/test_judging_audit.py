"""Is the judge worth believing: audits that find a known bias, the gate, drift, and intervals that cover."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neft_lab.config import JudgeConfig
from neft_lab.judging.agenda import interleave
from neft_lab.judging.asked import judge_over_http
from neft_lab.judging.audit import Repeat, audit_swaps, read_stored, validate, validation_metrics
from neft_lab.judging.controls import prefer_longest, prefer_random
from neft_lab.judging.judge import Judge, load_judge
from neft_lab.judging.ledger import JudgementLedger
from neft_lab.judging.pairs import Pair, Verdict
from neft_lab.judging.questions import Judgement, make_request
from neft_lab.statistics import win_rate
from tests.judge_server import judge_server
from tests.test_judging_stage import judge_config

PUBLISHED = Path(__file__).parents[1].parent / "shared" / "data" / "alpaca_eval"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[JudgementLedger]:
    with JudgementLedger(tmp_path / "judgements") as opened:
        yield opened


def _judge(url: str, evaluator: str = "weighted_alpaca_eval_gpt4_turbo", **changes: Any) -> Judge:
    config: JudgeConfig = judge_config(
        "openai_compatible", base_url=url, served_model="m", evaluator=evaluator, usd_per_million_tokens=[0, 0],
        **({"audit_pairs": 0, "canaries": 0} | changes),
    )  # fmt: skip
    return load_judge(config)


def _pairs(count: int) -> list[Pair]:
    chance = random.Random(0)
    return [
        Pair(f"instruction {n}", "r" * chance.randint(5, 200), "o" * chance.randint(5, 200))
        for n in range(count)
    ]


def biased(bonus: float) -> Any:
    """A judge that weighs length a little and the first place by `bonus` logits."""

    def prefer(instruction: str, first: str, second: str) -> float:
        return 1 / (1 + math.exp(-((len(first) - len(second)) / 200 + bonus)))

    return prefer


def test_the_swap_audit_finds_a_known_love_for_the_first_place(ledger: JudgementLedger) -> None:
    bonus, pairs = 1.0, _pairs(60)
    with judge_server(prefer=biased(bonus)) as (url, _):
        metrics = judge_over_http(_judge(url, audit_pairs=60), pairs, ledger).metrics
    prefer = biased(bonus)
    truth = np.mean(
        [(prefer("", p.reference, p.output) + prefer("", p.output, p.reference)) / 2 for p in pairs]
    )
    assert metrics["first_place_preference"] == pytest.approx(100 * truth, abs=1e-6)
    assert metrics["first_place_preference_low"] > 60
    agree = np.mean([
        (prefer("", p.reference, p.output) > 0.5) != (prefer("", p.output, p.reference) > 0.5) for p in pairs
    ])  # fmt: skip
    assert metrics["position_consistency"] == pytest.approx(100 * agree)


def test_a_judge_without_bias_is_not_accused(ledger: JudgementLedger) -> None:
    with judge_server(prefer=biased(0.0)) as (url, _):
        metrics = judge_over_http(_judge(url, audit_pairs=40), _pairs(40), ledger).metrics
    assert metrics["first_place_preference"] == pytest.approx(50, abs=1e-6)
    assert metrics["position_consistency"] == 100


def test_the_repeat_audit_measures_a_judge_that_changes_its_mind(ledger: JudgementLedger) -> None:
    chance = random.Random(3)

    def fickle(instruction: str, first: str, second: str) -> float:
        return float(chance.random() < 0.8) * 0.8 + 0.1  # the first one in 80 % of the cases

    with judge_server(prefer=fickle) as (url, _):
        metrics = judge_over_http(_judge(url, audit_pairs=200, concurrency=1), _pairs(200), ledger).metrics
    truth = 100 * (0.8**2 + 0.2**2)
    assert metrics["repeat_agreement_low"] < truth < metrics["repeat_agreement_high"]


def test_audits_ask_about_the_same_instructions_in_every_cell(ledger: JudgementLedger) -> None:
    with judge_server() as (url, seen):
        judge = _judge(url, audit_pairs=5)
        audited = []
        for arm in ("one", "two"):
            pairs = [Pair(f"instruction {n}", "reference", f"answer {arm} {n}") for n in range(30)]
            seen.bodies.clear()
            judge_over_http(judge, pairs, ledger)
            texts = [body["messages"][1]["content"].split('"""')[1] for body in seen.bodies]
            audited.append({text for text in texts if texts.count(text) == 3})
    assert audited[0] == audited[1] and len(audited[0]) == 5


def test_canaries_show_that_the_judge_has_drifted(ledger: JudgementLedger) -> None:
    with judge_server(prefer=lambda *_: 0.3) as (url, seen):
        judge = _judge(url, "alpaca_eval_gpt4", canaries=6)
        old = _pairs(10)
        for number, pair in enumerate(old):
            request = make_request(pair, judge.evaluator, model="m", base_url=url)
            preference = 2.0 - request.question.switched  # the second one shown won then, and wins now
            told = Judgement(preference, "raw", answered_at=f"2024-01-01T00:00:{number:02d}+00:00")
            ledger.record(request.question, told)
        same = judge_over_http(judge, _pairs(10), ledger).metrics
        assert (same["canary_agreement"], same["canary_shift"]) == (100.0, 0.0)
        assert len(seen.bodies) == 6
        judge_over_http(judge, _pairs(10), ledger)
        assert len(seen.bodies) == 6  # once a day, however many cells


def test_canaries_of_a_changed_judge_disagree(ledger: JudgementLedger) -> None:
    with judge_server() as (url, _):
        judge = _judge(url, "alpaca_eval_gpt4", canaries=8)
        pairs = [Pair(f"instruction {n}", "short", "much longer than that") for n in range(8)]
        for pair in pairs:
            request = make_request(pair, judge.evaluator, model="m", base_url=url)
            ledger.record(request.question, Judgement(1.0, "raw", answered_at="2024-01-01T00:00:00+00:00"))
        metrics = judge_over_http(judge, pairs, ledger).metrics
    assert metrics["canary_agreement"] == 0.0 and metrics["canary_shift"] == 100.0


def test_no_canary_is_asked_on_the_day_of_the_verdicts(ledger: JudgementLedger) -> None:
    with judge_server() as (url, seen):
        judge_over_http(_judge(url, canaries=8), _pairs(10), ledger)
        metrics = judge_over_http(_judge(url, canaries=8), _pairs(10), ledger).metrics
    assert len(seen.bodies) == 10 and "canary_agreement" not in metrics


def _stored(count: int, *, follow_length: float = 0.5) -> list[dict[str, Any]]:
    """Human verdicts: good answers win; they are the longer ones with the given probability."""
    chance, rows = random.Random(1), []
    for number in range(count):
        wins, longer = chance.random() < 0.5, chance.random() < follow_length
        lengths = (10, 20) if wins == longer else (20, 10)
        texts = ["good " * lengths[wins], "bad " * lengths[wins]]
        reference, output = (
            ("bad " * lengths[0], "good " * lengths[1])
            if wins
            else ("good " * lengths[0], "bad " * lengths[1])
        )
        del texts
        rows.append({
            "instruction": f"i{number}", "output_1": reference, "output_2": output, "preference": 2 if wins else 1,
        })  # fmt: skip
    return rows


def test_a_judge_that_knows_more_than_length_passes_the_gate() -> None:
    stored = read_stored(_stored(200), limit=1000)
    knowing = [Verdict(1.0 + ("good" in row.pair.output)) for row in stored]
    validation = validate(stored, knowing)
    assert validation is not None and validation.passed
    assert validation.judge.value == 100.0
    assert validation_metrics(validation)["judge_validated"] == 1.0


def test_the_longer_answer_rule_never_passes_its_own_gate() -> None:
    stored = read_stored(_stored(200, follow_length=0.9), limit=1000)
    validation = validate(stored, prefer_longest([row.pair for row in stored]))
    assert validation is not None and not validation.passed
    assert validation.judge.value > 80  # it agrees well, and knows nothing but length
    assert validation.sentence.startswith("judge not validated: agreement with 200 stored verdicts")


def test_a_coin_does_not_pass_the_gate() -> None:
    stored = read_stored(_stored(200, follow_length=0.1), limit=1000)
    validation = validate(stored, prefer_random([row.pair for row in stored], seed=0))
    assert validation is not None and not validation.passed


def test_with_nothing_stored_the_judge_is_not_validated() -> None:
    assert validate([], []) is None
    assert validation_metrics(None) == {"judge_validated": 0.0}


def test_holes_are_left_out_of_the_agreement_and_draws_count_half() -> None:
    stored = read_stored(_stored(4), limit=10)
    right = [1.0 + ("good" in row.pair.output) for row in stored]
    validation = validate(stored, [Verdict(None), Verdict(1.5), Verdict(right[2]), Verdict(3 - right[3])])
    assert validation is not None and validation.judge.n == 3
    assert validation.judge.value == pytest.approx(50.0)  # (1/2 + 1 + 0) / 3


def test_several_stored_verdicts_on_one_pair_are_averaged() -> None:
    row = _stored(1)[0]
    (stored,) = read_stored([row | {"preference": p} for p in (1, 2, 2)], limit=10)
    assert stored.preference == pytest.approx(5 / 3)


def test_the_sample_of_stored_pairs_does_not_depend_on_their_order() -> None:
    rows = _stored(50)
    first, second = read_stored(rows, limit=10), read_stored(rows[::-1], limit=10)
    assert [row.pair for row in first] == [row.pair for row in second]


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="AlpacaEval's published files are not here")
def test_the_longer_rule_against_gpt4s_published_verdicts() -> None:
    rows = json.loads((PUBLISHED / "alpaca-7b-neft.alpaca_eval_gpt4.annotations.json").read_text())
    stored = read_stored(rows, limit=10_000)
    validation = validate(stored, prefer_longest([row.pair for row in stored]))
    judged = [row for row in rows if row["preference"]]
    same = [
        0.5 if len(row["output_1"]) == len(row["output_2"])
        else float((len(row["output_2"]) > len(row["output_1"])) == (row["preference"] == 2))
        for row in judged
    ]  # fmt: skip
    assert validation is not None
    assert validation.judge.value == pytest.approx(100 * sum(same) / len(same))
    assert len(stored) == len(judged) == 803


def test_swaps_are_read_alike_whichever_order_came_first() -> None:
    one = audit_swaps([Repeat(first=1.2, second=1.6, switched=False)])  # model second 0.2, model first 0.6
    other = audit_swaps([Repeat(first=1.6, second=1.2, switched=True)])
    assert (
        one["first_place_preference"]
        == other["first_place_preference"]
        == pytest.approx(100 * (0.8 + 0.6) / 2)
    )


def test_arms_are_asked_in_turn(ledger: JudgementLedger) -> None:
    judge = _judge("http://127.0.0.1:9/v1")
    arms = [[judge.request(Pair(f"i{n}", "r", f"{arm}{n}")) for n in range(3)] for arm in "ab"]
    assert [request.pair.output for request in interleave(arms)] == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert len(interleave([arms[0], arms[0]])) == 3


@pytest.mark.parametrize("judge_noise", [0.0, 1.0])
def test_win_rate_intervals_cover_the_truth_at_their_stated_rate(judge_noise: float) -> None:
    generator = np.random.default_rng(5)
    truth, covered, runs = 0.35, 0, 500
    for _ in range(runs):
        chances = generator.beta(
            truth * 2, (1 - truth) * 2, size=150
        )  # how sure the judge is on each instruction
        verdicts = generator.random(150) < chances if judge_noise else chances
        estimate = win_rate(1 + np.asarray(verdicts, dtype=float))
        covered += estimate.low <= 100 * truth <= estimate.high
    assert 0.95 - 3 * (0.95 * 0.05 / runs) ** 0.5 <= covered / runs <= 0.99
