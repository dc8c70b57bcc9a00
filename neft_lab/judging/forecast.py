"""What judging will cost before anything runs, and whether it can run at all; nothing is asked for it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from neft_lab.config import GenerationConfig, GenerationSource, JudgeConfig, UserError, identity
from neft_lab.datasets import load_instructions, read_rows
from neft_lab.judging.agenda import estimate, interleave, plan_questions
from neft_lab.judging.audit import read_stored
from neft_lab.judging.judge import Judge, load_judge
from neft_lab.judging.ledger import FOLDER, JudgementLedger
from neft_lab.judging.pairs import Pair
from neft_lab.judging.pairs import read_rows as read_alpaca_rows
from neft_lab.judging.prices import BYTES_PER_TOKEN, CostEstimate
from neft_lab.judging.references import cached_references
from neft_lab.judging.transport import require_key
from neft_lab.sources import Source
from neft_lab.store import Store, read_json

USUAL_INSTRUCTIONS = 805
USUAL_PAIR = Pair("x" * 165, "x" * 482, "x" * 1000)
"""AlpacaEval's mean lengths in characters: instructions, text_davinci_003's answers, a talkative model's."""


class PlannedStep(Protocol):
    """What is read of a step of a plan."""

    @property
    def stage(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def inputs(self) -> Any: ...
    @property
    def needs(self) -> Mapping[str, str]: ...
    @property
    def sources(self) -> Mapping[str, Source]: ...


@dataclass(frozen=True)
class JudgingForecast:
    """What the missing judge steps of one judge will ask of its service."""

    judge: str
    cells: int
    calls: int
    tokens_in: float
    tokens_out: float
    usd: float | None
    """None: it cannot be priced, and `refusal` says why."""
    source: str
    """Where the token counts come from."""
    refusal: str | None = None

    def __str__(self) -> str:
        price = f"cannot be priced: {self.refusal}" if self.usd is None else f"${self.usd:.2f}"
        cells = "1 cell" if self.cells == 1 else f"{self.cells} cells"
        return (
            f"judge {self.judge}: {cells}, {self.calls:,} calls, about {self.tokens_in:,.0f} tokens in and "
            f"{self.tokens_out:,.0f} out (from {self.source}): {price}"
        )


@dataclass(frozen=True)
class JudgingBudget:
    """All forecasts of a plan, what this results folder has spent, and the smallest cap of its judges."""

    forecasts: list[JudgingForecast]
    committed: float = 0.0
    max_usd: float | None = None

    @property
    def usd(self) -> float:
        """Dollars of all that can be priced."""
        return sum(forecast.usd or 0.0 for forecast in self.forecasts)

    @property
    def over(self) -> str | None:
        """Why the money does not suffice, or None."""
        needed = self.committed + self.usd
        if self.max_usd is None or self.usd == 0 or needed <= self.max_usd:
            return None
        return (
            f"judge.max_usd={self.max_usd:g} is too little: judging is expected to cost ${self.usd:.2f}, and "
            f"${self.committed:.2f} are spent; raise it to {needed:.2f} or more, or judge fewer pairs"
        )


def check_judging(
    missing: Sequence[PlannedStep], planned: Mapping[str, PlannedStep], store: Store
) -> JudgingBudget:
    """The forecast, once it is sure that every judge can be asked and paid.

    Raises:
        UserError: no price, no address, no API key, or an estimate above `judge.max_usd`.
    """
    budget = forecast_judging(missing, planned, store)
    for forecast in budget.forecasts:
        if forecast.refusal is not None:
            raise UserError(forecast.refusal)
    if budget.over is not None:
        raise UserError(budget.over)
    for step in _asked(missing):
        if any(forecast.calls and forecast.judge == step.inputs.judge.name for forecast in budget.forecasts):
            require_key(load_judge(step.inputs.judge).service)
    return budget


def forecast_judging(
    missing: Sequence[PlannedStep], planned: Mapping[str, PlannedStep], store: Store
) -> JudgingBudget:
    """What the judge steps among `missing` will ask that the ledger cannot answer.

    Outputs that are there are taken as they are; for others the instructions are, with answers of the length that
    the generation allows, at most of AlpacaEval's usual one.
    """
    groups: dict[str, list[PlannedStep]] = {}
    for step in _asked(missing):
        groups.setdefault(repr(identity(step.inputs.judge)), []).append(step)
    if not groups:
        return JudgingBudget([])
    with _ledger(store.root) as ledger:
        forecasts = [_forecast(steps, planned, store, ledger) for steps in groups.values()]
        caps = [steps[0].inputs.judge.max_usd for steps in groups.values()]
        return JudgingBudget(
            forecasts, ledger.committed(), min((cap for cap in caps if cap is not None), default=None)
        )


def _asked(missing: Sequence[PlannedStep]) -> list[PlannedStep]:
    return [step for step in missing if step.stage == "judge" and step.inputs.judge.kind.over_http]


@contextmanager
def _ledger(results: Path) -> Iterator[JudgementLedger]:
    """The folder's ledger where there is one; a dry run leaves nothing behind."""
    if (results / FOLDER).is_dir():
        with JudgementLedger(results / FOLDER) as ledger:
            yield ledger
        return
    with tempfile.TemporaryDirectory() as folder, JudgementLedger(folder) as ledger:
        yield ledger


def _forecast(
    steps: Sequence[PlannedStep], planned: Mapping[str, PlannedStep], store: Store, ledger: JudgementLedger
) -> JudgingForecast:
    config: JudgeConfig = steps[0].inputs.judge
    judge, refusal = _load(config)
    if judge is None:
        return JudgingForecast(config.name, len(steps), 0, 0, 0, None, "nothing", refusal)
    costs = list(_estimates(judge, steps, planned, store, ledger))
    return JudgingForecast(
        judge=config.name,
        cells=len(steps),
        calls=sum(times * cost.requests for times, cost in costs),
        tokens_in=sum(times * cost.tokens_in for times, cost in costs),
        tokens_out=sum(times * cost.tokens_out for times, cost in costs),
        usd=None if refusal else sum(times * cost.usd for times, cost in costs),
        source=" and ".join(dict.fromkeys(cost.source for _, cost in costs)),
        refusal=refusal,
    )


def _load(config: JudgeConfig) -> tuple[Judge | None, str | None]:
    """The judge, without a price where none is known; and why it cannot be asked."""
    try:
        return load_judge(config), None
    except UserError as error:
        refusal = str(error)
    try:
        return load_judge(replace(config, usd_per_million_tokens=[0.0, 0.0])), refusal
    except UserError:
        return None, refusal


def _estimates(
    judge: Judge,
    steps: Sequence[PlannedStep],
    planned: Mapping[str, PlannedStep],
    store: Store,
    ledger: JudgementLedger,
) -> Iterator[tuple[int, CostEstimate]]:
    """Estimates with how many times each counts: of pairs that are there, and of each kind of cell yet to come."""
    there, coming = [], dict[str, list[PlannedStep]]()
    for step in steps:
        outputs = _outputs(planned[step.needs["generate"]], store)
        if outputs is None:
            coming.setdefault(_kind(step, planned), []).append(step)
        else:
            there.append(plan_questions(judge, _match(outputs, step), (), ledger).all)
    stored = [judge.request(pair) for step in steps for pair in _stored(step)]
    yield 1, estimate(judge, interleave([*there, stored]), ledger, network=False)
    for alike in coming.values():
        step = alike[0]
        rows = _imagine(planned[step.needs["generate"]])
        questions = plan_questions(judge, _match(rows, step), (), ledger)
        own = [*questions.main, *questions.swapped, *questions.repeated]
        yield len(alike), estimate(judge, own, ledger, network=False)


def _kind(step: PlannedStep, planned: Mapping[str, PlannedStep]) -> str:
    generate = planned[step.needs["generate"]]
    sources = [source.identity for one in (step, generate) for source in one.sources.values()]
    return repr((identity(generate.inputs.generation), sources))


def _outputs(generate: PlannedStep, store: Store) -> list[tuple[str, str]] | None:
    """(instruction, output) of a finished or a given outputs file; None where the answers are yet to be made."""
    folder = store.find("generate", generate.key)
    generation: GenerationConfig = generate.inputs.generation
    if folder is not None:
        rows: Sequence[Mapping[str, Any]] = read_json(folder / "outputs.json")
    elif generation.source is GenerationSource.file:
        rows = [row for _, row in read_rows(Path(generate.sources["outputs"].location), generation.limit)]
    else:
        return None
    return [(str(row.get("instruction")), str(row.get("output"))) for row in rows]


def _imagine(generate: PlannedStep) -> list[tuple[str, str]]:
    """(instruction, output) with an output of the length to be expected."""
    generation: GenerationConfig = generate.inputs.generation
    source = generate.sources["instructions"]
    length = min(len(USUAL_PAIR.output), round(generation.max_new_tokens * BYTES_PER_TOKEN))
    if source.kind == "hub":
        count = generation.limit or USUAL_INSTRUCTIONS
        texts = [f"{number:165}" for number in range(count)]
    else:
        texts = [row.instruction for row in load_instructions(source)[: generation.limit]]
    return [(text, "x" * length) for text in texts]


def _match(rows: Sequence[tuple[str, str]], step: PlannedStep) -> list[Pair]:
    known = cached_references(step.sources["reference"])
    return [Pair(text, known.get(text, USUAL_PAIR.reference), output) for text, output in rows]


def _stored(step: PlannedStep) -> list[Pair]:
    if "stored" not in step.sources:
        return []
    rows = read_alpaca_rows(step.sources["stored"].location, option="judge.stored")
    return [row.pair for row in read_stored(rows, limit=step.inputs.judge.stored_pairs)]
