"""Short names for cells, arms, axes and metrics, as tables, figures and the report print them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from neft_lab.claims.results import CONTROL, shown

AXES = {"noise.alpha": "noise scale α"}


METRICS = {
    "win_rate": "win rate %",
    "length_controlled_win_rate": "length-controlled win rate %",
    "output_characters": "output characters",
    "mean_characters": "output characters",
    "output_words": "output words",
    "output_tokens": "output tokens",
    "cut_share": "cut at the limit %",
    "repeated_bigrams": "repeated 2-grams %",
    "log_diversity": "log-diversity",
    "log_diversity_published": "log-diversity as published",
    "reference_rouge_l": "ROUGE-L against the reference %",
    "reference_bleu": "BLEU against the reference %",
    "training_rouge_l": "ROUGE-L on training prompts %",
    "training_bleu": "BLEU on training prompts %",
    "held_out_loss": "held-out loss, nats",
    "train_rows_loss": "training-row loss, nats",
    "mmlu": "MMLU %",
    "mmlu_weighted": "MMLU by document %",
    "arc_challenge": "ARC-Challenge %",
    "hellaswag": "HellaSwag %",
    "truthfulqa_mc2": "TruthfulQA mc2 %",
}


def title_of(metric: str) -> str:
    """What a metric is called, with its unit."""
    return METRICS.get(metric, metric.replace("_", " "))


def name_of(metric: str) -> str:
    """What a metric is called, without its unit."""
    return title_of(metric).removesuffix(" %").removesuffix(", nats")


def unit_of(metric: str) -> str:
    """The unit of a difference of a metric: points of what is in percent; empty for a number without one."""
    title = title_of(metric)
    if title.endswith(" %"):
        return "points"
    last = title.rpartition(" ")[2]
    return last if last in ("nats", "characters", "words", "tokens") else ""


def axis_title(name: str) -> str:
    """What stands below an axis: ``noise.alpha`` is the paper's alpha, others lose their group."""
    return AXES.get(name, name.rsplit(".", 1)[-1].replace("_", " "))


def varying_axes(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Axes that take more than one value, in the order of the points; what only controls have is in their names."""
    own = [point for point in points if CONTROL not in point]
    names = dict.fromkeys(name for point in own or points for name in point)
    if len(own) < len(points):
        names[CONTROL] = None
    return [name for name in names if len({shown(point.get(name)) for point in points}) > 1]


def short_label(point: Mapping[str, Any], axes: Sequence[str]) -> str:
    """The values of some axes: names stand alone, numbers with the name of their axis ("starter, α 5, seed 0")."""
    return ", ".join(_value(name, point[name]) for name in axes if name in point)


def short_labels(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Labels that tell points apart by what varies among them; a point alone is called "run"."""
    axes = varying_axes(points)
    return [short_label(point, axes) or "run" for point in points]


def _value(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{'α' if name == 'noise.alpha' else axis_title(name)} {shown(value)}"
