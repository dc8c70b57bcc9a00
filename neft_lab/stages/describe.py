"""The describe stage: what a set of outputs looks like, apart from any judge (the paper's table 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from neft_lab.datasets import load_instructions
from neft_lab.metrics import mean_metrics
from neft_lab.progress import Progress
from neft_lab.stages import DescribeInputs, Inputs, Metrics
from neft_lab.store import read_json, write_json
from neft_lab.textstats import MOST_DIVERSE, TextMeasures, measure

METRICS = {
    "mean_characters": "characters", "output_words": "words", "repeated_bigrams": "repetition",
    "log_diversity": "diversity_intended", "log_diversity_published": "diversity_published",
    "reference_rouge_l": "rouge_l", "reference_bleu": "bleu",
}  # fmt: skip
"""Metrics of a cell, and the field of ``texts.json`` that each is the mean of."""


def describe(config: DescribeInputs, inputs: Inputs, output: Path, progress: Progress) -> Metrics:
    """Write ``texts.json``: length, repetition, diversity and likeness to the reference of every output, in order.

    Metrics: their means, percent where the field uses percent, each with its 95 % interval over outputs;
    ``diversity_ceiling`` counts the outputs without any repeat. Repetition and diversity are means over the outputs
    that reach ``config.chunk`` tokens, likeness over those with a reference answer; what has none is left out.
    """
    assert inputs.generate is not None
    outputs = read_json(inputs.generate / "outputs.json")
    references = _references(inputs)
    progress.start(len(outputs), unit="output")
    measured = []
    for row in outputs:
        measured.append(
            measure(row["output"], chunk=config.chunk, reference=references.get(row["instruction"]))
        )
        progress.advance()
    write_json(
        output / "texts.json", [_row(row, found) for row, found in zip(outputs, measured, strict=True)]
    )
    return _metrics(measured)


def _references(inputs: Inputs) -> dict[str, str | None]:
    if "instructions" not in inputs.sources:
        return {}
    return {asked.instruction: asked.reference for asked in load_instructions(inputs.sources["instructions"])}


def _row(row: dict[str, Any], found: TextMeasures) -> dict[str, Any]:
    return {"instruction": row["instruction"], **asdict(found)}


def _metrics(measured: Sequence[TextMeasures]) -> Metrics:
    metrics: Metrics = {}
    for name, of in METRICS.items():
        metrics |= mean_metrics(name, [getattr(found, of) for found in measured])
    if "log_diversity" in metrics:
        metrics["diversity_ceiling"] = sum(found.diversity_intended == MOST_DIVERSE for found in measured)
    return metrics
