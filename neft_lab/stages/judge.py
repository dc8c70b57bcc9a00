"""The judge stage: outputs and reference answers in, AlpacaEval annotations and win rates out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neft_lab.config import JudgeConfig, JudgeKind, UserError
from neft_lab.judging import controls, replay
from neft_lab.judging.pairs import Pair, Row, Verdict, annotation_rows, match_rows, output_characters, read_rows
from neft_lab.judging.summary import summarise
from neft_lab.progress import Progress
from neft_lab.stages import Inputs, JudgeInputs, Metrics
from neft_lab.store import write_json


@dataclass(frozen=True)
class Judgement:
    """Verdicts on pairs in order, and what is known about the judge that gave them."""

    pairs: Sequence[Pair]
    verdicts: Sequence[Verdict]
    metrics: Metrics = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    annotator: str | None = None
    """Who judged, where that is not the configuration's judge."""


def judge(config: JudgeInputs, inputs: Inputs, output: Path, progress: Progress) -> Metrics:
    """Compare every output with the reference answer to the same instruction.

    Writes `annotations.json` (AlpacaEval's format, one row per output, holes with a null preference) and
    `results.json` (the metrics and what is known about the judge). Percent throughout; `output_characters`
    is AlpacaEval's avg_length.

    Raises:
        UserError: outputs and references or annotations do not belong together.
    """
    if inputs.generate is None:
        raise UserError("stage judge needs outputs; add generate to stages")
    outputs = read_rows(inputs.generate / "outputs.json", option="generation.outputs")
    judgement = JUDGES[config.judge.kind](config.judge, inputs, outputs, output, progress)
    annotator = judgement.annotator or config.judge.evaluator or config.judge.name
    metrics, facts = summarise(judgement.pairs, judgement.verdicts, evaluator=annotator)
    metrics |= judgement.metrics
    metrics["output_characters"] = output_characters(row["output"] for row in outputs)
    rows = annotation_rows(judgement.pairs, judgement.verdicts, annotator=annotator)
    write_json(output / "annotations.json", rows)
    write_json(output / "results.json", {"judge": annotator, "metrics": metrics, **facts, **judgement.facts})
    return metrics


def _references(inputs: Inputs) -> list[dict[str, Any]]:
    from neft_lab.datasets import load_instructions

    source = inputs.sources["reference"]
    rows = load_instructions(source)
    silent = sum(row.reference is None for row in rows)
    if silent:
        raise UserError(f"judge.reference '{source.location}' has {silent} rows without an output; every one needs one")
    return [
        {
            "instruction": row.instruction,
            "output": row.reference,
            "generator": row.generator or source.location.rsplit("/", 1)[-1],
            "dataset": row.dataset,
        }
        for row in rows
    ]


def _ask_nobody(
    config: JudgeConfig, inputs: Inputs, outputs: Sequence[Row], output: Path, progress: Progress
) -> Judgement:
    pairs = match_rows(outputs, _references(inputs))
    if config.kind is JudgeKind.longest:
        return Judgement(pairs, controls.prefer_longest(pairs))
    return Judgement(pairs, controls.prefer_random(pairs, seed=config.seed))


def _replay(
    config: JudgeConfig, inputs: Inputs, outputs: Sequence[Row], output: Path, progress: Progress
) -> Judgement:
    annotations = read_rows(inputs.sources["annotations"].location, option="judge.annotations")
    names = sorted({str(row["annotator"]) for row in annotations if row.get("annotator")})
    annotator = config.evaluator or (names[0] if len(names) == 1 else None)
    parse = None
    if config.reparse:
        if annotator is None:
            raise UserError(f"judge.evaluator must name the judge of judge.annotations, whose annotators are {names}")
        parse = replay.raw_parser(annotator, seed=config.seed)
    pairs, verdicts = replay.replay(outputs, annotations, parse=parse)
    return Judgement(pairs, verdicts, annotator=annotator)


def _ask_local_model(
    config: JudgeConfig, inputs: Inputs, outputs: Sequence[Row], output: Path, progress: Progress
) -> Judgement:
    from neft_lab.judging.local import judge_locally
    from neft_lab.models import load_source

    pairs = match_rows(outputs, _references(inputs))
    loaded = load_source(inputs.sources["judge_model"], precision=config.precision.name, device=inputs.device)
    progress.start(2 * sum(not pair.identical for pair in pairs), unit="judge prompt")
    journal = output / "local_judge.jsonl"
    found = judge_locally(
        pairs,
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        max_prompt_tokens=config.max_prompt_tokens,
        token_budget=config.token_budget,
        journal=journal,
        advance=progress.advance,
    )
    journal.unlink()
    metrics = {"judge_tokens": float(found.prompt_tokens)}
    if found.asked:
        metrics["position_consistency"] = 200 * found.consistent / found.asked
        metrics["first_place_preference"] = 100 * found.first_place
    return Judgement(pairs, found.verdicts, metrics, {"prompts_cut": found.cut, "prompts": found.asked})


JUDGES = {
    JudgeKind.longest: _ask_nobody,
    JudgeKind.random: _ask_nobody,
    JudgeKind.file: _replay,
    JudgeKind.local: _ask_local_model,
}
