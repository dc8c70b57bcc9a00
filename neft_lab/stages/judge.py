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
from neft_lab.judging.references import load_references, reference_revision
from neft_lab.judging.summary import known, summarise
from neft_lab.progress import Listener, Progress
from neft_lab.stages import Inputs, JudgeInputs, Metrics
from neft_lab.store import write_json


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
        source = self.inputs.sources["reference"]
        references = load_references(source)
        if revision := reference_revision(source):
            self.progress.resolved["reference_revision"] = revision
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
    metrics |= known(judged.metrics | audit.validation_metrics(validation))
    metrics["output_characters"] = float(output_characters(row["output"] for row in cell.outputs))
    facts |= judged.facts | {"validation": validation.sentence if validation else audit.NOT_VALIDATED}
    write_json(
        output / "annotations.json", annotation_rows(judged.pairs, judged.verdicts, annotator=annotator)
    )
    write_json(output / "results.json", {"judge": annotator, "metrics": metrics, **facts})
    return metrics


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
    from neft_lab.judging.asked import judge_over_http
    from neft_lab.judging.judge import load_judge
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


def judge_together(
    steps: Sequence[tuple[JudgeInputs, Inputs, Path]], listener: Listener | None = None
) -> list[Exception | None]:
    """Ask for the verdicts of several cells in turn, so that a judge that drifts treats all arms alike.

    `steps` are configuration, inputs and work folder of judge steps about to run, each of which then finds its
    verdicts in the ledger. Returns for each why it cannot be finished now; None where it can be tried. Steps whose judge
    is not asked over HTTP are left alone.
    """
    from neft_lab.judging.asked import fill_ledger
    from neft_lab.judging.judge import load_judge
    from neft_lab.judging.ledger import JudgementLedger

    progress = Progress(steps[0][2], listener=listener)
    found: list[Exception | None] = [None] * len(steps)
    cells, numbers = [], []
    for number, (config, inputs, output) in enumerate(steps):
        if not config.judge.kind.over_http:
            continue
        try:
            cell = Cell.read(config.judge, inputs, output, progress)
            cells.append((load_judge(config.judge), cell.match(), cell.stored_pairs))
            numbers.append(number)
        except UserError as error:
            found[number] = error
    if cells:
        with JudgementLedger(ledger_folder(steps[numbers[0]][2])) as ledger:
            for number, obstacle in zip(numbers, fill_ledger(cells, ledger, progress), strict=True):
                found[number] = obstacle
    return found


JUDGES: dict[JudgeKind, Callable[[Cell], Judged]] = {
    JudgeKind.longest: _prefer_longest,
    JudgeKind.random: _prefer_random,
    JudgeKind.file: _replay,
    JudgeKind.local: _ask_local_model,
    JudgeKind.alpaca_eval: _ask_service,
    JudgeKind.openai_compatible: _ask_service,
}
