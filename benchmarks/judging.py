"""805 verdicts from a judge that takes 300 ms: alpaca_eval's own annotator and ours on the same local server.

    python benchmarks/judging.py            about four minutes
    python benchmarks/judging.py --pairs 80

Both ask the same questions with the same parser, one after the other, in processes of their own. The floor is
latency x questions / concurrency: no client can be quicker. Then each is killed several times at a
random moment after half of the answers: lost are those whose response it had read to the end and which it does not have.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["TQDM_DISABLE"] = "1"

from neft_lab.judging.alpaca import parsers
from neft_lab.judging.client import ask_all
from neft_lab.judging.evaluators import load_evaluator
from neft_lab.judging.ledger import JudgementLedger
from neft_lab.judging.pairs import Pair
from neft_lab.judging.prices import Price
from neft_lab.judging.questions import make_request
from neft_lab.judging.transport import Service
from tests.judge_server import judge_server

JUDGE = "alpaca_eval_gpt4"
LATENCY = 0.3
THEIR_DEFAULT, OUR_DEFAULT = 5, 16
KILLS = 3


@dataclass(frozen=True)
class Timing:
    """Seconds one client took, and the seconds below which nobody can be."""

    client: str
    concurrency: int
    pairs: int
    seconds: float

    @property
    def floor(self) -> float:
        return LATENCY * math.ceil(self.pairs / self.concurrency)

    def __str__(self) -> str:
        over = 100 * (self.seconds / self.floor - 1)
        return f"{self.client:34} {self.concurrency:4} {self.seconds:9.2f} {self.floor:9.2f} {over:8.1f} %"


def make_pairs(count: int) -> list[Pair]:
    """Pairs of about AlpacaEval's lengths."""
    return [
        Pair(f"Instruction {n}: explain.", f"reference {n} " * 35, f"answer {n} " * 60) for n in range(count)
    ]


def ask_with_ours(url: str, folder: Path, count: int, concurrency: int) -> None:
    """Every verdict, from the ledger where it is there."""
    evaluator = load_evaluator(JUDGE)
    service = Service(evaluator.model, url, Price(0.0, 0.0, "told"), concurrency=concurrency)
    requests = [
        make_request(pair, evaluator, model=service.model, base_url=url) for pair in make_pairs(count)
    ]
    with JudgementLedger(folder / "judgements") as ledger:
        answers = ask_all(requests, evaluator, service, ledger)
    assert all(answer.judgement and answer.judgement.preference for answer in answers)


def ask_with_theirs(url: str, folder: Path, count: int, concurrency: int) -> None:
    """Every verdict by alpaca_eval.PairwiseAnnotator, with its cache."""
    from alpaca_eval.annotators import PairwiseAnnotator

    logging.disable(logging.CRITICAL)
    client = folder / "client.yaml"
    client.write_text(json.dumps({"default": [{"api_key": "none", "base_url": url}]}))
    annotator = PairwiseAnnotator(annotators_config=JUDGE, caching_path=str(folder / "cache.json"))
    for judge in annotator.annotators.values():
        judge.completions_kwargs |= {"client_config_path": str(client), "num_procs": concurrency}
    rows = [
        {"instruction": pair.instruction, "output_1": pair.reference, "output_2": pair.output}
        for pair in make_pairs(count)
    ]
    assert all(row["preference"] for row in annotator(rows))


def _serve(address: Any) -> None:
    with judge_server(latency=LATENCY) as (url, _):
        address.send(url)
        threading.Event().wait()


