"""Documents asked and answered: lm-eval's requests by document, and one row per document with its metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.utils import handle_non_serializable, hash_string

from neft_lab.config import UserError, nearest
from neft_lab.tasks.benchmarks import Benchmark, Subtask

Row = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """One document of a task and the requests it makes of the model."""

    task: str
    doc_id: int
    instances: Sequence[Instance]


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
    benchmarks: Sequence[Benchmark], questions: Sequence[Question], answers: Sequence[Sequence[list[Any]]]
) -> list[Row]:
    """One row per document: what was asked, what the model answered, and the task's metrics.

    answers: by question, request and repeat.
    """
    by_task: dict[str, list[Question]] = {}
    for question, answered in zip(questions, answers, strict=True):
        by_task.setdefault(question.task, []).append(question)
        for instance, repeats in zip(question.instances, answered, strict=True):
            instance.resps = [tuple(answer) if isinstance(answer, list) else answer for answer in repeats]
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
        "correct": _value(benchmark, subtask, metrics),
        "metrics": metrics,
    }


def _value(benchmark: Benchmark, subtask: Subtask, metrics: Mapping[str, Any]) -> Any:
    """A document's part of the benchmark's number, in [0, 1]; None where that is no mean over documents."""
    name = full_name(benchmark.config.metric, metrics)
    return metrics[name] if is_mean(subtask, benchmark.config.metric) else None


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


def full_name(asked: str, metrics: Mapping[str, Any]) -> str:
    """The full name, with lm-eval's filter, of a metric that was asked for with or without one."""
    for name in metrics:
        if asked in (name, name.split(",")[0]):
            return name
    raise UserError(f"leaderboard.tasks: no metric '{asked}'; {nearest(asked, metrics)}")


def is_mean(subtask: Subtask, metric: str) -> bool:
    """Whether a task's number is the mean of its documents' (accuracy), and not, say, a perplexity."""
    return subtask.task.aggregation()[metric.split(",")[0]] is mean
