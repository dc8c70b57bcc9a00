"""What judging costs: known before, capped, and exact after."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from neft_lab.config import UserError
from neft_lab.judging.agenda import estimate, plan_questions
from neft_lab.judging.asked import judge_over_http
from neft_lab.judging.client import JudgingStopped
from neft_lab.judging.evaluators import load_evaluator
from neft_lab.judging.forecast import JudgingBudget, forecast_judging
from neft_lab.judging.judge import load_judge
from neft_lab.judging.ledger import JudgementLedger
from neft_lab.judging.pairs import Pair
from neft_lab.judging.prices import Price, estimate_cost, find_price, price_table, upper_bound
from neft_lab.plan import make_plan
from neft_lab.store import Store
from tests.judge_server import judge_server
from tests.test_judging_stage import judge_config

PUBLISHED = Path(__file__).parents[1].parent / "shared" / "data" / "alpaca_eval"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[JudgementLedger]:
    with JudgementLedger(tmp_path / "judgements") as opened:
        yield opened


def _pairs(count: int) -> list[Pair]:
    return [
        Pair(f"instruction {number} " * 5, "reference " * 20, f"answer {number} " * 30)
        for number in range(count)
    ]


def test_every_price_is_dated_and_covers_the_judges_of_the_paper() -> None:
    table = price_table()
    assert {"gpt-4", "gpt-3.5-turbo-16k-0613", "gpt-4-1106-preview"} <= set(table)
    assert all(price.as_of.startswith("20") and price.output >= price.input > 0 for price in table.values())


def test_input_and_output_tokens_have_their_own_price() -> None:
    assert Price(10.0, 30.0, "told").usd(1000, 100) == pytest.approx(0.013)


def test_an_unknown_price_is_refused_and_the_remedy_told() -> None:
    with pytest.raises(UserError, match=r"'gpt-4-061' is not known \(the table has 'gpt-4-0613'\).*\[0,0\]"):
        find_price("gpt-4-061", None)
    assert find_price("anything", [0.0, 0.0]).usd(10**6, 10**6) == 0


def test_a_service_of_another_provider_needs_an_address() -> None:
    with pytest.raises(UserError, match="'claude' is not asked over OpenAI's protocol"):
        load_judge(judge_config("alpaca_eval", evaluator="claude", usd_per_million_tokens=[0, 0]))


def _forecast(folder: Path, *overrides: str) -> JudgingBudget:
    plan, store = make_plan(overrides), Store(folder)
    return forecast_judging(list(plan.steps.values()), plan.steps, store)


def test_a_plan_costs_about_what_the_leaderboards_runs_cost(tmp_path: Path) -> None:
    """805 judgements cost 11.95 to 21.25 dollars on AlpacaEval 1 (all tokens at the input price)."""
    run = ("judge=alpaca_eval_gpt4", "generation.instructions=alpaca_eval", "generation.max_new_tokens=512")
    (told,) = _forecast(tmp_path, *run, "judge.audit_pairs=0").forecasts
    assert (told.cells, told.calls) == (1, 805) and told.usd is not None and 11.95 < told.usd < 21.25
    (audited,) = _forecast(tmp_path, *run, "judge.audit_pairs=20", "noise.alpha=0,5,10,15").forecasts
    assert (audited.cells, audited.calls) == (4, 4 * 845)
    assert _forecast(tmp_path, "judge=longest").forecasts == []
    assert not list(tmp_path.iterdir())  # a forecast leaves nothing behind


def test_a_plan_without_a_price_still_tells_its_calls_and_why_it_cannot_be_priced(tmp_path: Path) -> None:
    budget = _forecast(
        tmp_path, "judge=openai_compatible", "judge.base_url=http://x/v1", "judge.served_model=mine", "generation.limit=10",
        "judge.audit_pairs=2",
    )  # fmt: skip
    (told,) = budget.forecasts
    assert (told.calls, told.usd, budget.usd) == (14, None, 0)
    assert str(told.refusal).startswith("the price of judge model 'mine' is not known")
    assert "cannot be priced: the price of" in str(told)


def test_a_cap_below_the_estimate_is_told_with_the_one_that_suffices(tmp_path: Path) -> None:
    run = ("judge=alpaca_eval_gpt4", "generation.instructions=alpaca_eval", "noise.alpha=0,5,10,15")
    budget = _forecast(tmp_path, *run, "judge.max_usd=25")
    assert budget.over is not None
    assert f"raise it to {budget.usd:.2f} or more" in budget.over
    assert _forecast(tmp_path, *run, f"judge.max_usd={budget.usd + 1:.2f}").over is None


def test_the_upper_bound_is_above_what_is_paid(ledger: JudgementLedger) -> None:
    with judge_server() as (url, _):
        judge = load_judge(judge_config(
            "openai_compatible", base_url=url, served_model="gpt-4", evaluator="alpaca_eval_gpt4", audit_pairs=0, max_usd=50,
        ))  # fmt: skip
        judge_over_http(judge, _pairs(5), ledger)
        bodies = [judge.evaluator.body(pair, switched=False, model="gpt-4") for pair in _pairs(5)]
        assert 0 < ledger.spent() < sum(upper_bound(body, judge.service.price) for body in bodies)


def test_after_some_answers_the_estimate_comes_from_the_ledger_and_is_close(ledger: JudgementLedger) -> None:
    with judge_server() as (url, _):
        judge = load_judge(judge_config(
            "openai_compatible", base_url=url, served_model="gpt-4", evaluator="alpaca_eval_gpt4", audit_pairs=0, max_usd=50,
        ))  # fmt: skip
        judge_over_http(judge, _pairs(10), ledger)
        questions = plan_questions(judge, _pairs(40), [], ledger)
        told = estimate(judge, questions.all, ledger)
        spent = ledger.spent()
        judge_over_http(judge, _pairs(40), ledger)
    assert told.source == "ledger" and told.requests == 30
    assert told.usd == pytest.approx(ledger.spent() - spent, rel=0.02)


def test_what_the_ledger_knows_costs_nothing(ledger: JudgementLedger) -> None:
    with judge_server() as (url, _):
        judge = load_judge(judge_config(
            "openai_compatible", base_url=url, served_model="gpt-4", evaluator="alpaca_eval_gpt4", audit_pairs=0, max_usd=50,
        ))  # fmt: skip
        judge_over_http(judge, _pairs(10), ledger)
        assert estimate(judge, plan_questions(judge, _pairs(10), [], ledger).all, ledger).usd == 0


def test_a_run_that_does_not_fit_under_the_cap_spends_nothing(ledger: JudgementLedger) -> None:
    with judge_server() as (url, seen):
        judge = load_judge(judge_config(
            "openai_compatible", base_url=url, served_model="gpt-4", evaluator="alpaca_eval_gpt4", max_usd=0.05,
        ))  # fmt: skip
        with pytest.raises(JudgingStopped, match=r"judge.max_usd=0.05 are spent; nothing was asked. Raise"):
            judge_over_http(judge, _pairs(50), ledger)
    assert not seen.bodies


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="AlpacaEval's published files are not here")
@pytest.mark.parametrize(
    ("file", "dollars"),
    [
        ("alpaca-7b-neft.alpaca_eval_gpt4", 30.0),
        ("alpaca-7b.alpaca_eval_gpt4", 30.0),
        ("alpaca-7b.weighted_alpaca_eval_gpt4_turbo", 10.0),
    ],
)
def test_the_estimate_of_a_published_run_is_near_what_it_cost(file: str, dollars: float) -> None:
    rows = json.loads((PUBLISHED / f"{file}.annotations.json").read_text())
    evaluator = load_evaluator(file.split(".")[1])
    pairs = [Pair(row["instruction"], row["output_1"], row["output_2"]) for row in rows]
    bodies = [evaluator.body(pair, switched=False, model="gpt-4") for pair in pairs if not pair.identical]
    published = sum(row["price_per_example"] or 0 for row in rows)  # all tokens at the input price
    told = estimate_cost(bodies, Price(dollars, dollars, "alpaca_eval"))
    assert told.usd == pytest.approx(published, rel=0.2)
