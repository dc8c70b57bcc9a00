"""A look at the data files before anything runs, so that a bad or leaked row costs seconds and not a training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from neft_lab.config import DatasetConfig, LeakedRows
from neft_lab.datasets import (
    fingerprints,
    load_instructions,
    read_conversations,
    read_rows,
    refuse_leaked,
    stored_files,
    stored_instructions,
)
from neft_lab.plan import Step
from neft_lab.prompts import render_training
from neft_lab.sources import Source


def check_inputs(missing: Sequence[Step], steps: Mapping[str, Step] | None = None) -> None:
    """Read the data files on this machine that missing steps will read, and compare training rows with questions.

    ``steps``: all steps of the plan, so that the finished training of a missing answer is looked at as well. What
    is still on the hub is looked at when it has been fetched. Raises UserError naming file and row.
    """
    for step in missing:
        for name, source in step.sources.items():
            if source.kind in ("file", "package"):
                _check_file(name, source)
    known = {step.key: step for step in missing} | dict(steps or {})
    trained = [known[key] for key in dict.fromkeys(_trained(missing)) if key in known]
    for step in trained:
        if "dataset" in step.sources:
            _check_training(step, _asked_of(step.key, known.values()))


def _check_file(name: str, source: Source) -> None:
    if name in ("instructions", "reference"):
        load_instructions(source)
    elif name in ("outputs", "annotations"):
        for _ in read_rows(Path(source.location)):
            pass


def _trained(missing: Iterable[Step]) -> Iterable[str]:
    """Keys of the trainings that are missing, and of those whose answers are."""
    for step in missing:
        if step.stage == "train":
            yield step.key
        elif step.stage == "generate" and "train" in step.needs:
            yield step.needs["train"]


def _asked_of(train: str, steps: Iterable[Step]) -> tuple[Source, ...]:
    """The evaluation instructions that a training's model answers in this plan."""
    found = (
        step.sources["instructions"]
        for step in steps
        if step.stage == "generate" and step.needs.get("train") == train and "instructions" in step.sources
    )
    return tuple(dict.fromkeys(found))


def _check_training(step: Step, evaluation: Sequence[Source]) -> None:
    dataset: DatasetConfig = step.inputs.dataset
    files = stored_files(step.sources["dataset"], split=dataset.split, files=dataset.files)
    if files is None:
        return
    rows = read_conversations(files, dataset).conversations
    for row in rows:
        render_training(dataset.template, row.turns, "")
    if dataset.leaked_rows is LeakedRows.refuse:
        for source in evaluation:
            refuse_leaked(rows, _fingerprints(source))


@lru_cache(maxsize=16)
def _fingerprints(source: Source) -> frozenset[int]:
    found = stored_instructions(source)
    return fingerprints(asked.instruction for asked in found or ())
