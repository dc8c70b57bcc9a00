"""Blocks of lm-eval requests answered by a trained model, on one device or spread over several."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from transformers import set_seed

from neft_lab.models import load_trained, resolve_precision
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


def devices_of(device: str) -> list[str]:
    """Every GPU that is there where a GPU is asked for; else the device itself."""
    if device != "cuda":
        return [device]
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


def precision_of(precision: str, device: str) -> str:
    """What a requested precision comes to on a device."""
    return resolve_precision(precision, device)


def answer_blocks(
    examinee: Examinee, blocks: Mapping[int, Sequence[Asked]], *, devices: Sequence[str]
) -> Iterator[tuple[int, list[Answered]]]:
    """Answer blocks of requests by number; several devices give them in the order they are finished.

    Every block is answered as a whole, so the answers do not depend on the number of devices.
    """
    if len(devices) == 1:
        model = examinee.load(devices[0])
        yield from ((number, _answer(model, number, asked)) for number, asked in blocks.items())
        return
    context = multiprocessing.get_context("forkserver")
    free = context.SimpleQueue()
    for device in devices:
        free.put(device)
    with ProcessPoolExecutor(len(devices), context, _start_worker, (examinee, free)) as pool:
        waiting = {pool.submit(_answer_in_worker, number, asked): number for number, asked in blocks.items()}
        for done in as_completed(waiting):
            yield waiting[done], done.result()


_loaded: list[PrefixSharingLM] = []
"""The model of a worker process."""


def _start_worker(examinee: Examinee, free: SimpleQueue[str]) -> None:
    _loaded.append(examinee.load(free.get()))


def _answer_in_worker(number: int, asked: Sequence[Asked]) -> list[Answered]:
    return _answer(_loaded[0], number, asked)


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
