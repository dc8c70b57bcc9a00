"""The ledger: nothing read is lost, whoever is killed, and hosts read each other's files."""

from __future__ import annotations

import json
import multiprocessing
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neft_lab.judging.client import ask_all
from neft_lab.judging.evaluators import load_evaluator
from neft_lab.judging.exchange import _date, export_annotations, import_annotations, main
from neft_lab.judging.ledger import BudgetSpent, JudgementLedger
from neft_lab.judging.pairs import Pair
from neft_lab.judging.prices import Price
from neft_lab.judging.questions import Judgement, Question, make_request
from neft_lab.judging.transport import Service
from tests.judge_server import judge_server
from tests.judging_worker import CONCURRENCY, JUDGE, make_requests, work

PUBLISHED = Path(__file__).parents[1].parent / "shared" / "data" / "alpaca_eval"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[JudgementLedger]:
    with JudgementLedger(tmp_path / "judgements") as opened:
        yield opened


def _question(**changes: Any) -> Question:
    fields = {
        "instruction": "i", "reference": "r", "output": "o", "switched": False, "judge": "j", "prompt": "p",
        "decoding": "{}", "draw": 0,
    }  # fmt: skip
    return Question(**(fields | changes))


@given(texts=st.tuples(*[st.text(st.characters(exclude_categories=["Cs"]))] * 3), raw=st.recursive(
    st.none() | st.text(st.characters(exclude_categories=["Cs"])) | st.floats(allow_nan=False), lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=2)
))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_a_judgement_is_read_back_as_it_was_recorded(texts: tuple[str, str, str], raw: Any) -> None:
    import tempfile

    question = _question(instruction=texts[0], reference=texts[1], output=texts[2])
    judgement = Judgement(1.25, raw, 10, 2, 0.5, "v", "2024-01-01T00:00:00.000+00:00", 0.1)
    with tempfile.TemporaryDirectory() as folder, JudgementLedger(folder) as ledger:
        ledger.record(question, judgement)
        assert ledger.find([question.key]) == {question.key: [judgement]}
        (entry,) = ledger.entries(judge="j")
        assert (entry.instruction, entry.reference, entry.output) == texts


@pytest.mark.parametrize(
    "change",
    [{"instruction": "x"}, {"reference": "x"}, {"output": "x"}, {"switched": True}, {"judge": "x"}, {"prompt": "x"},
     {"decoding": "x"}, {"draw": 1}],
)  # fmt: skip
def test_every_part_of_a_question_is_in_its_key(change: dict[str, Any]) -> None:
    assert _question().key != _question(**change).key


def test_rows_are_only_added_and_come_oldest_first(ledger: JudgementLedger) -> None:
    question = _question()
    for day, preference in ((3, 1.0), (1, None), (2, 2.0)):
        ledger.record(question, Judgement(preference, "raw", answered_at=f"2024-01-0{day}"))
    found = ledger.find([question.key])[question.key]
    assert [row.preference for row in found] == [None, 2.0, 1.0]


def test_another_hosts_judgements_are_read_while_it_writes_and_after(tmp_path: Path) -> None:
    ours, theirs = _question(), _question(output="other")
    with JudgementLedger(tmp_path, host="a") as here, JudgementLedger(tmp_path, host="b") as there:
        there.record(theirs, Judgement(2.0, "raw", usd=0.5))
        assert (tmp_path / "b.sqlite-wal").stat().st_size > 0  # not yet in the file itself
        here.record(ours, Judgement(1.0, "raw", usd=0.25))
        assert set(here.find([ours.key, theirs.key])) == {ours.key, theirs.key}
        assert set(here.find([ours.key, theirs.key], everywhere=False)) == {ours.key}
        assert here.spent() == 0.75
        there.close()
        assert not (tmp_path / "b.sqlite-wal").exists()
        assert set(here.find([ours.key, theirs.key])) == {ours.key, theirs.key}


def test_reading_another_host_leaves_its_files_alone(tmp_path: Path) -> None:
    with JudgementLedger(tmp_path, host="a") as here, JudgementLedger(tmp_path, host="b") as there:
        there.record(_question(), Judgement(2.0, "raw"))
        before = {
            path.name: path.read_bytes() for path in tmp_path.glob("b.*") if path.suffix != ".sqlite-shm"
        }
        here.entries()
        after = {
            path.name: path.read_bytes() for path in tmp_path.glob("b.*") if path.suffix != ".sqlite-shm"
        }
        assert before == after


