"""Tokens per second that finished steps reached, by stage, model and class of device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from neft_lab.budget.work import Task, plan_work
from neft_lab.sources import Source
from neft_lab.store import Store, read_json

NEWEST = 40
"""Records read of each stage: more would say little more and cost time."""
Rate = tuple[str, str, str]
"""Stage, model and class of device."""


def model_name(task: Task) -> str:
    """Which model does the work: the one that is trained, or the judge; told by content where it is here."""
    judge = task.source("judge_model")
    if judge is not None:
        return judge.identity
    return "" if task.model is None else task.model[1].identity


def measure_rates(store: Store) -> dict[Rate, float]:
    """Tokens per second by stage, model and device, of the newest finished steps.

    A record's tokens are estimated as those of a planned step are, so that what the estimate gets wrong cancels.
    """
    done, sums = store.done(), dict[Rate, list[float]]()
    for stage in {stage for stage, _ in done}:
        folders = [folder for (name, _), folder in done.items() if name == stage]
        for folder in sorted(folders, key=lambda path: path.stat().st_mtime)[-NEWEST:]:
            for rate, tokens, seconds in _read(folder, done):
                total = sums.setdefault(rate, [0.0, 0.0])
                total[0] += tokens
                total[1] += seconds
    return {rate: tokens / seconds for rate, (tokens, seconds) in sums.items() if tokens and seconds}


def _read(folder: Path, done: Mapping[tuple[str, str], Path]) -> Iterator[tuple[Rate, float, float]]:
    with suppress(AttributeError, KeyError, TypeError, ValueError, OSError):  # a record of an older program
        record = read_json(folder / "record.json")
        task = make_task(
            record["stage"],
            config=_namespaced(record["config"]),
            sources={name: Source(**source) for name, source in record["sources"].items()},
            needs=[_behind(done, stage, key) for stage, key in record["needs"].items()],
        )
        rate = (task.stage, model_name(task), _class(record["environment"]["device"]))
        yield rate, plan_work(task).tokens, record["seconds"]


def make_task(
    stage: str, *, config: Any, sources: Mapping[str, Source], needs: list[Task] | list[Task | None]
) -> Task:
    """A step with those it needs."""
    configs, every = {stage: config}, {stage: sources}
    for task in needs:
        if task is not None:
            configs |= task.config
            every |= task.sources
    return Task(stage, configs, every)


def _behind(done: Mapping[tuple[str, str], Path], stage: str, key: str) -> Task:
    record = read_json(done[stage, key] / "record.json")
    sources = {name: Source(**source) for name, source in record["sources"].items()}
    needs = [_behind(done, name, other) for name, other in record["needs"].items()]
    return make_task(stage, config=_namespaced(record["config"]), sources=sources, needs=needs)


def _class(device: str) -> str:
    return device.split(":")[0]


def _namespaced(value: Any) -> Any:
    if isinstance(value, dict):
        return SimpleNamespace(**{name: _namespaced(item) for name, item in value.items()})
    return [_namespaced(item) for item in value] if isinstance(value, list) else value
