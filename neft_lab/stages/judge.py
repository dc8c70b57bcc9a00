"""The judge stage: outputs and reference answers in, AlpacaEval annotations and win rates out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neft_lab.config import JudgeConfig, JudgeKind, UserError
from neft_lab.judging import audit, controls, replay
from neft_lab.judging.pairs import (
    Pair,
    Row,
    Verdict,
    annotation_rows,
    check_reference,
    match_rows,
    output_characters,
    read_rows,
)
from neft_lab.judging.summary import summarise
from neft_lab.progress import Progress
from neft_lab.stages import Inputs, JudgeInputs, Metrics
from neft_lab.store import write_json

OVER_HTTP = (JudgeKind.alpaca_eval, JudgeKind.openai_compatible)


@dataclass(frozen=True)
class Judged:
    """What a judge said about a cell's pairs and about stored pairs, both in order."""

    pairs: Sequence[Pair]
    verdicts: Sequence[Verdict]
    stored: Sequence[Verdict]
    metrics: Metrics = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    annotator: str | None = None
    """Who judged, where that is not the configuration's judge."""


@dataclass(frozen=True)
class Cell:
    """One cell's outputs with all that a judge may need to compare them."""

    config: JudgeConfig
    inputs: Inputs
    outputs: Sequence[Row]
    stored: Sequence[audit.StoredVerdict]
    output: Path
    progress: Progress

    @classmethod
    def read(cls, config: JudgeConfig, inputs: Inputs, output: Path, progress: Progress) -> Cell:
        """Read the outputs, and the stored verdicts where there are any."""
        if inputs.generate is None:
            raise UserError("stage judge needs outputs; add generate to stages")
        outputs = read_rows(inputs.generate / "outputs.json", option="generation.outputs")
        stored = []
        if "stored" in inputs.sources:
            rows = read_rows(inputs.sources["stored"].location, option="judge.stored")
            stored = audit.read_stored(rows, limit=config.stored_pairs)
        return cls(config, inputs, outputs, stored, output, progress)

    @property
    def stored_pairs(self) -> list[Pair]:
        """The pairs of the stored verdicts."""
        return [row.pair for row in self.stored]

    def match(self) -> list[Pair]:
        """Every output with its reference answer."""
        references = _references(self.inputs)
        check_reference(references)
        return match_rows(self.outputs, references)


def judge(config: JudgeInputs, inputs: Inputs, output: Path, progress: Progress) -> Metrics:
    """Compare every output with the reference answer to the same instruction.

    Writes `annotations.json` (AlpacaEval's format, one row per output, holes with a null preference) and
    `results.json` (the metrics and what is known about the judge). Percent throughout; `output_characters`
    is AlpacaEval's avg_length; `judge_validated` is 1 where the judge passed its gate.

    Raises:
        UserError: outputs and references or annotations do not belong together.
        JudgingStopped: a service does not answer, or the budget is spent; verdicts already given are kept.
    """
    cell = Cell.read(config.judge, inputs, output, progress)
    judged = JUDGES[config.judge.kind](cell)
    annotator = judged.annotator or config.judge.evaluator or config.judge.name
    validation = audit.validate(cell.stored, judged.stored)
    metrics, facts = summarise(judged.pairs, judged.verdicts, evaluator=annotator)
    metrics |= judged.metrics | audit.validation_metrics(validation)
    metrics["output_characters"] = float(output_characters(row["output"] for row in cell.outputs))
    facts |= judged.facts | {"validation": validation.sentence if validation else audit.NOT_VALIDATED}
    write_json(
        output / "annotations.json", annotation_rows(judged.pairs, judged.verdicts, annotator=annotator)
    )
    write_json(output / "results.json", {"judge": annotator, "metrics": metrics, **facts})
    return metrics


def _references(inputs: Inputs) -> list[dict[str, Any]]:
    from neft_lab.datasets import load_instructions

    source = inputs.sources["reference"]
    rows = load_instructions(source)
    silent = sum(row.reference is None for row in rows)
    if silent:
        raise UserError(
            f"judge.reference '{source.location}' has {silent} rows without an output; every one needs one"
        )
    return [
        {
            "instruction": row.instruction,
            "output": row.reference,
            "generator": row.generator or source.location.rsplit("/", 1)[-1],
            "dataset": row.dataset,
        }
        for row in rows
    ]


def _prefer_longest(cell: Cell) -> Judged:
    pairs = cell.match()
    return Judged(pairs, controls.prefer_longest(pairs), controls.prefer_longest(cell.stored_pairs))


