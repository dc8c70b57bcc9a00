"""Evaluation sets of the hub: fetched by its own protocol from a local server, then read without it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from tests.hub_server import COMMIT, DataSetHub
from tests.loopback import serve
from tests.task_files import truthful_rows

CARD = b"""---
configs:
- config_name: multiple_choice
  data_files:
  - split: validation
    path: multiple_choice/validation-*
---
"""

LOAD = """
import json, sys
from neft_lab.config import LeaderboardConfig, Precision, TaskConfig, TaskSource
from neft_lab.tasks.benchmarks import load_benchmarks

tasks = [TaskConfig("truthfulqa_mc2", 0, "acc", None, None)]
found, holes = load_benchmarks(LeaderboardConfig("q", tasks, TaskSource.auto, None, 256, None, Precision.fp32, None))
told = [[one.documents.source.name, one.documents.revision, one.digest] for one in found[0].subtasks] if found else []
questions = [row["question"] for row in found[0].subtasks[0].documents.splits["validation"]] if found else []
print(json.dumps({"told": told, "questions": questions, "holes": holes}))
"""


def load(address: str, cache: Path, *, offline: bool) -> dict[str, Any]:
    """In a process of its own: the libraries read where the hub and the cache are when they are imported."""
    changed = {"HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_OFFLINE": str(int(offline))}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    ran = subprocess.run([sys.executable, "-c", LOAD], env=kept | changed, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def sets() -> Mapping[str, Mapping[str, bytes]]:
    rows = io.BytesIO()
    Dataset.from_list(truthful_rows(5)).to_parquet(rows)
    files = {"README.md": CARD, "multiple_choice/validation-00000-of-00001.parquet": rows.getvalue()}
    return {"truthfulqa/truthful_qa": files}


def test_a_task_of_the_hub_is_fetched_once_and_then_read_offline(
    sets: Mapping[str, Mapping[str, bytes]], tmp_path: Path
) -> None:
    asked: list[str] = []
    with serve(DataSetHub, sets=sets, asked=asked) as address:
        online = load(address, tmp_path, offline=False)
        assert any(path.endswith(".parquet") for path in asked)
        before = len(asked)
        assert load(address, tmp_path, offline=True) == online
        assert len(asked) == before, "HF_HUB_OFFLINE asks nobody"
    assert load(address, tmp_path, offline=False) == online, "the hub is gone, its copy is here"
    source, revision, digest = online["told"][0]
    assert (source, revision) == ("hub", COMMIT)
    assert digest.startswith("sha256:")
    assert online["questions"] == [row["question"] for row in truthful_rows(5)]


def test_a_task_that_the_hub_lacks_is_a_hole(tmp_path: Path) -> None:
    with serve(DataSetHub, sets={}, asked=[]) as address:
        found = load(address, tmp_path, offline=False)
    assert found["told"] == []
    assert "the hub refuses truthfulqa/truthful_qa" in found["holes"]["truthfulqa_mc2"]


def test_an_empty_cache_offline_is_a_hole(tmp_path: Path) -> None:
    found = load("http://127.0.0.1:9", tmp_path, offline=True)
    assert "the hub does not answer, and its cache gave nothing" in found["holes"]["truthfulqa_mc2"]
