"""Finished cells as steps leave them, made up: verdicts, lengths and records on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neft_lab.claims.results import CellResult
from neft_lab.store import make_key, write_json

ENVIRONMENT = {
    "device": "cpu",
    "machine": "x86_64",
    "python": "3.11.7",
    "torch": "2.13.0",
    "transformers": "5.23.0",
}
STARTED = "2026-01-01T00:00:00+00:00"


def make_row(
    root: Path,
    axes: dict[str, Any],
    scores: Sequence[float | None],
    *,
    baseline: dict[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    losses: Sequence[float] | None = None,
    lengths: Sequence[int] | None = None,
    first: int = 0,
    **more: Any,
) -> CellResult:
    """A judged cell: ``scores`` in [0, 1] for the instructions number ``first`` and on, None without a verdict."""
    folder = root / make_key({"axes": {name: str(value) for name, value in axes.items()}})
    texts = [f"instruction {first + number}" for number in range(len(scores))]
    sizes = lengths or [100] * len(scores)
    annotations = [
        {"instruction": text, "output_1": "r" * 100, "output_2": "o" * size,
         "preference": None if score is None else 1 + score}
        for text, score, size in zip(texts, scores, sizes, strict=True)
    ]  # fmt: skip
    write_json(folder / "judge" / "annotations.json", annotations)
    folders = {"judge": folder / "judge"}
    judged = [score for score in scores if score is not None]
    values = {
        "win_rate": 100 * sum(judged) / max(len(judged), 1),
        "win_rate_n": float(len(judged)),
        "judge_validated": 1.0,
    }
    if losses is not None:
        write_json(folder / "analyze" / "losses.json", {"held_out": list(losses)})
        folders["analyze"] = folder / "analyze"
        values["held_out_loss"] = sum(losses) / len(losses)
    records = {stage: _record(values if stage == "judge" else {}) for stage in ("train", *folders)}
    return CellResult(
        axes=axes, baseline=baseline, added=False, keys={}, config=more.pop("config", None),
        metrics={**values, **(metrics or {})}, folders=folders, records=records, **more,
    )  # fmt: skip


def _record(metrics: Mapping[str, float]) -> dict[str, Any]:
    return {
        "environment": ENVIRONMENT, "started": STARTED, "resolved": {}, "config": {}, "metrics": dict(metrics)
    }  # fmt: skip
