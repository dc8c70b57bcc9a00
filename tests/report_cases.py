"""Sweeps as the program leaves them, made up: arms, comparisons, and finished cells on disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from neft_lab.claims.comparisons import Arm, Comparison
from neft_lab.claims.results import CellResult
from neft_lab.figures import Figure
from neft_lab.report import Report
from neft_lab.report.facts import collect_facts
from neft_lab.report.reader import collect_reader
from neft_lab.statistics import Estimate, PairedDifference
from neft_lab.statistics.spread import Spread
from neft_lab.store import make_key, write_json
from neft_lab.tables import Table

Values = Mapping[str, tuple[float, float]]
"""By metric: the value and half the width of its interval."""


def make_arm(axes: dict[str, Any], values: Values, *, rows: Sequence[CellResult] = ()) -> Arm:
    estimates = {
        name: Estimate(value, half / 2, value - half, value + half, n=100)
        for name, (value, half) in values.items()
    }
    return Arm(axes, list(rows), estimates)


def make_arms(
    *, metrics: Sequence[str] = ("win_rate", "output_characters"), **axes: Sequence[Any]
) -> list[Arm]:
    """Every combination of the axes (``noise__alpha`` for ``noise.alpha``), each metric rising from arm to arm."""
    names = [name.replace("__", ".") for name in axes]
    return [
        make_arm(
            dict(zip(names, values, strict=True)),
            {
                metric: (40 + 2 * number + 100 * place, 2.5 + 10 * place)
                for place, metric in enumerate(metrics)
            },
        )
        for number, values in enumerate(product(*axes.values()))
    ]


def make_comparison(
    arm: dict[str, Any],
    value: float,
    half: float,
    *,
    metric: str = "win_rate",
    verdict: str = "cannot tell apart",
    about: Literal["checkpoints", "arms"] = "arms",
    adjusted_p: float | None = 0.3,
    flags: Sequence[str] = (),
) -> Comparison:
    seeds = 1 if about == "checkpoints" else 3
    difference = PairedDifference(
        value=value, standard_error=half / 2, low=value - half, high=value + half, p_value=0.2, n=805, dropped=0,
        seeds=seeds, about=about, test="sign_flip" if seeds == 1 else "crossed_t",
        spread=Spread(0.0, (half / 2) ** 2, seeds, 805),
    )  # fmt: skip
    return Comparison(metric, arm, {**arm, "noise.alpha": 0}, difference, adjusted_p, verdict, list(flags))


@dataclass(frozen=True)
class Asked:
    """One row of a judged cell: who asked what, both answers, and the preference."""

    instruction: str
    reference: str
    output: str
    preference: float | None
    dataset: str = "questions"
    hole: str | None = None


def make_cell(
    folder: Path,
    axes: dict[str, Any],
    asked: Sequence[Asked],
    *,
    baseline: dict[str, Any] | None = None,
    holes: Mapping[str, str] | None = None,
) -> CellResult:
    """A cell with finished train and judge steps in ``folder``."""
    rows = [
        {"instruction": one.instruction, "dataset": one.dataset, "output_1": one.reference, "output_2": one.output,
         "preference": one.preference, **({"hole": one.hole} if one.hole else {})}
        for one in asked
    ]  # fmt: skip
    write_json(folder / "annotations.json", rows)
    alpha = float(axes.get("noise.alpha", 0))
    return CellResult(
        axes=axes, baseline=baseline, added=False, config=None, holes=dict(holes or {}),
        keys={stage: make_key({"stage": stage, "axes": axes}) for stage in ("train", "judge")},
        metrics={"mean_noise_norm": alpha / math.sqrt(3), "noise_to_embedding_rms": alpha / 40, "equivalent_alpha": alpha},
        folders={"judge": folder},
        records={"train": make_record("train", 61.0), "judge": make_record("judge", 7.25)},
    )  # fmt: skip


def make_record(stage: str, seconds: float) -> dict[str, Any]:
    environment = {
        "device": "cpu",
        "machine": "x86_64",
        "python": "3.11.7",
        "torch": "2.13.0",
        "transformers": "5.23.0",
    }
    source = {
        "kind": "folder",
        "location": "/home/somebody/models/tiny",
        "revision": None,
        "digest": "sha256:91c5",
    }
    return {
        "stage": stage, "seconds": seconds, "commit": "d300b2f", "environment": environment,
        "packages": {"torch": "2.13.0", "numpy": "2.3.1"}, "sources": {"model": source},
    }  # fmt: skip


def make_report(
    cells: Sequence[CellResult],
    *,
    tables: Sequence[Table] = (),
    paper: Sequence[Table] = (),
    figures: Sequence[Figure] = (),
    comparisons: Sequence[Comparison] = (),
    question: str = "Does the win rate keep rising with the noise scale?",
    warnings: Sequence[str] = (),
) -> Report:
    return Report(
        name="alpha_grid", question=question, command="python -m neft_lab.run +sweep=alpha_grid",
        answer="At α 15 the win rate is higher than without noise by 5 points [2, 9].", tables=tables, paper=paper, figures=figures,
        comparisons=comparisons, facts=collect_facts(cells), reader=collect_reader(cells), warnings=warnings,
        detectable="This design finds a true difference of 4.6 points with probability 0.8.",
    )  # fmt: skip
