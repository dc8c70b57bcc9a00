"""From responses to scores: one row per document, and what a benchmark's rows amount to."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.utils import handle_non_serializable, hash_string

from neft_lab.config import UserError, nearest
from neft_lab.tasks import Benchmark, Subtask

Row = dict[str, Any]
Responses = list[list[Any]]
"""By request and repetition: (log-likelihood, greedy), a log-likelihood, or a text."""


@dataclass(frozen=True)
class Question:
    """One document of a task and the requests it makes of the model."""

    task: str
    doc_id: int
    instances: Sequence[Instance]

    @property
    def label(self) -> str:
        return f"{self.task}/{self.doc_id}"


def ask(benchmarks: Sequence[Benchmark]) -> list[Question]:
    """Every document of every benchmark with its prompts, in the order of the tasks.

    The prompts are those of a whole run of lm-eval whatever is left to do: its shots depend on the documents
    before. Raises UserError for a metric that a task does not have.
    """
    questions = []
    for benchmark in benchmarks:
        for subtask in benchmark.subtasks:
            _check_metric(benchmark, subtask)
            subtask.task.build_all_requests(limit=benchmark.config.limit)
            by_document: dict[int, list[Instance]] = {}
            for instance in subtask.task.instances:
                by_document.setdefault(int(instance.doc_id or 0), []).append(instance)
            for doc_id, instances in by_document.items():
                questions.append(Question(subtask.name, doc_id, sorted(instances, key=lambda one: one.idx)))
    return questions


def score(
    benchmarks: Sequence[Benchmark], questions: Sequence[Question], responses: Mapping[str, Responses]
) -> list[Row]:
    """One row per document: what was asked, what the model answered, and the task's metrics."""
    by_task: dict[str, list[Question]] = {}
    for question in questions:
        by_task.setdefault(question.task, []).append(question)
        for instance, answers in zip(question.instances, responses[question.label], strict=True):
            instance.resps = [tuple(answer) if isinstance(answer, list) else answer for answer in answers]
    rows = []
    for benchmark in benchmarks:
        for subtask in benchmark.subtasks:
            subtask.task.apply_filters()
            rows += [_row(benchmark, subtask, question) for question in by_task[subtask.name]]
    return rows


