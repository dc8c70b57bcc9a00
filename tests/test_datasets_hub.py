"""Instruction sets of the hub, read from a local cache laid out as huggingface_hub lays it out; no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neft_lab.config import UserError
from neft_lab.datasets import (
    data_files,
    load_instructions,
    prepare_examples,
    stored_files,
    stored_instructions,
)
from neft_lab.sources import Source
from tests.dataset_cases import byte_level, dataset

COMMIT = "4" * 40


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def publish(hub: Path, repo: str, files: dict[str, Any]) -> Source:
    """A repository as it lies in the cache after a download."""
    folder = hub / f"datasets--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    for name, rows in files.items():
        path = folder / "snapshots" / COMMIT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        else:
            path.write_text(json.dumps(rows))
    return Source("hub", repo)


def rows(*outputs: str) -> list[dict[str, str]]:
    return [{"instruction": f"Say {text}", "output": text} for text in outputs]


def names(paths: list[Path] | None) -> list[str]:
    return [path.name for path in paths or ()]


def test_the_shards_of_a_split_are_read_in_order(hub: Path) -> None:
    source = publish(hub, "org/shards", {
        "data/test-00000-of-00001.parquet": rows("z"), "data/train-00001-of-00002.parquet": rows("b", "c"),
        "data/train-00000-of-00002.parquet": rows("a"), "README.json.md": [],
    })  # fmt: skip
    wanted = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert names(data_files(source, split="train")) == names(stored_files(source, split="train")) == wanted
    prepared = prepare_examples(source, dataset(), byte_level(), max_length=512)
    assert (prepared.rows_read, prepared.response_characters) == (3, 1)
    assert prepare_examples(source, dataset(max_rows=2), byte_level(), max_length=512).rows_read == 2


def test_a_file_without_the_splits_name_is_the_whole_set(hub: Path) -> None:
    """As Dolly and Evol-Instruct are published."""
    source = publish(hub, "org/one", {"alpaca_evol_instruct_70k.json": rows("a")})
    assert names(data_files(source, split="train")) == ["alpaca_evol_instruct_70k.json"]


def test_a_glob_chooses_among_a_repositorys_files(hub: Path) -> None:
    """ShareGPT's repository holds several preparations of the same talks."""
    parts = ["sg_90k_part1_html_cleaned.json", "sg_90k_part2_html_cleaned.json"]
    source = publish(hub, "org/talks", {
        **{f"HTML_cleaned_raw_dataset/{name}": rows("a") for name in reversed(parts)},
        "ShareGPT_V3_unfiltered_cleaned_split.json": rows("b"),
    })  # fmt: skip
    chosen = dataset("sharegpt").files
    assert names(data_files(source, split="train", files=chosen)) == parts
    with pytest.raises(UserError, match=r"'org/talks' holds no file that matches dataset.files=\*.csv"):
        data_files(source, split="train", files="*.csv")


def test_what_is_not_in_the_cache_is_looked_at_later(hub: Path) -> None:
    source = Source("hub", "org/elsewhere")
    assert stored_files(source, split="train") is None
    assert stored_instructions(source) is None
    with pytest.raises(UserError, match="dataset 'org/elsewhere' is neither on this machine nor to be had"):
        data_files(source, split="train")


def test_leaks_are_found_between_sets_of_the_hub(hub: Path) -> None:
    train = publish(hub, "org/train", {"train.json": rows("a", "b")})
    evaluation = publish(
        hub, "org/evaluation", {"alpaca_eval.json": [{"instruction": "SAY b", "output": "x"}]}
    )
    asked = [one.instruction for one in load_instructions(evaluation)]
    assert asked == ["SAY b"] == [one.instruction for one in stored_instructions(evaluation) or ()]
    with pytest.raises(UserError, match=r"train.json row 2 'Say b' is among the evaluation instructions"):
        prepare_examples(train, dataset(), byte_level(), max_length=512, evaluation=asked)
