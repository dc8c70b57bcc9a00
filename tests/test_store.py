"""Keys, records and folders: what makes a step done, and what a kill leaves."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from neft_lab.store import Store, canonical_json, make_key, read_json, write_json, write_text

RECORD = {"stage": "train", "key": "0123456789ab", "metrics": {"train_loss": 1.5}}
STEP = ("train", "0123456789ab")
NAME = "tiny-starter-plain-seed0"


class Colour(Enum):
    red = "red"


def begin(store: Store) -> Path:
    """A work folder with one artifact, as a stage leaves it."""
    work = store.work(*STEP)
    work.mkdir(parents=True)
    (work / "losses.json").write_text("[1.5]")
    return work


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, Path("a"), Colour.red, {1}, b"a", object(), {1: "a"}]
)
def test_canonical_json_refuses_what_json_cannot_say(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical_json({"value": [value]})


def test_canonical_json_is_one_text_for_equal_values() -> None:
    assert canonical_json({"alpha": 5, "kind": None}) == canonical_json({"kind": None, "alpha": 5.0})
    assert canonical_json((1, -0.0)) == canonical_json([1.0, 0])
    assert canonical_json({"b": [True, "é"], "a": 0.1}) == '{"a":0.1,"b":[true,"é"]}'


def test_canonical_json_tells_unequal_values_apart() -> None:
    values: list[Any] = [
        5,
        5.5,
        "5",
        True,
        1,
        None,
        "null",
        0.1,
        0.1 + 2**-54,
        2**53,
        2.0**60,
        [],
        {},
        [5],
        ["5"],
    ]
    assert len({canonical_json(value) for value in values}) == len(values)


def test_a_key_is_twelve_hex_digits_and_pinned() -> None:
    """The digits are those of `printf '{"alpha":5,"stage":"train"}' | sha256sum`."""
    key = make_key({"stage": "train", "alpha": 5.0})
    assert re.fullmatch("[0-9a-f]{12}", key)
    assert key == "3c51adf53286"


def test_only_the_published_record_makes_a_step_done(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.done() == {} and store.find(*STEP) is None
    begin(store)
    assert store.done() == {} and store.find(*STEP) is None
    final = store.publish(*STEP, NAME, RECORD)
    assert final == tmp_path / "train" / f"{NAME}-0123456789ab"
    assert store.done() == {STEP: final} and store.find(*STEP) == final
    assert read_json(final / "record.json") == RECORD
    assert (final / "losses.json").read_text() == "[1.5]"
    assert not store.work(*STEP).exists()


def test_a_final_folder_without_a_record_is_not_done(tmp_path: Path) -> None:
    store = Store(tmp_path)
    torn = tmp_path / "train" / f"{NAME}-0123456789ab"
    torn.mkdir(parents=True)
    (torn / "half.bin").write_bytes(b"half")
    assert store.done() == {} and store.find(*STEP) is None
    begin(store)
    final = store.publish(*STEP, NAME, RECORD)
    assert final == torn and not (final / "half.bin").exists()


def test_a_step_killed_between_its_record_and_the_rename_is_adopted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.adopt(*STEP, NAME) is None
    write_json(begin(store) / "record.json", RECORD)
    assert store.find(*STEP) is None, "the rename is the last act"
    final = store.adopt(*STEP, NAME)
    assert final == store.find(*STEP)
    assert read_json(store.done()[STEP] / "record.json") == RECORD


def test_the_error_of_an_earlier_try_is_gone_once_a_step_is_done(tmp_path: Path) -> None:
    store = Store(tmp_path)
    work = begin(store)
    assert store.error(*STEP) is None
    write_json(work / "error.json", {"message": "no space"})
    assert store.error(*STEP) == {"message": "no space"}
    (work / "error.json").write_text('{"mess')
    assert "cannot be read" in str(store.error(*STEP))
    assert not (store.publish(*STEP, NAME, RECORD) / "error.json").exists()


@pytest.mark.parametrize(
    "write", [lambda path: write_text(path, "\ud800"), lambda path: write_json(path, math.nan)]
)
def test_a_failed_write_leaves_the_old_file_and_no_partial(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    path = tmp_path / "table.md"
    write_text(path, "old")
    with pytest.raises(ValueError):
        write(path)
    assert [file.name for file in tmp_path.iterdir()] == ["table.md"]
    assert path.read_text() == "old"