def _row(benchmark: Benchmark, subtask: Subtask, question: Question) -> Row:
    first = question.instances[0]
    metrics: dict[str, Any] = {}
    for name in first.filtered_resps:
        results = [instance.filtered_resps[name] for instance in question.instances]
        found = subtask.task.process_results(first.doc, results)
        metrics |= {f"{metric},{name}": _plain(value) for metric, value in found.items()}
    text = json.dumps(first.doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return {
        "benchmark": benchmark.config.task,
        "task": subtask.name,
        "doc_id": question.doc_id,
        "doc_hash": hash_string(text),
        "prompt_hash": hash_string(first.arguments[0]),
        **_answers(question),
        "gold": _plain(subtask.task.doc_to_target(first.doc)),
        "correct": metrics[_metric_name(benchmark.config.metric, metrics)],
        "metrics": metrics,
    }


def _answers(question: Question) -> Row:
    """The choices with their log-likelihoods and lengths in characters; for other tasks the bare responses."""
    if any(instance.request_type != "loglikelihood" for instance in question.instances):
        return {"responses": [instance.resps for instance in question.instances]}
    return {
        "choices": [instance.arguments[1] for instance in question.instances],
        "lengths": [len(instance.arguments[1]) for instance in question.instances],
        "loglikelihoods": [instance.resps[0][0] for instance in question.instances],
        "greedy": [instance.resps[0][1] for instance in question.instances],
    }


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, for JSON."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value


def _check_metric(benchmark: Benchmark, subtask: Subtask) -> None:
    known = subtask.task.aggregation()
    if benchmark.config.metric.split(",")[0] not in known:
        raise UserError(f"leaderboard.tasks: {subtask.name} has no metric '{benchmark.config.metric}'; "
                        + nearest(benchmark.config.metric, known))  # fmt: skip


def _metric_name(asked: str, metrics: Mapping[str, Any]) -> str:
    """The full name, with lm-eval's filter, of a metric that was asked for with or without one."""
    for name in metrics:
        if asked in (name, name.split(",")[0]):
            return name
    raise UserError(f"leaderboard.tasks: no metric '{asked}'; {nearest(asked, metrics)}")


@dataclass(frozen=True)
class Score:
    """One number with its standard error (None where there is none) and the documents behind it.

    In percent where it is a mean over documents, in the metric's own unit elsewhere (perplexity).
    """

    value: float
    standard_error: float | None
    documents: int


def summarise(
    benchmarks: Sequence[Benchmark], rows: Sequence[Row]
) -> tuple[dict[str, float], dict[str, Row]]:
    """Flat metrics by benchmark, and the facts behind them: every task's score, shots, sources and digests.

    A group's own number counts every task alike, as the OpenLLM leaderboard does; ``<group>_weighted`` counts
    every document alike, as lm-eval does.
    """
    metrics: dict[str, float] = {}
    facts: dict[str, Row] = {}
    for benchmark in benchmarks:
        asked = benchmark.config
        scores = {}
        for subtask in benchmark.subtasks:
            scores[subtask.name] = _score(
                subtask, asked.metric, [row for row in rows if row["task"] == subtask.name]
            )
        total = _macro_average(list(scores.values())) if benchmark.grouped else scores[asked.task]
        metrics |= _flat(asked.task, total)
        if benchmark.grouped:
            metrics |= _flat(f"{asked.task}_weighted", _weighted_average(list(scores.values())))
        facts[asked.task] = {
            "metric": asked.metric,
            "shots": _told_shots(benchmark),
            "limit": asked.limit,
            "tasks": {subtask.name: _facts(subtask, scores[subtask.name]) for subtask in benchmark.subtasks},
        }
    return metrics, facts


def _score(subtask: Subtask, asked: str, rows: Sequence[Row]) -> Score:
    name = _metric_name(asked, rows[0]["metrics"])
    values: list[Any] = [
        tuple(value) if isinstance(value, list) else value for value in (row["metrics"][name] for row in rows)
    ]
    aggregate = subtask.task.aggregation()[name.split(",")[0]]
    if aggregate is not mean:
        return Score(float(aggregate(values)), None, len(values))
    error = 100 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Score(100 * statistics.fmean(values), error, len(values))


def _macro_average(scores: Sequence[Score]) -> Score:
    return _average(scores, [1 / len(scores)] * len(scores))


def _weighted_average(scores: Sequence[Score]) -> Score:
    documents = sum(score.documents for score in scores)
    return _average(scores, [score.documents / documents for score in scores])


def _average(scores: Sequence[Score], weights: Sequence[float]) -> Score:
    """The questions are independent, so variances add; the choice of tasks is taken as given."""
    errors = [score.standard_error for score in scores]
    value = sum(weight * score.value for weight, score in zip(weights, scores, strict=True))
    documents = sum(score.documents for score in scores)
    if any(error is None for error in errors):
        return Score(value, None, documents)
    variance = sum((weight * (error or 0.0)) ** 2 for weight, error in zip(weights, errors, strict=True))
    return Score(value, math.sqrt(variance), documents)


def _flat(name: str, score: Score) -> dict[str, float]:
    flat = {name: score.value, f"{name}_n": float(score.documents)}
    if score.standard_error is None:
        return flat
    reach = 1.96 * score.standard_error
    return flat | {
        f"{name}_stderr": score.standard_error,
        f"{name}_low": max(0.0, score.value - reach),
        f"{name}_high": min(100.0, score.value + reach),
    }


def _told_shots(benchmark: Benchmark) -> str:
    count = benchmark.subtasks[0].task.config.num_fewshot
    substitutes = sorted({str(subtask.substitute) for subtask in benchmark.subtasks if subtask.substitute})
    if not substitutes:
        return str(count)
    return f"{count} from {', '.join(substitutes)}, not comparable with the leaderboard"


def _facts(subtask: Subtask, score: Score) -> Row:
    documents = subtask.documents
    return {
        "value": score.value,
        "standard_error": score.standard_error,
        "documents": score.documents,
        "source": documents.source.name,
        "location": documents.location if documents.source.name != "folder" else None,
        "revision": documents.revision,
        "digest": subtask.digest,
        "version": subtask.task.VERSION,
    }
