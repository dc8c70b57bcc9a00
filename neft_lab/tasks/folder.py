"""Documents in a folder of the user's: copies of the hub's repositories, or one file per task and split."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neft_lab.tasks.data_set import DataSet, NoDocuments

if TYPE_CHECKING:
    from datasets import Dataset


def read_folder(folder: Path, data_set: DataSet, split: str) -> Dataset | None:
    """One split, or None where no file has its name.

    Tried in this order, for the split ``test`` of ``cais/mmlu``, configuration ``anatomy``:
    ``cais/mmlu/anatomy/test-*.parquet``, ``cais/mmlu/data/test-*.parquet``, ``cais/mmlu/test-*.parquet``, the
    same without ``cais``, ``mmlu_anatomy_test.*``, ``mmlu_test.*`` (its rows of that ``subject``), and the same
    without the split. Files are .parquet, .json (a list of rows) or .jsonl. Raises NoDocuments for another kind.
    """
    for files in _candidates(folder, data_set, split):
        if files:
            return _one_subject(_load_files(files), data_set.name)
    return None


def _candidates(folder: Path, data_set: DataSet, split: str) -> Iterator[Sequence[Path]]:
    for repository in (folder / data_set.path, folder / data_set.path.split("/")[-1]):
        for place in dict.fromkeys((repository / (data_set.name or ""), repository / "data", repository)):
            yield sorted([*place.glob(f"{split}-*.parquet"), *place.glob(f"{split}.*")])
    family = data_set.task.removesuffix(f"_{data_set.name}")
    # truthfulqa_mc1 and truthfulqa_mc2 are two readings of the one file truthfulqa_mc.
    for stem in dict.fromkeys((data_set.task, family, family.rstrip(string.digits))):
        for name in (f"{stem}_{split}", stem):
            yield sorted(folder.glob(f"{name}.*"))[:1]


def _one_subject(rows: Dataset, name: str | None) -> Dataset | None:
    if name is None or "subject" not in rows.column_names:
        return rows
    numbers = np.flatnonzero(rows.data.column("subject").to_numpy() == name)
    return rows.select(numbers) if len(numbers) else None


def _load_files(paths: Sequence[Path]) -> Dataset:
    from datasets import concatenate_datasets

    parts = [_load_file(path, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return parts[0] if len(parts) == 1 else concatenate_datasets(parts)


@lru_cache(maxsize=4)
def _load_file(path: Path, size: int, modified: int) -> Dataset:
    """Size and time are there for the memory: a changed file is read anew."""
    import pyarrow
    import pyarrow.parquet
    from datasets import Dataset

    try:
        if path.suffix == ".parquet":
            return Dataset(pyarrow.parquet.read_table(path))
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return Dataset.from_list(json.loads(text))
        if path.suffix == ".jsonl":
            return Dataset.from_list([json.loads(line) for line in text.splitlines() if line.strip()])
    except (pyarrow.ArrowException, ValueError, TypeError, AttributeError, OSError) as error:
        raise NoDocuments(f"{path.name} cannot be read: {str(error).splitlines()[0]}") from None
    raise NoDocuments(f"{path.name} must be a .parquet, .json or .jsonl file")
