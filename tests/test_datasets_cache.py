"""Tokenised once: by content and not by name, in one process of several, and again when the file is damaged."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy
import pytest

from neft_lab.config import DatasetConfig, Responses
from neft_lab.datasets import Prepared, prepare_examples
from neft_lab.datasets.cache import Entry, load_or_build
from neft_lab.paths import cache_dir
from neft_lab.sources import Source
from tests.dataset_cases import byte_level, dataset, sentencepiece, stored

ROWS = [{"instruction": f"Task {number}", "output": "a" * number} for number in range(1, 31)]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEFT_LAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many texts each call of a tokenizer was given."""
    from transformers import PreTrainedTokenizerFast

    found: list[int] = []
    plain = PreTrainedTokenizerFast.__call__

    def counted(self: Any, text: Any, *rest: Any, **options: Any) -> Any:
        found.append(len(text))
        return plain(self, text, *rest, **options)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", counted)
    yield found


def prepare(source: Source, config: DatasetConfig, tokenizer: Any = None, **options: Any) -> Prepared:
    return prepare_examples(source, config, tokenizer or byte_level(), **({"max_length": 512} | options))


def plain(prepared: Prepared) -> list[Any]:
    return [
        (one.id, one.input_ids, one.labels, one.truncated, one.prompt_text_mask) for one in prepared.examples
    ]


def entries() -> list[Path]:
    return sorted((cache_dir() / "examples").glob("*.npz"))


def test_a_second_run_tokenises_nothing_and_is_the_same(tmp_path: Path, calls: list[int]) -> None:
    source = stored(tmp_path / "rows.json", ROWS)
    first = prepare(source, dataset())
    assert sum(calls) >= 2 * len(ROWS)
    calls.clear()
    second = prepare(source, dataset())
    assert not calls
    assert plain(first) == plain(second) and first.facts == second.facts


def test_content_counts_and_names_do_not(tmp_path: Path, calls: list[int]) -> None:
    """A copy under another name, a tokenizer built anew, and what only narrows the examples find the same entry."""
    first = prepare(stored(tmp_path / "rows.json", ROWS), dataset())
    calls.clear()
    copy = stored(tmp_path / "copy.json", ROWS)
    assert plain(prepare(copy, dataset(name="other"), byte_level())) == plain(first)
    assert len(prepare(copy, dataset(longest=3)).examples) == 3
    assert len(prepare(copy, dataset(complete_only=True)).examples) == len(ROWS)
    assert not calls and len(entries()) == 1


def test_whatever_decides_the_tokens_makes_another_entry(tmp_path: Path) -> None:
    source = stored(tmp_path / "rows.json", ROWS)
    for option in (
        {},
        {"response_prefix": "\n"},
        {"max_rows": 3},
        {"template": "vicuna"},
        {"responses": Responses.shuffled},
    ):
        prepare(source, dataset(**option))
    prepare(source, dataset(), max_length=100 + 60)
    prepare(source, dataset(), byte_level(("a", "a")))
    prepare(source, dataset(), sentencepiece())
    prepare(stored(tmp_path / "rows.json", ROWS[:-1]), dataset())
    assert len(entries()) == 9


def test_how_a_tokenizer_was_called_before_does_not_count(tmp_path: Path, calls: list[int]) -> None:
    source, tokenizer = stored(tmp_path / "rows.json", ROWS), sentencepiece()
    tokenizer.pad_token = "<unk>"
    before = prepare(source, dataset(), tokenizer)
    tokenizer(["a", "b c"], padding=True, truncation=True, max_length=2)
    calls.clear()
    assert plain(prepare(source, dataset(), tokenizer)) == plain(before) and not calls


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "replaced"])
def test_a_damaged_entry_is_built_again(damage: str, tmp_path: Path, calls: list[int]) -> None:
    source = stored(tmp_path / "rows.json", ROWS)
    first = prepare(source, dataset())
    (entry,) = entries()
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 255
    told = {
        "cut": entry.read_bytes()[:-200],
        "flipped": bytes(content),
        "emptied": b"",
        "replaced": b"not a zip",
    }
    entry.write_bytes(told[damage])
    calls.clear()
    assert plain(prepare(source, dataset())) == plain(first) and calls
    calls.clear()
    assert plain(prepare(source, dataset())) == plain(first) and not calls, "mended"


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path: Path, calls: list[int]) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    source = stored(tmp_path / "rows.json", ROWS)
    assert plain(prepare(source, dataset())) == plain(prepare(source, dataset()))
    assert sum(calls) >= 4 * len(ROWS)


def _count(folder: str) -> int:
    """Build or find one entry, leaving a mark in the folder when it is built."""

    def build() -> Entry:
        time.sleep(0.2)
        (Path(folder) / f"built-{os.getpid()}").write_text("")
        return Entry({"tokens": numpy.arange(1000)}, {"rows": 7})

    return int(load_or_build("ab" * 16, build).arrays["tokens"].sum())


def test_of_several_processes_one_builds_and_the_others_wait(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, mp_context=get_context("forkserver")) as pool:
        assert list(pool.map(_count, [str(tmp_path)] * 3)) == [499_500] * 3
    assert len(list(tmp_path.glob("built-*"))) == 1
    assert not list((cache_dir() / "examples").glob(".*.partial"))


def test_the_entries_used_longest_ago_go_first(tmp_path: Path) -> None:
    noise = numpy.random.default_rng(0).integers(0, 1 << 30, 10_000)

    def make(name: str) -> None:
        load_or_build(name, lambda: Entry({"tokens": noise}, {}), limit=100_000)

    for age, name in ((30, "old"), (20, "used"), (10, "young")):
        make(name)
        stamp = time.time() - age
        os.utime(cache_dir() / "examples" / f"{name}.npz", (stamp, stamp))
    assert {path.stem for path in entries()} == {"used", "young"}, "40,000 bytes each"
    make("used")
    make("new")
    assert {path.stem for path in entries()} == {"used", "new"}
