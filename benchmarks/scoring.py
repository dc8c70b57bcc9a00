"""lm-eval's HFLM and PrefixSharingLM in turn on the same requests of the four OpenLLM tasks.

    python benchmarks/scoring.py                          SmolLM2 on the embedded sets
    python benchmarks/scoring.py --folder DIR             files of one's own, TruthfulQA among them
    python benchmarks/scoring.py --vocabulary 2048        a random model of the same shape with a small vocabulary
    python benchmarks/scoring.py --model DIR --device cuda --precision bf16

HFLM runs with the batch size that is its fastest on the first documents, and on a GPU `auto` is tried as well. On a CPU
`auto` means 64, after five passes over 64 rows of the longest request, or as many as memory holds: sizes up to 64 are
tried instead, as far as 4 GB hold their logits.
Seconds are the smallest of the repeats, tokenisation not counted: those of the clock, but with one thread on a CPU (the
default) those of the processor, which others on the machine lengthen less. `--threads 2` needs a quiet machine. "Weighted" is the whole suite's ratio, each task
counting with HFLM's tokens for all its documents; HellaSwag is 69 % of them. MMLU is sampled by whole subjects,
since its ratio grows with the questions that share a subject's shots.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["TQDM_DISABLE"] = "1"

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM

from neft_lab.config import ModelSource, TaskConfig, TaskSource
from neft_lab.models import LoadedModel, load_source
from neft_lab.plan import expand
from neft_lab.scoring import PrefixSharingLM
from neft_lab.scoring.check import TokenRequest
from neft_lab.sources import model_source
from neft_lab.tasks.benchmarks import load_benchmark
from neft_lab.tasks.data_set import NoDocuments

SUITE = {"mmlu": 11.275e6, "arc_challenge": 5.142e6, "hellaswag": 38.82e6, "truthfulqa_mc2": 1.320e6}
"""HFLM's tokens for all documents with the leaderboard's shots (LLaMA's tokenizer)."""

SHOTS = {"mmlu": 5, "arc_challenge": 25, "hellaswag": 10, "truthfulqa_mc2": 0}
DOCUMENTS = {"mmlu": 100, "arc_challenge": 6, "hellaswag": 8, "truthfulqa_mc2": 60}
"""Documents per task (MMLU: per subject) where nothing else is asked for."""

HELD_LOGITS = 4e9
"""Bytes of logits with which a batch size is still tried on a CPU."""

Answers = list[tuple[float, bool]]


@dataclass(frozen=True)
class Run:
    """One pass over a task: seconds, and memory above what was held before, in bytes."""

    seconds: float
    memory: int
    answers: Answers


@dataclass(frozen=True)
class Astray:
    """How far answers in bfloat16 are from those in float32: root mean square, and documents with another choice."""

    error: float
    changed: int


@dataclass(frozen=True)
class Measured:
    """Both on one task. ``apart``: largest difference of log-likelihoods; ``agreeing``: same best choice, percent."""

    task: str
    documents: int
    batch_size: int | str
    tokens: tuple[int, int]
    seconds: tuple[float, float]
    memory: tuple[int, int]
    apart: float
    agreeing: float
    astray: tuple[Astray, Astray] | None

    @property
    def ratio(self) -> float:
        return self.seconds[0] / self.seconds[1]


def main() -> None:
    """Measure the tasks whose documents are there, and print a line for each."""
    options = _parse()
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    loaded = _load_model(options)
    print(f"{type(loaded.model).__name__}, {loaded.model.dtype}, {options.device}, {options.threads} threads")
    print(f"{'task':15} {'docs':>5} {'HFLM batch':>10} {'tokens':>17} {'seconds':>15} {'ratio':>6} "
          f"{'MB above the model':>19} {'largest diff':>12} {'same choice':>11}")  # fmt: skip
    found = []
    for task in options.tasks:
        try:
            requests, sizes = _requests(task, options, loaded)
        except NoDocuments as reason:
            print(f"{task:15} {reason}")
            continue
        found.append(_measure(task, requests, sizes, options, loaded))
        _print(found[-1])
    _print_weighted(found)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--model", help="folder of a causal LM; default SmolLM2-135M-Instruct")
    parser.add_argument("--vocabulary", type=int, help="a random model of that shape with so many tokens")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--folder", help="evaluation files, instead of the embedded ones")
    parser.add_argument("--tasks", nargs="+", default=list(SUITE), choices=list(SUITE))
    parser.add_argument("--subjects", nargs="+", default=["anatomy"], help="MMLU subjects")
    parser.add_argument("--documents", type=int, help="documents per task, the same for all")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--token-budget", type=int)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _load_model(options: argparse.Namespace) -> LoadedModel:
    config = expand(["model=smollm2_135m"])[0].config.model
    if options.model:
        config = replace(config, source=ModelSource.local, path=options.model)
    loaded = load_source(model_source(config), precision=options.precision, device=options.device)
    if options.vocabulary is None:
        return loaded
    shape = loaded.model.config
    shape.vocab_size = options.vocabulary
    shape.bos_token_id = shape.eos_token_id = shape.pad_token_id = 0
    torch.manual_seed(0)
    small = AutoModelForCausalLM.from_config(shape, dtype=loaded.model.dtype)
    return LoadedModel(small.to(options.device).eval(), loaded.tokenizer)


def _requests(
    task: str, options: argparse.Namespace, loaded: LoadedModel
) -> tuple[list[TokenRequest], list[int]]:
    """Tokenised requests, document by document, and how many each document makes."""
    subjects = options.subjects if task == "mmlu" else None
    limit = options.documents or DOCUMENTS[task]
    source = TaskSource.folder if options.folder else TaskSource.embedded
    with redirect_stderr(io.StringIO()):
        asked = TaskConfig(task, SHOTS[task], "acc", limit, subjects)
        benchmark = load_benchmark(asked, source=source, folder=options.folder)
        instances = []
        for subtask in benchmark.subtasks:
            subtask.task.build_all_requests(limit=limit)
            instances += subtask.task.instances
    encoder = HFLM(loaded.model, tokenizer=loaded.tokenizer)
    pairs = [encoder._encode_pair(*instance.args) for instance in instances]
    if options.vocabulary:  # equal tokens stay equal, so prefixes are shared as before
        pairs = [tuple([token % options.vocabulary for token in part] for part in pair) for pair in pairs]
    starts = [number for number, instance in enumerate(instances) if instance.idx == 0]
    sizes = np.diff([*starts, len(instances)]).tolist()
    return [(None, context, rest) for context, rest in pairs], sizes


def _measure(
    task: str,
    requests: list[TokenRequest],
    sizes: list[int],
    options: argparse.Namespace,
    loaded: LoadedModel,
) -> Measured:
    ours = PrefixSharingLM(loaded.model, tokenizer=loaded.tokenizer, token_budget=options.token_budget)
    ours._loglikelihood_tokens(requests[:1], disable_tqdm=True)  # the model is tried before, once
    batch_size, theirs = _fastest_hflm(requests[: sum(sizes[:2])], options, loaded)
    pairs = []
    for _ in range(options.repeats):
        ours.tokens_computed = 0
        pairs.append([_run(lm, requests, options.device) for lm in (theirs, ours)])
    seconds = [min(pair[side].seconds for pair in pairs) for side in (0, 1)]
    memory = [max(pair[side].memory for pair in pairs) for side in (0, 1)]
    answers = [pairs[0][side].answers for side in (0, 1)]
    distinct = {tuple(context + rest[:-1])[-ours.max_length :] for _, context, rest in requests}
    apart = max(abs(one - other) for (one, _), (other, _) in zip(*answers, strict=True))
    best = [[int(np.argmax(choices)) for choices in _by_document(one, sizes)] for one in answers]
    agreeing = 100 * float(np.mean([one == other for one, other in zip(*best, strict=True)]))
    astray = None if options.precision == "fp32" else _compare_with_float32(answers, requests, sizes, options)
    return Measured(task, len(sizes), batch_size, (sum(map(len, distinct)), ours.tokens_computed),
                    (seconds[0], seconds[1]), (memory[0], memory[1]), apart, agreeing, astray)  # fmt: skip


def _compare_with_float32(
    answers: Sequence[Answers], requests: list[TokenRequest], sizes: list[int], options: argparse.Namespace
) -> tuple[Astray, Astray]:
    """HFLM's answers and ours beside those of the same model in float32."""
    loaded = _load_model(argparse.Namespace(**(vars(options) | {"precision": "fp32"})))
    lm = HFLM(loaded.model, tokenizer=loaded.tokenizer, batch_size=1)
    exact = lm._loglikelihood_tokens(requests, disable_tqdm=True)
    theirs, ours = (_astray(one, exact, sizes) for one in answers)
    return theirs, ours


def _astray(found: Answers, exact: Answers, sizes: Sequence[int]) -> Astray:
    errors = [one - other for (one, _), (other, _) in zip(found, exact, strict=True)]
    chosen, right = (
        [int(np.argmax(choices)) for choices in _by_document(one, sizes)] for one in (found, exact)
    )
    changed = sum(one != other for one, other in zip(chosen, right, strict=True))
    return Astray(float(np.sqrt(np.mean(np.square(errors)))), changed)


def _by_document(answers: Answers, sizes: Sequence[int]) -> Iterator[list[float]]:
    flat = iter(answers)
    for size in sizes:
        yield [next(flat)[0] for _ in range(size)]


def _fastest_hflm(
    few: list[TokenRequest], options: argparse.Namespace, loaded: LoadedModel
) -> tuple[int | str, HFLM]:
    sizes: list[int | str] = _sizes_on_cpu(few, loaded) if options.device == "cpu" else [4, 16, 64, "auto"]
    times = {}
    for size in sizes:
        lm = HFLM(loaded.model, tokenizer=loaded.tokenizer, batch_size=size, softmax_dtype="float32")
        times[size] = _run(lm, few, options.device).seconds
    best = min(times, key=lambda size: times[size])
    return best, HFLM(loaded.model, tokenizer=loaded.tokenizer, batch_size=best, softmax_dtype="float32")


def _sizes_on_cpu(few: list[TokenRequest], loaded: LoadedModel) -> list[int | str]:
    """Up to lm-eval's largest, which is what `auto` takes on a CPU; as far as requests and HELD_LOGITS go."""
    longest = max(len(context) + len(rest) for _, context, rest in few)
    row = 2 * 4 * longest * loaded.model.config.vocab_size  # logits and their log-softmax
    return [
        size
        for size in (1, 2, 4, 8, 16, 32, 64)
        if size == 1 or (size * row <= HELD_LOGITS and size <= len(few))
    ]


def _run(lm: HFLM, requests: list[TokenRequest], device: str) -> Run:
    peak = _start_peak(device)
    shared = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if shared else time.perf_counter
    started = clock()
    answers = lm._loglikelihood_tokens(requests, disable_tqdm=True)
    return Run(clock() - started, peak(), answers)


def _start_peak(device: str) -> Callable[[], int]:
    """Start to watch the memory; the result tells the peak above what is held now."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        return lambda: torch.cuda.max_memory_allocated() - held
    ctypes.CDLL(None).malloc_trim(0)  # what earlier runs freed would hide what this one takes
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = _status("VmRSS")
    return lambda: _status("VmHWM") - before


def _status(name: str) -> int:
    lines: dict[str, Any] = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
    )
    return 1024 * int(lines[name].split()[0])


def _print(one: Measured) -> None:
    tokens = " / ".join(f"{number:,}" for number in one.tokens)
    seconds = " / ".join(f"{number:.1f}" for number in one.seconds)
    memory = " / ".join(f"{number / 1e6:.0f}" for number in one.memory)
    print(f"{one.task:15} {one.documents:5} {one.batch_size!s:>10} {tokens:>17} {seconds:>15} {one.ratio:6.2f} "
          f"{memory:>19} {one.apart:12.1e} {one.agreeing:10.1f}%", flush=True)  # fmt: skip
    if one.astray:
        told = (
            f"{who} {off.error:.3f} rms, {off.changed} choices"
            for who, off in zip(("HFLM", "ours"), one.astray, strict=True)
        )
        print(f"{'':15} from float32: {'; '.join(told)}", flush=True)


def _print_weighted(found: Sequence[Measured]) -> None:
    whole = sum(SUITE[one.task] for one in found)
    ours = sum(SUITE[one.task] / one.ratio for one in found)
    print(f"weighted by the tokens of the whole suite: {whole / ours:.2f}")


if __name__ == "__main__":
    main()
