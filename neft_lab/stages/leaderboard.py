"""The leaderboard stage: a trained model in, scores on evaluation tasks and every document's answers out."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

from neft_lab.batching import plan_digest
from neft_lab.config import LeaderboardConfig, UserError
from neft_lab.journal import BatchJournal
from neft_lab.progress import Progress
from neft_lab.stages import Inputs, LeaderboardInputs, Metrics
from neft_lab.store import write_json, write_text

if TYPE_CHECKING:
    from neft_lab.leaderboard import Asked, Question
    from neft_lab.leaderboard.answering import Answered

BLOCK = 128
"""Documents between two savings. Blocks are part of the plan: in bfloat16 a score depends on its batch mates."""


def leaderboard(config: LeaderboardInputs, inputs: Inputs, output: Path, progress: Progress) -> Metrics:
    """Score a trained model on the benchmarks of ``config.leaderboard``.

    Writes ``documents.jsonl`` (one row per document: what was asked, what the model answered, the metrics) and
    ``results.json`` (metrics, sources of the documents, holes). Percent throughout. A group counts every task
    alike (``mmlu``) and, beside it, every document alike (``mmlu_weighted``).

    Raises:
        UserError: a task or subset that lm-eval does not know, or a metric that the task does not have.
    """
    from neft_lab.leaderboard import ask, score, sources_of, summarise
    from neft_lab.tasks.benchmarks import load_benchmarks

    if inputs.train is None:
        raise UserError("stage leaderboard needs a model; add train to stages")
    with redirect_stderr(io.StringIO()):  # the libraries' progress bars, one per task
        benchmarks, holes = load_benchmarks(config.leaderboard)
        questions = ask(benchmarks)
    progress.resolved.update(tasks=sources_of(benchmarks), holes=holes)
    answers = _answer(questions, config.leaderboard, inputs, output / "answers.jsonl", progress)
    rows = score(benchmarks, questions, answers)
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    write_text(output / "documents.jsonl", "".join(f"{line}\n" for line in lines))
    metrics, facts = summarise(benchmarks, rows)
    write_json(output / "results.json", {"metrics": metrics, "benchmarks": facts, "holes": holes})
    (output / "answers.jsonl").unlink()
    return metrics


def _answer(
    questions: Sequence[Question],
    config: LeaderboardConfig,
    inputs: Inputs,
    journal: Path,
    progress: Progress,
) -> list[list[Answered]]:
    """The model's answers by question and request, saved block by block."""
    from neft_lab.leaderboard import Examinee, answer_blocks, devices_of, precision_of

    assert inputs.train is not None
    precision = precision_of(config.precision.name, inputs.device)
    examinee = Examinee(inputs.train, precision, config.token_budget, config.max_length)
    blocks = [questions[start : start + BLOCK] for start in range(0, len(questions), BLOCK)]
    asked = [_requests(block) for block in blocks]
    texts = [json.dumps(request.arguments, default=str) for block in asked for request in block]
    with BatchJournal(journal, plan=plan_digest([[len(block)] for block in blocks], texts)) as saved:
        progress.start(
            len(questions), unit="document", done=sum(len(blocks[done]) for done in saved.finished)
        )
        missing = {number: block for number, block in enumerate(asked) if number not in saved.finished}
        if missing:
            devices = devices_of(inputs.device, config.processes)
            for number, answers in answer_blocks(examinee, missing, devices=devices[: len(missing)]):
                saved.append(number, answers)
                progress.advance(len(blocks[number]))
        flat = (answer for number in range(len(blocks)) for answer in saved.finished[number])
        return [[next(flat) for _ in question.instances] for question in questions]


def _requests(block: Sequence[Question]) -> list[Asked]:
    from neft_lab.leaderboard import Asked

    instances = [instance for question in block for instance in question.instances]
    return [Asked(one.request_type, tuple(one.arguments), one.repeats or 1) for one in instances]