def test_an_answer_is_kept_before_the_disk_has_it_and_used_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow disk must not leave answers read and not kept: a kill there would lose them."""
    disk, told, seen_by_another = threading.Event(), [0], set[int]()
    slow = JudgementLedger.sync

    def sync(ledger: JudgementLedger) -> None:
        disk.wait(10)
        slow(ledger)

    monkeypatch.setattr(JudgementLedger, "sync", sync)
    with judge_server() as (url, _), ThreadPoolExecutor(1) as pool:
        running = pool.submit(_ask, url, tmp_path, told)
        deadline = time.monotonic() + 20
        while len(seen_by_another) < CONCURRENCY and time.monotonic() < deadline:
            with JudgementLedger(tmp_path) as other:
                seen_by_another = {number for number, _ in enumerate(other.entries())}
        assert (len(seen_by_another), told[0]) == (CONCURRENCY, 0)
        disk.set()
        running.result()
    assert told[0] == 12


def _ask(url: str, folder: Path, told: list[int]) -> None:
    def advance(count: int) -> None:
        told[0] += count

    service = Service("gpt-4", url, Price(0, 0, "told"), concurrency=CONCURRENCY)
    with JudgementLedger(folder) as ledger:
        ask_all(make_requests(url, 12), load_evaluator(JUDGE), service, ledger, advance=advance)


def test_a_stored_date_is_read_as_utc_and_a_wrong_one_is_none() -> None:
    assert _date({"date": "2023-10-05T22:12:10.123456"}) == "2023-10-05T22:12:10.123+00:00"
    assert _date({"date": "2023-10-05T22:12:10+02:00"}) == "2023-10-05T20:12:10.000+00:00"
    assert _date({"date": "yesterday"}) == _date({}) == ""


def test_equal_texts_are_stored_once(ledger: JudgementLedger) -> None:
    for draw in range(20):
        ledger.record(_question(instruction="i" * 5000, draw=draw), Judgement(2.0, "raw"))
    rows = sqlite3.connect(ledger.file).execute("SELECT count(*) FROM texts").fetchone()[0]
    assert rows == 3


def test_reservations_hold_the_limit_until_they_are_freed(ledger: JudgementLedger) -> None:
    first = ledger.reserve(0.6, limit=1.0)
    with pytest.raises(BudgetSpent, match=r"\$0.6000 of \$1 are spent or on their way"):
        ledger.reserve(0.6, limit=1.0)
    ledger.release(first)
    second = ledger.reserve(0.6, limit=1.0)
    ledger.record(_question(), Judgement(2.0, "raw", usd=0.1), reservation=second)
    assert ledger.committed() == pytest.approx(0.1)
    ledger.reserve(0.9, limit=1.0)


def test_two_ledgers_on_one_file_share_the_limit(tmp_path: Path) -> None:
    with JudgementLedger(tmp_path, host="a") as one, JudgementLedger(tmp_path, host="a") as two:
        one.reserve(0.6, limit=1.0)
        with pytest.raises(BudgetSpent):
            two.reserve(0.6, limit=1.0)


def test_a_transaction_that_fails_leaves_nothing(ledger: JudgementLedger) -> None:
    good = (_question(), Judgement(2.0, "raw"))
    with pytest.raises(TypeError):
        ledger.record_all([good, (_question(draw=1), Judgement(2.0, object()))])
    assert ledger.entries() == []
    ledger.record(*good)


def _rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "instruction": f"i{n}",
            "output_1": "r",
            "output_2": f"o{n}",
            "preference": 1.0 + n % 2,
            "raw_completion": f"raw {n}",
        }
        for n in range(count)
    ]


def test_annotations_come_out_as_they_went_in(ledger: JudgementLedger) -> None:
    evaluator = load_evaluator(JUDGE)
    who = {"model": "gpt-4", "base_url": "https://api.openai.com/v1"}
    rows = [
        *_rows(5),
        _rows(6)[5] | {"preference": None},
        _rows(7)[6] | {"output_1": "same", "output_2": "same"},
    ]
    assert import_annotations(ledger, rows, evaluator, **who) == 5
    assert import_annotations(ledger, rows, evaluator, **who) == 0
    out = export_annotations(ledger, evaluator, **who)
    assert [{name: row[name] for name in rows[0]} for row in out] == rows[:5]
    assert ledger.spent() == 0


def test_imported_verdicts_are_not_asked_again(ledger: JudgementLedger) -> None:
    evaluator = load_evaluator(JUDGE)
    import_annotations(ledger, _rows(3), evaluator, model="gpt-4", base_url="u")
    requests = [
        make_request(Pair(f"i{n}", "r", f"o{n}"), evaluator, model="gpt-4", base_url="u") for n in range(3)
    ]
    assert len(ledger.find([request.question.key for request in requests])) == 3


def test_the_command_imports_and_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "in.json", tmp_path / "out.json"
    source.write_text(json.dumps(_rows(4)))
    assert main(["import", str(tmp_path), str(source), "--evaluator", JUDGE]) == 0
    assert main(["export", str(tmp_path), str(target), "--evaluator", JUDGE]) == 0
    assert capsys.readouterr().out == "4 new of 4 rows\n4 rows written\n"
    assert [row["preference"] for row in json.loads(target.read_text())] == [1.0, 2.0, 1.0, 2.0]
    assert main(["import", str(tmp_path), str(source), "--evaluator", "nobody"]) == 2


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="AlpacaEval's published files are not here")
def test_published_annotations_survive_the_ledger(ledger: JudgementLedger) -> None:
    rows = json.loads((PUBLISHED / "alpaca-7b.weighted_alpaca_eval_gpt4_turbo.annotations.json").read_text())
    evaluator = load_evaluator("weighted_alpaca_eval_gpt4_turbo")
    who = {"model": evaluator.model, "base_url": "https://api.openai.com/v1"}
    assert import_annotations(ledger, rows, evaluator, **who) == 802  # of 805, three pairs are equal
    out = {row["instruction"]: row for row in export_annotations(ledger, evaluator, **who)}
    for row in rows:
        if row["output_1"] != row["output_2"]:
            assert out[row["instruction"]]["preference"] == row["preference"]
            assert out[row["instruction"]]["raw_completion"] == row["raw_completion"]


def _processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    return context


def _judge_through_kills(folder: Path, *, kills: int, pairs: int, workers: int, seed: int) -> None:
    """Kill workers at random moments and start them anew, then let them finish; nothing may be asked in vain."""
    chance, context = random.Random(seed), _processes()
    with judge_server(latency=0.03) as (url, seen):
        keys = [request.question.key for request in make_requests(url, pairs)]
        asked_in_vain, killed = 0, 0
        while killed < kills:
            running = [context.Process(target=work, args=(url, folder, pairs)) for _ in range(workers)]
            before, known = len(seen.bodies), _verdicts(folder, keys)
            for process in running:
                process.start()
            _wait_for(seen, before + chance.randrange(1, 3 * CONCURRENCY), running)
            time.sleep(chance.random() * 0.03)
            for process in running:
                process.kill()
                process.join()
            killed += workers
            asked = Counter(_instruction(body) for body in seen.bodies[before:])
            asked_in_vain += sum(count for text, count in asked.items() if text in known)
            assert known <= _verdicts(folder, keys)
        last = context.Process(target=work, args=(url, folder, pairs))
        last.start()
        last.join()
        assert last.exitcode == 0
    assert asked_in_vain == 0
    lost = len(seen.bodies) - pairs
    assert lost <= kills * CONCURRENCY * workers


def _wait_for(seen: Any, requests: int, running: list[Any]) -> None:
    deadline = time.monotonic() + 60
    while len(seen.bodies) < requests and any(process.is_alive() for process in running):
        assert time.monotonic() < deadline
        time.sleep(0.002)


def _instruction(body: dict[str, Any]) -> str:
    return str(body["messages"][1]["content"].split('"""')[1])


