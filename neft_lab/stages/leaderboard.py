"""The leaderboard stage: a trained model in, scores on evaluation tasks and every document's answers out."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neft_lab.config import LeaderboardConfig, UserError
from neft_lab.progress import Progress
from neft_lab.stages import Inputs, LeaderboardInputs, Metrics
from neft_lab.store import write_json, write_text

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM

    from neft_lab.leaderboard import Question, Responses

BLOCK = 256
"""Documents between two savings. Blocks are part of the plan: in bfloat16 a score depends on its batch mates."""


def leaderboard(config: LeaderboardInputs, inputs: Inputs, output: Path, progress: Progress) -> Metrics:
    """Score a trained model on the benchmarks of ``config.leaderboard``.

    Writes ``documents.jsonl`` (one row per document: what was asked, what the model answered, the metrics) and
    ``results.json`` (metrics, sources of the documents, holes). Percent throughout. A group counts every task
    alike (``mmlu``) and, beside it, every document alike (``mmlu_weighted``).

    Raises:
        UserError: a task or subset that lm-eval does not know, or a metric that the task does not have.
    """
    from neft_lab.leaderboard import ask, score, summarise
    from neft_lab.tasks import load_benchmarks

    if inputs.train is None:
        raise UserError("stage leaderboard needs a model; add train to stages")
    with redirect_stderr(io.StringIO()):  # the libraries' progress bars, one per task
        benchmarks, holes = load_benchmarks(config.leaderboard)
        questions = ask(benchmarks)
    responses = _respond(questions, config.leaderboard, inputs, output / "responses.jsonl", progress)
    rows = score(benchmarks, questions, responses)
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    write_text(output / "documents.jsonl", "".join(f"{line}\n" for line in lines))
    metrics, facts = summarise(benchmarks, rows)
    write_json(output / "results.json", {"metrics": metrics, "benchmarks": facts, "holes": holes})
    (output / "responses.jsonl").unlink(missing_ok=True)
    return metrics


def _respond(
    questions: Sequence[Question],
    config: LeaderboardConfig,
    inputs: Inputs,
    journal: Path,
    progress: Progress,
) -> dict[str, Responses]:
    """The model's answers by question, block by block; finished blocks come from the journal."""
    responses = _read_journal(journal, questions)
    progress.start(len(questions), unit="document", done=len(responses))
    missing = [block for block in _blocks(questions) if block[0].label not in responses]
    model = _load_model(config, inputs) if missing else None
    for block in missing:
        answered = _answer(model, block)
        _append(journal, answered)
        responses |= answered
        progress.advance(len(block))
    return responses


def _blocks(questions: Sequence[Question]) -> Iterator[Sequence[Question]]:
    for start in range(0, len(questions), BLOCK):
        yield questions[start : start + BLOCK]


def _load_model(config: LeaderboardConfig, inputs: Inputs) -> LM:
    from neft_lab.models import load_trained
    from neft_lab.scoring import PrefixSharingLM

    assert inputs.train is not None
    loaded = load_trained(inputs.train, precision=config.precision.name, device=inputs.device)
    return PrefixSharingLM(
        loaded.model,
        tokenizer=loaded.tokenizer,
        token_budget=config.token_budget,
        max_length=config.max_length,
    )


def _answer(model: LM | None, block: Sequence[Question]) -> dict[str, Responses]:
    by_type: dict[str, list[Instance]] = {}
    for question in block:
        for instance in question.instances:
            instance.resps = []
            by_type.setdefault(instance.request_type, []).extend([instance] * (instance.repeats or 1))
    for kind, instances in by_type.items():
        for instance, response in zip(
            instances, getattr(model, kind)(instances, disable_tqdm=True), strict=True
        ):
            instance.resps.append(response)
    return {question.label: [instance.resps for instance in question.instances] for question in block}


def _plan_digest(questions: Sequence[Question]) -> str:
    asked = [
        (question.label, [instance.arguments for instance in question.instances]) for question in questions
    ]
    return hashlib.sha256(json.dumps([BLOCK, asked], default=str).encode()).hexdigest()


def _read_journal(path: Path, questions: Sequence[Question]) -> dict[str, Responses]:
    """Answers of finished blocks; what a kill tore, or what belongs to other questions, is dropped."""
    plan, found, good = _plan_digest(questions), dict[str, "Responses"](), 0
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1] if path.exists() else []):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if number == 0 and row != {"plan": plan}:
            break
        found |= row if number else {}
        good += len(line) + 1
    with path.open("ab") as file:
        file.truncate(good)
    if good == 0:
        _append(path, {"plan": plan})
    return found


def _append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())