@contextmanager
def server() -> Iterator[str]:
    """The judge in a process of its own; yields its address."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    yield ours.recv()
    process.kill()
    process.join()


def _timed(task: Callable[..., None], arguments: tuple[Any, ...], told: Any) -> None:
    parsers()  # both need this import; it is not what is compared
    import openai  # noqa: F401

    started = time.perf_counter()
    task(*arguments)
    told.value = time.perf_counter() - started


def measure(task: Callable[..., None], *arguments: Any) -> float:
    """Seconds that a task takes in a fresh process, its imports left out."""
    told = multiprocessing.Value("d", math.nan)
    process = multiprocessing.Process(target=_timed, args=(task, arguments, told))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{task.__name__} failed")
    return told.value


def _counted(task: Callable[..., None], arguments: tuple[Any, ...], read: Any) -> None:
    """Run a task and count the responses that its HTTP client has read to the end."""
    import httpx2

    parsers()
    lock, plain, later = threading.Lock(), httpx2.Response.read, httpx2.Response.aread

    def count() -> None:
        with lock:
            read.value += 1

    def read_counted(response: Any) -> bytes:
        body = plain(response)
        count()
        return body

    async def aread_counted(response: Any) -> bytes:
        body = await later(response)
        count()
        return body

    httpx2.Response.read, httpx2.Response.aread = read_counted, aread_counted
    task(*arguments)


def kill_half_way(
    task: Callable[..., None], url: str, folder: Path, count: int, after: float
) -> tuple[int, int]:
    """Kill a client `after` seconds from half of its answers: responses read by then, and those it does not have."""
    read = multiprocessing.RawValue("i", 0)  # without a lock, which the kill could leave closed
    process = multiprocessing.Process(target=_counted, args=(task, (url, folder, count, OUR_DEFAULT), read))
    process.start()
    while read.value < count // 2:
        time.sleep(0.002)
    time.sleep(after)
    process.kill()
    process.join()
    return read.value, read.value - _kept(folder)


def _kept(folder: Path) -> int:
    """Verdicts that a client has on disk."""
    cache = folder / "cache.json"
    if cache.exists():
        return len(json.loads(cache.read_text()))
    if not (folder / "judgements").exists():
        return 0
    with JudgementLedger(folder / "judgements") as ledger:
        return len(ledger.entries())


def main() -> None:
    """Run all clients in turn and print what they took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=805)
    count = parser.parse_args().pairs
    rows = (
        ("alpaca_eval, its default", ask_with_theirs, THEIR_DEFAULT),
        ("ours, same concurrency", ask_with_ours, THEIR_DEFAULT),
        ("alpaca_eval, our concurrency", ask_with_theirs, OUR_DEFAULT),
        ("ours, our default", ask_with_ours, OUR_DEFAULT),
    )
    print(f"{count} pairs, {LATENCY * 1000:.0f} ms latency\n{'':32} at a time  seconds     floor  above it")
    with tempfile.TemporaryDirectory() as name, server() as url:
        timings = []
        for number, (client, task, concurrency) in enumerate(rows):
            folder = Path(name) / str(number)
            folder.mkdir()
            timings.append(Timing(client, concurrency, count, measure(task, url, folder, count, concurrency)))
            print(timings[-1], flush=True)
        again = measure(ask_with_ours, url, folder, count, OUR_DEFAULT)
        print(f"ours, everything in the ledger: {again:.2f} s")
        print(f"ratio, defaults: {timings[0].seconds / timings[3].seconds:.2f} x", end="; ")
        print(
            f"equal concurrency: {timings[0].seconds / timings[1].seconds:.2f} x at {THEIR_DEFAULT}", end=", "
        )
        print(f"{timings[2].seconds / timings[3].seconds:.2f} x at {OUR_DEFAULT}")
        for client, task in (("alpaca_eval", ask_with_theirs), ("ours", ask_with_ours)):
            ends, chance = [], random.Random(0)
            for number in range(KILLS):
                folder = Path(name) / f"killed-{client}-{number}"
                folder.mkdir()
                ends.append(kill_half_way(task, url, folder, count, chance.random() * LATENCY))
            lost = ", ".join(f"{lost} of {read}" for read, lost in ends)
            print(f"{client}, killed half way {KILLS} times, answers read and lost: {lost}", flush=True)


if __name__ == "__main__":
    main()