def _prefer_random(cell: Cell) -> Judged:
    pairs, seed = cell.match(), cell.config.seed
    return Judged(
        pairs, controls.prefer_random(pairs, seed=seed), controls.prefer_random(cell.stored_pairs, seed=seed)
    )


def _replay(cell: Cell) -> Judged:
    config = cell.config
    annotations = read_rows(cell.inputs.sources["annotations"].location, option="judge.annotations")
    names = sorted({str(row["annotator"]) for row in annotations if row.get("annotator")})
    annotator = config.evaluator or (names[0] if len(names) == 1 else None)
    parse = None
    if config.reparse:
        if annotator is None:
            raise UserError(
                f"judge.evaluator must name the judge of judge.annotations, whose annotators are {names}"
            )
        parse = replay.raw_parser(annotator, seed=config.seed)
    pairs, verdicts = replay.replay(cell.outputs, annotations, parse=parse)
    return Judged(
        pairs, verdicts, replay.look_up(cell.stored_pairs, annotations, parse=parse), annotator=annotator
    )


def _ask_local_model(cell: Cell) -> Judged:
    from neft_lab.judging.local import judge_locally
    from neft_lab.models import load_source

    config, pairs = cell.config, cell.match()
    source = cell.inputs.sources["judge_model"]
    assert config.model is not None
    loaded = load_source(
        source,
        precision=config.precision.name,
        device=cell.inputs.device,
        trust_remote_code=config.model.trust_remote_code,
    )
    every = [*pairs, *cell.stored_pairs]
    cell.progress.start(2 * sum(not pair.identical for pair in every), unit="judge prompt")
    journal = cell.output / "local_judge.jsonl"
    found = judge_locally(
        every,
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        max_prompt_tokens=config.max_prompt_tokens,
        token_budget=config.token_budget,
        journal=journal,
        advance=cell.progress.advance,
    )
    journal.unlink()
    metrics = {"judge_tokens": float(found.prompt_tokens), **audit.audit_swaps(found.swaps(len(pairs)))}
    facts = {"prompts": found.asked, "prompts_cut": found.cut}
    return Judged(pairs, found.verdicts[: len(pairs)], found.verdicts[len(pairs) :], metrics, facts)


def _ask_service(cell: Cell) -> Judged:
    from neft_lab.judging.asked import judge_over_http, load_judge
    from neft_lab.judging.ledger import JudgementLedger

    pairs = cell.match()
    cell.progress.start(len(pairs), unit="verdict")
    with JudgementLedger(ledger_folder(cell.output)) as ledger:
        asked = judge_over_http(
            load_judge(cell.config), pairs, ledger, stored=cell.stored_pairs, advance=cell.progress.advance
        )
    cell.progress.resolved["verdicts"] = asked.facts
    verdicts, stored = ([asked.verdicts[pair] for pair in some] for some in (pairs, cell.stored_pairs))
    return Judged(pairs, verdicts, stored, asked.metrics, asked.facts)


def ledger_folder(output: Path) -> Path:
    """The ledger of the results folder in which a step's work folder lies."""
    from neft_lab.judging.ledger import FOLDER

    return output.parents[1] / FOLDER


def judge_together(steps: Sequence[tuple[JudgeInputs, Inputs, Path]], progress: Progress) -> None:
    """Ask for the verdicts of several cells in turn, so that a judge that drifts treats all arms alike.

    `steps` are configuration, inputs and work folder of judge steps about to run, each of which then finds its
    verdicts in the ledger. Steps whose judge is not asked over HTTP are left alone.
    """
    from neft_lab.judging.asked import fill_ledger, load_judge
    from neft_lab.judging.ledger import JudgementLedger

    asked = [
        (load_judge(config.judge), Cell.read(config.judge, inputs, output, progress))
        for config, inputs, output in steps
        if config.judge.kind in OVER_HTTP
    ]
    if not asked:
        return
    with JudgementLedger(ledger_folder(asked[0][1].output)) as ledger:
        fill_ledger([(found, cell.match(), cell.stored_pairs) for found, cell in asked], ledger, progress)


JUDGES: dict[JudgeKind, Callable[[Cell], Judged]] = {
    JudgeKind.longest: _prefer_longest,
    JudgeKind.random: _prefer_random,
    JudgeKind.file: _replay,
    JudgeKind.local: _ask_local_model,
    JudgeKind.alpaca_eval: _ask_service,
    JudgeKind.openai_compatible: _ask_service,
}
