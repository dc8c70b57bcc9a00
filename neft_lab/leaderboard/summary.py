"""What a benchmark's documents amount to: numbers with intervals, and the facts behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance

from neft_lab.config import TaskSource
from neft_lab.leaderboard.questions import Row, full_name, is_mean
from neft_lab.statistics import Estimate, accuracy
from neft_lab.tasks.benchmarks import Benchmark, Subtask


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
        name = benchmark.config.task
        own = [row for row in rows if row["benchmark"] == name]
        metrics |= _estimate(name, benchmark, own, macro=True)
        if benchmark.grouped:
            metrics |= _estimate(f"{name}_weighted", benchmark, own, macro=False)
        facts[name] = {
            "metric": benchmark.config.metric,
            "shots": _told_shots(benchmark),
            "limit": benchmark.config.limit,
            "tasks": {subtask.name: _facts(subtask, benchmark, own) for subtask in benchmark.subtasks},
        }
    return metrics, facts


def _estimate(name: str, benchmark: Benchmark, rows: Sequence[Row], *, macro: bool) -> dict[str, float]:
    """A benchmark's number; with its interval where it is a mean over documents."""
    if not all(is_mean(subtask, benchmark.config.metric) for subtask in benchmark.subtasks):
        return {} if benchmark.grouped else {name: _aggregate(benchmark.subtasks[0], benchmark, rows)}
    if benchmark.grouped:
        found = _stratified([[row["correct"] for row in own] for own in _by_task(rows)], macro=macro)
    else:
        found = accuracy([row["correct"] for row in rows])
    return {
        name: found.value,
        f"{name}_standard_error": found.standard_error,
        f"{name}_low": found.low,
        f"{name}_high": found.high,
        f"{name}_n": float(found.n),
    }


def _by_task(rows: Sequence[Row]) -> list[list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["task"], []).append(row)
    return list(found.values())


def _stratified(scores: Sequence[Sequence[float]], *, macro: bool) -> Estimate:
    """Mean over the tasks of a group, in percent, with Wilson's interval at the effective sample size.

    The tasks are the benchmark and no sample of tasks: chance lies in the documents of each. A task with one
    document has no spread of its own and is given the widest one.
    """
    total = sum(map(len, scores))
    weights = [1 / len(scores) if macro else len(one) / total for one in scores]
    mean = sum(weight * fmean(one) for weight, one in zip(weights, scores, strict=True))
    spreads = [variance(one) if len(one) > 1 else 0.25 for one in scores]
    error = sum(
        weight**2 * spread / len(one) for weight, spread, one in zip(weights, spreads, scores, strict=True)
    )
    effective = mean * (1 - mean) / error if error > 0 and 0 < mean < 1 else total
    low, high = _wilson_interval(mean, effective)
    return Estimate(100 * mean, 100 * math.sqrt(error), 100 * low, 100 * high, total)


def _wilson_interval(mean: float, count: float) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927)."""
    z = 1.959964
    centre = mean + z**2 / (2 * count)
    reach = z * math.sqrt(mean * (1 - mean) / count + (z / (2 * count)) ** 2)
    return (centre - reach) / (1 + z**2 / count), (centre + reach) / (1 + z**2 / count)


def _aggregate(subtask: Subtask, benchmark: Benchmark, rows: Sequence[Row]) -> float:
    """What lm-eval makes of a task's documents: percent for a mean, else the metric's own unit (perplexity)."""
    name = full_name(benchmark.config.metric, rows[0]["metrics"])
    values = [
        tuple(value) if isinstance(value, list) else value for value in (row["metrics"][name] for row in rows)
    ]
    total = float(subtask.task.aggregation()[name.split(",")[0]](values))
    return 100 * total if is_mean(subtask, benchmark.config.metric) else total


def _told_shots(benchmark: Benchmark) -> str:
    count = benchmark.subtasks[0].task.config.num_fewshot
    substitutes = sorted({subtask.substitute for subtask in benchmark.subtasks if subtask.substitute})
    if not substitutes:
        return str(count)
    return f"{count} from {', '.join(substitutes)}, not comparable with the leaderboard"


def _facts(subtask: Subtask, benchmark: Benchmark, rows: Sequence[Row]) -> Row:
    own = [row for row in rows if row["task"] == subtask.name]
    return {
        "score": _aggregate(subtask, benchmark, own),
        "documents": len(own),
        "version": subtask.task.VERSION,
        **_source(subtask),
    }


def sources_of(benchmarks: Sequence[Benchmark]) -> dict[str, Row]:
    """Where each task's documents came from, and a digest of what was read."""
    return {subtask.name: _source(subtask) for benchmark in benchmarks for subtask in benchmark.subtasks}


def _source(subtask: Subtask) -> Row:
    """A folder's path stays out: the digest says what was in it."""
    found = subtask.documents
    place = (
        {} if found.source is TaskSource.folder else {"location": found.location, "revision": found.revision}
    )
    return {"source": found.source.name, **place, "digest": subtask.digest}
