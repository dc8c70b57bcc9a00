"""Reference answers that outputs are compared with: by name, or from a file of AlpacaEval rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from neft_lab.config import UserError, nearest
from neft_lab.datasets import load_instructions, read_rows
from neft_lab.hub import fetch_snapshot, resolved_revision
from neft_lab.sources import ALPACA_EVAL_HUB_ID, Source, instructions_source

ON_THE_HUB = {"alpaca_eval_gpt4_baseline": "alpaca_eval_gpt4_baseline.json"}
"""Reference answers with a file of their own in AlpacaEval's hub repository; `alpaca_eval` is the one that also holds
the instructions, with AlpacaEval 1's answers of text_davinci_003."""
NAMES = ("starter", "alpaca_eval", *ON_THE_HUB)


def reference_source(reference: str, split: str) -> Source:
    """Where the answers of `judge.reference` come from. Raises UserError when a local file is not there."""
    if reference in ON_THE_HUB:
        return Source("hub_file", f"{ALPACA_EVAL_HUB_ID}/{ON_THE_HUB[reference]}")
    if reference not in NAMES and not Path(reference).expanduser().exists():
        raise UserError(f"judge.reference '{reference}' is no file; {nearest(reference, NAMES)}")
    return instructions_source(reference, split, name="judge.reference")


def load_references(source: Source) -> list[dict[str, Any]]:
    """Rows {instruction, output, generator, dataset}, in file order.

    An annotations file of AlpacaEval gives its `output_1`.

    Raises:
        UserError: the hub does not answer, or rows have no output.
    """
    if source.kind == "hub":
        rows = _asked(lambda: _answered(source), source)
    elif source.kind == "hub_file":
        rows = _asked(lambda: _rows(_fetch(*_place(source))), source)
    else:
        path = Path(source.location)
        rows = _rows(path) if _is_annotations(path) else _answered(source)
    silent = sum(not isinstance(row["output"], str) for row in rows)
    if silent:
        raise UserError(
            f"judge.reference '{source.location}' has {silent} rows without an output; every one needs one"
        )
    return rows


def cached_references(source: Source) -> dict[str, str]:
    """Reference answers by instruction, as far as they are on this machine."""
    if source.kind in ("hub", "hub_file"):
        repo, name = _place(source)
        path = _cached(repo, name)
        rows = [] if path is None else _rows(path)
    else:
        rows = load_references(source)
    return {row["instruction"]: row["output"] for row in rows if isinstance(row["output"], str)}


def reference_revision(source: Source) -> str | None:
    """The commit of a reference file of the hub; None for other sources."""
    if source.kind != "hub_file":
        return None
    return resolved_revision(_place(source)[0], "dataset", source.revision)


def _answered(source: Source) -> list[dict[str, Any]]:
    name = source.location.rsplit("/", 1)[-1]
    return [
        {
            "instruction": row.instruction,
            "output": row.reference,
            "generator": row.generator or name,
            "dataset": row.dataset,
        }
        for row in load_instructions(source)
    ]


def _is_annotations(path: Path) -> bool:
    return any("output_1" in row and "output" not in row for _, row in read_rows(path, 1))


def _rows(path: Path) -> list[dict[str, Any]]:
    """Rows of an outputs file, or the first side of an annotations file."""
    return [
        {
            "instruction": str(row.get("instruction")),
            "output": row.get("output", row.get("output_1")),
            "generator": row.get("generator", row.get("generator_1")) or path.stem,
            "dataset": row.get("dataset"),
        }
        for _, row in read_rows(path)
    ]


def _place(source: Source) -> tuple[str, str]:
    """Repository and file of a source of the hub."""
    if source.kind == "hub":
        return source.location, "alpaca_eval.json"
    repo, _, name = source.location.rpartition("/")
    return repo, name


def _cached(repo: str, name: str) -> Path | None:
    """The newest copy of a file of the hub on this machine."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / f"datasets--{repo.replace('/', '--')}" / "snapshots"
    copies = sorted(folder.glob(f"*/{name}"), key=lambda path: path.lstat().st_mtime)
    return copies[-1] if copies else None


def _fetch(repo: str, name: str) -> Path:
    return fetch_snapshot(repo, "dataset", None, patterns=[name]) / name


def _asked(read: Callable[[], list[dict[str, Any]]], source: Source) -> list[dict[str, Any]]:
    try:
        return read()
    except UserError:
        raise UserError(
            f"judge.reference '{source.location}' is neither on this machine nor to be had from the hub; go online, "
            "or give judge.reference=FILE, an outputs file or an annotations file whose output_1 is meant"
        ) from None
