"""All that is said of a sweep: rows to arms, comparisons, tables and the answer; computed once, from records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from neft_lab import tables
from neft_lab.claims.answer import answer_sentence
from neft_lab.claims.comparisons import (
    DESCRIBED,
    JUDGED,
    Arm,
    Comparison,
    best_arms,
    compare,
    detectable_difference,
    make_arms,
)
from neft_lab.claims.controls import beside_effects, control_sentence, control_table, read_controls
from neft_lab.claims.items import read_items
from neft_lab.claims.judge_table import judge_tables
from neft_lab.claims.results import CellResult, load_results, metric_names
from neft_lab.claims.selection import select_best, tries_table
from neft_lab.config import SweepConfig
from neft_lab.execute import Status
from neft_lab.paper import Beside, paper_table, set_beside
from neft_lab.plan import Plan
from neft_lab.plan.names import name_files
from neft_lab.textstats import LengthBand, win_rate_by_length

TASKS = ("mmlu", "arc_challenge", "hellaswag", "truthfulqa_mc2")
TEXTS = ("mean_characters", "output_words", "output_tokens", "cut_share", "repeated_bigrams", "log_diversity",
         "log_diversity_published", "reference_rouge_l", "reference_bleu")  # fmt: skip
MEMORY = ("train_rows_loss", "held_out_loss", "training_rouge_l", "training_bleu")


@dataclass(frozen=True)
class Findings:
    """All that is said of a sweep, computed once."""

    rows: list[CellResult]
    reported: list[CellResult]
    """What tables and figures speak of: the cells, or the best try of every tuned arm."""
    metrics: list[str]
    arms: list[Arm]
    comparisons: list[Comparison]
    shown: list[tables.Table]
    """Tables that stand under the answer, the sweep's own first."""
    beside: list[tables.Table]
    """Differences and dose, which the report draws in its own way."""
    published: list[Beside]
    """The paper's numbers with ours beside them, of a sweep that is about one of its artifacts."""
    paper: list[tables.Table]
    """The same as tables, with verdicts."""
    answer: str
    detectable: str
    points: float | None

    @property
    def tables(self) -> list[tables.Table]:
        return [*self.shown, *self.paper, *self.beside]


def find(plan: Plan, status: Status) -> Findings:
    """Rows to arms, comparisons, tables and the answer; axis values that are files go by their names."""
    plan = name_files(plan)
    rows = load_results(plan, status)
    metrics = metric_names(rows, first=plan.sweep.primary)
    selection = select_best(rows, plan.sweep)
    reported = [row for row in rows if not row.control] if selection is None else selection.winners
    arms = make_arms(reported, metrics)
    compared = _compared(metrics, plan.sweep)
    comparisons = compare(reported, plan.sweep, compared)
    controls = read_controls(rows, plan.sweep, compared)
    best = {plan.sweep.primary: best_arms(arms, plan.sweep.primary)} if _trusted(reported, plan.sweep) else {}
    shown = [
        tables.ablation_table(arms, plan.sweep, metrics, best=best),
        *judge_tables(arms),
        *_described(arms),
    ]
    if selection is not None:
        shown.insert(1, tries_table(selection, plan.sweep))
    if controls:
        shown.insert(1, control_table(controls, plan.sweep))
    answer = answer_sentence(comparisons, plan.sweep, reported) + control_sentence(controls)
    comparisons = beside_effects(comparisons, controls)
    beside = [tables.difference_table(comparisons)] if comparisons else []
    if any("mean_noise_norm" in row.metrics for row in rows):
        beside.append(tables.dose_table(make_arms(rows, [])))
    published = set_beside(plan, reported)
    paper = [paper_table(plan, published)] if published else []
    smallest = detectable_difference(reported, plan.sweep)
    return Findings(
        rows=rows,
        reported=reported,
        metrics=metrics,
        arms=arms,
        comparisons=comparisons,
        shown=shown,
        beside=beside,
        published=published,
        paper=paper,
        answer=answer,
        detectable=f"Smallest difference it could have seen: {smallest}." if smallest else "",
        points=smallest.points if smallest else None,
    )


def _trusted(rows: Sequence[CellResult], sweep: SweepConfig) -> bool:
    """Whether the primary metric may call an arm the best: a judge's may once the judge is validated."""
    return sweep.primary not in JUDGED or all(row.metrics.get("judge_validated") == 1.0 for row in rows)


def _described(arms: Sequence[Arm]) -> list[tables.Table]:
    """What outputs look like, and what the models remember; nothing here is claimed."""
    found = []
    chunks = {row.records["describe"]["config"]["chunk"] for arm in arms for row in arm.rows
              if "describe" in row.records}  # fmt: skip
    if chunks:
        over = f"first {' or '.join(map(str, sorted(chunks)))} words of the outputs that have so many"
        found.append(tables.metric_table("What the outputs look like", arms, TEXTS, [
            f"Repetition and diversity: over the {over}. As published, the paper's code divides a fraction by 100."
        ]))  # fmt: skip
    bands = [(arm, band) for arm in arms if (band := _length_bands(arm))]
    if bands:
        found.append(tables.band_table(bands))
    memory = tables.metric_table("What the models remember", arms, MEMORY, [
        "Noise off. Losses: nats per response token, means over rows. Training prompts are answered greedily."
    ])  # fmt: skip
    return found + ([memory] if len(memory.header) > 1 else [])


def _length_bands(arm: Arm) -> list[LengthBand]:
    """Win rates by output length over the verdicts of all seeds; empty where there are none."""
    preferences: list[float | None] = []
    characters: list[float] = []
    for row in arm.rows:
        scores, lengths = read_items(row, "win_rate"), read_items(row, "output_characters")
        if scores is not None and lengths is not None:
            known = dict(zip(lengths.labels, lengths.scores, strict=True))
            kept = [
                (label, score)
                for label, score in zip(scores.labels, scores.scores, strict=True)
                if label in known
            ]
            preferences += [None if math.isnan(score) else 1 + score for _, score in kept]
            characters += [known[label] for label, _ in kept]
    return win_rate_by_length(preferences, characters) if preferences else []


def _compared(metrics: Sequence[str], sweep: SweepConfig) -> list[str]:
    wanted = [sweep.primary, "win_rate", "length_controlled_win_rate", *DESCRIBED, *TASKS]
    return [name for name in dict.fromkeys(wanted) if name in metrics]
