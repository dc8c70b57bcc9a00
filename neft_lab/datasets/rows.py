"""Data files to rows: JSON, JSON lines, Parquet and CSV, with the number of a row in every complaint."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neft_lab.config import UserError
from neft_lab.hub import fetch_snapshot
from neft_lab.sources import Source

DATA_SUFFIXES = (".json", ".jsonl", ".parquet", ".csv")
LARGEST_FIELD = (1 << 31) - 1
"""Characters of one CSV field; csv's own limit of 131,072 is below the longest conversations."""


def data_files(source: Source, *, split: str, files: str | None = None) -> list[Path]:
    """The files of an instruction set, in the order of their names; fetched where they are on the hub.

    Of a hub repository: those that match the glob ``files``, or whose names hold the split, or all.
    """
    if source.kind != "hub":
        return [Path(source.location)]
    patterns = [files] if files else None
    folder = fetch_snapshot(source.location, "dataset", source.revision, patterns=patterns)
    found = _chosen(folder, split, files)
    if not found:
        wanted = f"file that matches dataset.files={files}" if files else f"{', '.join(DATA_SUFFIXES)} file"
        raise UserError(f"dataset '{source.location}' holds no {wanted}; use dataset=local")
    return found


def stored_files(source: Source, *, split: str, files: str | None = None) -> list[Path] | None:
    """The same where they are on this machine already, without the network; None where they are not."""
    if source.kind != "hub":
        return [Path(source.location)]
    folder = stored_snapshot(source)
    return (_chosen(folder, split, files) or None) if folder else None


def stored_snapshot(source: Source) -> Path | None:
    """The folder of a hub repository in the local cache, or None; what is in it may be a part of all files."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = huggingface_hub.snapshot_download(
            source.location, repo_type="dataset", revision=source.revision, local_files_only=True
        )
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
    return Path(folder)


def _chosen(folder: Path, split: str, files: str | None) -> list[Path]:
    found = [path for path in sorted(folder.glob(files or "**/*")) if path.suffix in DATA_SUFFIXES]
    return found if files else [path for path in found if split in path.stem] or found


def read_rows(path: Path, limit: int | None = None) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows of a data file with their numbers, from 1. Raises UserError for what cannot be read."""
    try:
        rows = READERS[path.suffix](path)
    except KeyError:
        raise UserError(f"'{path}' must end in {', '.join(DATA_SUFFIXES)}") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"'{path}' is not valid JSON at line {error.lineno}: {error.msg}; mend or replace it"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"'{path}' must be UTF-8, but its byte {error.start + 1} is not; save it as UTF-8"
        ) from None
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise UserError(f"'{path}' cannot be read: {_first_line(error)}; mend or replace it") from None
    if not rows:
        raise UserError(f"'{path}' holds no rows; it needs at least one")
    for number, row in enumerate(rows[:limit], start=1):
        if not isinstance(row, Mapping):
            raise UserError(
                f"{path.name} row {number} must be an object with named fields, got {type(row).__name__}"
            )
        yield number, row


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _read_json(path: Path) -> list[Any]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # JSON lines under the other name, as some hub repositories have them
            return _json_lines(text)
        raise
    if not isinstance(value, list):
        raise ValueError(f"the top level must be a list of rows, got {type(value).__name__}")
    return value


def _read_jsonl(path: Path) -> list[Any]:
    return _json_lines(path.read_text(encoding="utf-8-sig"))


def _json_lines(text: str) -> list[Any]:
    rows = []
    # not splitlines: a JSON text may hold U+2028 and other separators of lines as they are
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"row {number} is not valid JSON ({error.msg})") from None
    return rows


def _read_csv(path: Path) -> list[Any]:
    csv.field_size_limit(LARGEST_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, start=1):
        if None in row:
            raise ValueError(f"row {number} has more fields than the header; quote texts that hold commas")
    return rows


def _read_parquet(path: Path) -> list[Any]:
    import pyarrow.parquet

    rows: list[Any] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


READERS = {".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