def _verdicts(folder: Path, keys: list[str]) -> set[str]:
    with JudgementLedger(folder) as ledger:
        return {entry.instruction for entry in ledger.entries() if entry.key in keys}


def test_killed_workers_lose_nothing_and_ask_nothing_twice(tmp_path: Path) -> None:
    _judge_through_kills(tmp_path, kills=3, pairs=60, workers=1, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_many_kills_lose_nothing_and_ask_nothing_twice(tmp_path: Path, seed: int) -> None:
    _judge_through_kills(tmp_path, kills=24, pairs=600, workers=1, seed=seed)


@pytest.mark.soak
def test_two_processes_on_one_ledger_lose_nothing_when_both_are_killed(tmp_path: Path) -> None:
    _judge_through_kills(tmp_path, kills=24, pairs=600, workers=2, seed=7)


@pytest.mark.parametrize("hosts", [("a", "a"), ("a", "b")])
def test_two_processes_on_one_ledger_both_finish_with_every_verdict(
    tmp_path: Path, hosts: tuple[str, str]
) -> None:
    context = _processes()
    with judge_server(latency=0.01) as (url, _):
        running = [context.Process(target=work, args=(url, tmp_path, 80, host)) for host in hosts]
        for process in running:
            process.start()
        for process in running:
            process.join()
        assert [process.exitcode for process in running] == [0, 0]
        keys = {request.question.key for request in make_requests(url, 80)}
    with JudgementLedger(tmp_path, host="c") as reader:
        assert {entry.key for entry in reader.entries()} == keys
