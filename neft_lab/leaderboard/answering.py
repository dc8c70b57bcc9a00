"""Blocks of lm-eval requests answered by a trained model, in one process or shared by several."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from transformers import set_seed

from neft_lab.config import UserError
from neft_lab.models import load_trained, resolve_precision
from neft_lab.processes import end_with_parent
from neft_lab.quiet import quiet_libraries
from neft_lab.scoring import PrefixSharingLM


@dataclass(frozen=True)
class Examinee:
    """The model that answers: folder of its train step, resolved precision, limits of a pass and of a prompt."""

    folder: Path
    precision: str
    token_budget: int
    max_length: int | None

    def load(self, device: str) -> PrefixSharingLM:
        """The model on a device, ready for lm-eval."""
        loaded = load_trained(self.folder, precision=self.precision, device=device)
        return PrefixSharingLM(
            loaded.model,
            tokenizer=loaded.tokenizer,
            token_budget=self.token_budget,
            max_length=self.max_length,
        )


@dataclass(frozen=True)
class Asked:
    """One request: lm-eval's kind of it, its arguments, and how often it is to be answered."""

    kind: str
    arguments: tuple[Any, ...]
    repeats: int = 1


Answered = list[Any]
"""The answers to one request, one per repeat: [log-likelihood, greedy], a log-likelihood, or a text."""


def devices_of(device: str, processes: int | None) -> list[str]:
    """The device of each process: a GPU of its own where GPUs are asked for, else the same one for all.

    processes: how many, or None for one per GPU. Raises UserError for more than there are GPUs.
    """
    if device != "cuda":
        return [device] * (processes or 1)
    found = torch.cuda.device_count()
    if processes is not None and processes > found:
        raise UserError(
            f"leaderboard.processes={processes} needs as many GPUs, and this machine has {found}; "
            f"use leaderboard.processes={found}"
        )
    return [f"cuda:{number}" for number in range(processes or found)]


def precision_of(precision: str, device: str) -> str:
    """What a requested precision comes to on a device."""
    return resolve_precision(precision, device)


def answer_blocks(
    examinee: Examinee, blocks: Mapping[int, Sequence[Asked]], *, devices: Sequence[str]
) -> Iterator[tuple[int, list[Answered]]]:
    """Answer blocks of requests by number, in a process for each device; several give them as they are finished.

    Every block is answered as a whole, so the answers do not depend on how many share the work. The processes
    end with this one. Raises RuntimeError where one of them is killed.
    """
    if len(devices) == 1:
        model = examinee.load(devices[0])
        yield from ((number, _answer(model, number, asked)) for number, asked in blocks.items())
        return
    context = multiprocessing.get_context("forkserver")
    free = context.SimpleQueue()
    for device in devices:
        free.put(device)
    threads = max(1, torch.get_num_threads() // len(devices))
    pool = ProcessPoolExecutor(len(devices), context, _start_worker, (examinee, free, threads))
    try:
        waiting = {pool.submit(_answer_in_worker, number, asked): number for number, asked in blocks.items()}
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    except BrokenProcessPool:
        raise RuntimeError(
            f"one of {len(devices)} scoring processes was killed (out of memory?); what they finished is kept: "
            "run the same command again, with fewer leaderboard.processes if it ends so again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_places: list[tuple[Examinee, str]] = []
"""What a worker process answers with, and where."""


def _start_worker(examinee: Examinee, free: SimpleQueue[str], threads: int) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a terminal tells all of a Ctrl-C; the parent speaks of it
    quiet_libraries()
    torch.set_num_threads(threads)
    _places.append((examinee, free.get()))


@lru_cache(maxsize=1)
def _load_in_worker() -> PrefixSharingLM:
    """At the first block, so that what goes wrong is told as any error of a block is."""
    examinee, device = _places[0]
    return examinee.load(device)


def _answer_in_worker(number: int, asked: Sequence[Asked]) -> list[Answered]:
    return _answer(_load_in_worker(), number, asked)


def _answer(model: PrefixSharingLM, number: int, block: Sequence[Asked]) -> list[Answered]:
    set_seed(number)  # sampling, where a task asks for it, is the same after a resume
    answers: list[Answered] = [[] for _ in block]
    for kind in dict.fromkeys(asked.kind for asked in block):
        places = [
            place for place, asked in enumerate(block) if asked.kind == kind for _ in range(asked.repeats)
        ]
        requests = [Instance(kind, {}, block[place].arguments, place) for place in places]
        for place, answer in zip(places, getattr(model, kind)(requests, disable_tqdm=True), strict=True):
            answers[place].append(answer)
    return answers
