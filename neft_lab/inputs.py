"""A look at the user's own files before anything runs, so that a bad row costs seconds and not a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from neft_lab.datasets import load_conversations, load_instructions, read_rows
from neft_lab.plan import Step
from neft_lab.prompts import render_training


def check_inputs(steps: Sequence[Step]) -> None:
    """Read every local data file that missing steps will read. Raises UserError naming file and row."""
    seen: set[tuple[str, str]] = set()
    for step in steps:
        for name, source in step.sources.items():
            if source.kind not in ("file", "package") or (name, source.location) in seen:
                continue
            seen.add((name, source.location))
            if name == "dataset" and step.stage == "train":
                _check_conversations(step)
            elif name in ("instructions", "reference"):
                load_instructions(source)
            elif name in ("outputs", "annotations"):
                for _ in read_rows(Path(source.location)):
                    pass


def _check_conversations(step: Step) -> None:
    dataset = step.inputs.dataset
    source = step.sources["dataset"]
    for turns in load_conversations(
        source, split=dataset.split, format=dataset.format, max_rows=dataset.max_rows
    ):
        render_training(dataset.template, turns, "")
