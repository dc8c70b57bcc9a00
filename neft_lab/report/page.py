"""A report to HTML: the template's words and numbers, figures that follow the page's colours, answers as data."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from neft_lab.claims.comparisons import label_comparisons
from neft_lab.claims.labels import title_of
from neft_lab.figures.style import INK, MUTED, PALETTE, PAPER, RULE
from neft_lab.report.reader import Answer, Reader, ReaderCell
from neft_lab.tables import corrected_title, difference_notes, p_text, rounded

if TYPE_CHECKING:
    from neft_lab.claims.comparisons import Comparison
    from neft_lab.figures import Figure
    from neft_lab.report import Report
    from neft_lab.tables import Table

ASSETS = Path(__file__).parent / "assets"
STYLES, SCRIPTS = ("page.css", "reader.css"), ("page.js", "words.js", "answers.js", "reader.js")
COLORS = {INK: "currentColor", MUTED: "var(--muted)", RULE: "var(--rule)", PAPER: "var(--panel)"} | {
    color: f"var(--series-{number})" for number, color in enumerate(PALETTE)
}
NUMBER = re.compile(r"[-+−–]?[\d.,]*( ?%)?( \[.*\])?( × 10\S+)?( \(\d+\))?( †)?")
TONES = {
    "higher": "up", "gained": "up", "lower": "down", "lost": "down", "preserved": "same", "reproduced": "same",
    "outside": "down", "as known": "same", "not as known": "down", "same": "same", "differs": "down",
}  # fmt: skip
STAGES = ("train", "generate", "describe", "judge", "leaderboard", "analyze")


def render(report: Report) -> str:
    """The whole page as text."""
    script = "\n".join(_read(name) for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _template().render(
        report=report,
        facts=report.facts,
        figures=[(figure, _follow_page(figure, number)) for number, figure in enumerate(report.figures)],
        tables=[_readable(table) for table in report.tables],
        paper=[_readable(table) for table in report.paper],
        differences=_differences(report.comparisons),
        corrected=corrected_title(report.comparisons),
        difference_notes=difference_notes(report.comparisons),
        stages=[stage for stage in STAGES if stage in report.facts.seconds],
        total_seconds=math.fsum(report.facts.seconds.values()),
        steps=len({key for _, keys in report.facts.provenance.keys for key in keys.values()}),
        index=_as_json(_index(report.reader)),
        answers=[
            _as_json([answer and answer.text for answer in cell.answers]) for cell in report.reader.cells
        ],
        style=Markup("\n".join(_read(name) for name in STYLES)),
        script=Markup(script),
        script_digest=digest,
    )


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "clock": _clock,
        "dollars": lambda value: f"${value:,.2f}",
        "short": lambda value: f"{value:.3g}",
        "p": _p_value,
    }
    return environment.get_template("page.html.jinja")


def _read(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _as_json(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in, whatever a model wrote."""
    return htmlsafe_json_dumps(
        value, dumps=json.dumps, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )


def _follow_page(figure: Figure, number: int) -> Markup:
    """The figure's SVG with the page's colours, light or dark, and ids that are its own."""
    svg = figure.svg[figure.svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>figure-{number}-", svg)
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda found: COLORS.get(found[0], found[0]), svg)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-labelledby="figure-{number}-title" ', 1))


@dataclass(frozen=True)
class Cell:
    """One cell of a printed table."""

    text: str
    number: bool
    """Whether its column holds numbers."""
    strong: bool = False
    tone: str = ""
    """How a verdict is coloured; empty for all else."""


@dataclass(frozen=True)
class ReadableTable:
    table: Table
    header: list[Cell]
    rows: list[list[Cell]]


def _readable(table: Table) -> ReadableTable:
    numbers = [all(NUMBER.fullmatch(row[place]) for row in table.rows) for place in range(len(table.header))]
    rows = [
        [
            Cell(text, numbers[place], (line, place) in table.strong, _tone(text, table.header[place]))
            for place, text in enumerate(row)
        ]
        for line, row in enumerate(table.rows)
    ]
    header = [Cell(text, number) for text, number in zip(table.header, numbers, strict=True)]
    return ReadableTable(table, header, rows)


def _tone(text: str, header: str) -> str:
    return TONES.get(text.split(";")[0], "none") if header == "verdict" and text else ""


@dataclass(frozen=True)
class Difference:
    """One comparison as it is printed and drawn; places in percent of the drawing's width."""

    label: str
    text: str
    low: float
    value: float
    high: float
    tone: str
    one: Comparison


def _differences(comparisons: Sequence[Comparison]) -> list[tuple[str, list[Difference]]]:
    """By metric, each on a scale of its own with zero in the middle."""
    labelled = zip(comparisons, label_comparisons(comparisons), strict=True)
    found = []
    for metric, group in groupby(labelled, key=lambda pair: pair[0].metric):
        pairs = list(group)
        ends = [abs(end) for one, _ in pairs for end in (one.difference.low, one.difference.high)]
        reach = max((end for end in ends if math.isfinite(end)), default=0.0) or 1.0
        found.append((title_of(metric), [_difference(one, label, reach) for one, label in pairs]))
    return found


def _difference(one: Comparison, label: str, reach: float) -> Difference:
    found = one.difference
    low, value, high = (
        round(50 + 47 * number / reach, 2) if math.isfinite(number) else math.nan
        for number in (found.low, found.value, found.high)
    )
    text = rounded(found.value, found.low, found.high).replace("-", "−")
    return Difference(label, text, low, value, high, TONES.get(one.verdict, "none"), one)


def _p_value(value: float | None) -> str:
    """As tables print it; nothing where no test was made."""
    return "" if value is None or math.isnan(value) else p_text(value)


def _clock(seconds: float) -> str:
    """Seconds as a person says them: 48 s, 3 min 05 s, 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02} min" if hours else f"{minutes} min {rest:02} s"


def _index(reader: Reader) -> dict[str, Any]:
    """All that the reader's list and filters need; the answers themselves are read one cell at a time."""
    return {
        "instructions": [
            {"text": one.text, "dataset": one.dataset, "references": one.references}
            for one in reader.instructions
        ],
        "cells": [_cell_index(cell) for cell in reader.cells],
    }


def _cell_index(cell: ReaderCell) -> Mapping[str, Any]:
    answers = cell.answers
    return {
        "label": cell.label,
        "family": cell.family,
        "name": cell.name,
        "baseline": cell.baseline,
        "verdicts": "".join(map(_verdict, answers)),
        "chances": [_chance(answer) for answer in answers],
        "characters": [answer and answer.characters for answer in answers],
        "repetition": [_rounded(answer.repetition if answer else None, 1) for answer in answers],
        "references": [answer and answer.reference for answer in answers],
        "holes": {number: answer.hole for number, answer in enumerate(answers) if answer and answer.hole},
    }


def _verdict(answer: Answer | None) -> str:
    """As AlpacaEval counts: w(in), l(oss), d(raw) against the reference; - without a verdict."""
    if answer is None or answer.preference is None:
        return "-"
    if answer.preference == 1.5:
        return "d"
    return "w" if answer.preference > 1.5 else "l"


def _chance(answer: Answer | None) -> float | None:
    """The judge's probability that the answer is better than the reference."""
    return None if answer is None or answer.preference is None else _rounded(answer.preference - 1, 4)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
