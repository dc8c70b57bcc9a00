"""Instruction sets of every form and format; what is wrong is told by file and row."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from neft_lab.config import UserError
from neft_lab.datasets import load_conversations, load_instructions, read_rows
from neft_lab.prompts import Turn
from neft_lab.sources import Source
from tests.dataset_cases import REAL

ALPACA = [
    {"instruction": "Sort.", "input": "b a", "output": "a b"},
    {"instruction": "Greet.", "input": "", "output": "Hello, \"you\"\nthere"},
]  # fmt: skip
ALPACA_TURNS = ((Turn("Sort.", "a b", input="b a"),), (Turn("Greet.", 'Hello, "you"\nthere'),))
SHAREGPT = [{"id": "x", "conversations": [
    {"from": "system", "value": "Be kind."}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"},
    {"from": "human", "value": "Bye"}, {"from": "gpt", "value": "See you"}, {"from": "human", "value": "Still there?"},
]}]  # fmt: skip
MESSAGES = [{"messages": [
    {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "See you"},
]}]  # fmt: skip
TALK = ((Turn("Hi", "Hello"), Turn("Bye", "See you")),)


def write(path: Path, rows: Sequence[Any]) -> Path:
    """The same rows in the format that the suffix names."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


def load(path: Path, *, format: str = "auto", max_rows: int | None = None) -> tuple[tuple[Turn, ...], ...]:
    return load_conversations(Source("file", str(path)), split="train", format=format, max_rows=max_rows)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_alpaca_rows_are_read_from_every_format(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"rows{suffix}", ALPACA)
    assert load(path) == load(path, format="alpaca") == ALPACA_TURNS
    assert load(path, max_rows=1) == ALPACA_TURNS[:1]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize(("form", "rows"), [("sharegpt", SHAREGPT), ("messages", MESSAGES)])
def test_conversations_keep_question_and_answer_pairs(
    form: str, rows: Any, suffix: str, tmp_path: Path
) -> None:
    path = write(tmp_path / f"rows{suffix}", rows)
    assert load(path) == load(path, format=form) == TALK


def test_dolly_columns_are_known(tmp_path: Path) -> None:
    rows = [{"instruction": "Sort.", "context": "b a", "response": "a b", "category": "closed_qa"}]
    assert load(write(tmp_path / "rows.jsonl", rows)) == ALPACA_TURNS[:1]


def talk(*turns: tuple[str, Any]) -> list[Any]:
    """One row in messages form."""
    return [{"messages": [{"role": who, "content": text} for who, text in turns]}]


GOOD = ALPACA[0]
MALFORMED: dict[str, tuple[list[Any], str]] = {
    "an empty answer": ([GOOD, {**GOOD, "output": " "}], "rows.json row 2 must have a non-empty text 'output', got ' '"),
    "a number for an instruction": ([{**GOOD, "instruction": 7}], "row 1 must have a non-empty text 'instruction', got 7"),
    "no known column": ([{"question": "?"}], "row 1 has none of instruction, conversations, messages; got question"),
    "a row that is no object": ([GOOD, "text"], "row 2 must be an object with named fields, got str"),
    "turns that are no list": ([{"conversations": "Hi"}], "row 1 must have a list of turns 'conversations'"),
    "turns that are no objects": ([{"messages": ["Hi", "Hello"]}], "row 1 must have a list of turns 'messages'"),
    "a turn without text": (
        talk(("user", None), ("assistant", "b")), "row 1 must have a non-empty text 'content', got None"),
    "a turn of parts": (
        talk(("user", [{"type": "text", "text": "a"}])), "row 1 must have a non-empty text 'content', got [{'type'"),
    "an empty answer in a talk": (
        talk(("user", "a"), ("assistant", "")), "row 1 must have a non-empty text 'content', got ''"),
    "an unknown role": (
        [GOOD, *talk(("user", "a"), ("asistant", "b"))],
        "row 2 has a turn with 'role' 'asistant'; did you mean 'assistant'? known: assistant, gpt, human, system, user"),
    "no role": ([{"conversations": [{"value": "a"}]}], "row 1 has a turn with 'role' None"),
    "two questions in a row": (
        talk(("user", "a"), ("user", "b"), ("assistant", "c")),
        "row 1 must alternate between question and answer, but has user as turn 2"),
    "two answers at the start": (
        talk(("gpt", "a"), ("gpt", "b"), ("human", "c")), "row 1 must alternate between question and answer"),
    "no answer": (talk(("user", "a")), "row 1 holds no question with an answer"),
    "no turns": ([{"messages": []}], "row 1 holds no question with an answer"),
    "the page's HTML": (
        talk(("human", "a"), ("gpt", '<div class="markdown prose w-full"><p>b</p></div>')),
        "row 1 holds the page's HTML"),
    "half a character": ([{**GOOD, "output": "a \ud83d"}], "row 1 has half a character (a lone surrogate) in 'output'"),
    "a number for an input": ([{**GOOD, "input": 7}], "row 1 must have a non-empty text 'input', got 7"),
    "a null answer": ([GOOD, {**GOOD, "output": None}], "row 2 must have a non-empty text 'output', got None"),
    "no rows": ([], "holds no rows"),
}  # fmt: skip


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_row_is_told_by_file_and_row(fault: str, tmp_path: Path) -> None:
    rows, message = MALFORMED[fault]
    with pytest.raises(UserError) as told:
        load(write(tmp_path / "rows.json", rows))
    assert message in str(told.value) and "rows.json" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.json", b'[{"instruction":\n oops}]', "is not valid JSON at line 2"),
        ("rows.json", b'{"instruction": "a"}', "the top level must be a list of rows, got dict"),
        ("rows.json", b"\xff\xfe", "must be UTF-8, but its byte 1 is not; save it as UTF-8"),
        ("rows.csv", "instruction,output\nEcrire,\u00e9t\u00e9\n".encode("latin-1"), "must be UTF-8, but its byte 27 is"),
        ("rows.csv", b"instruction,output\na,b,c\n", "row 1 has more fields than the header; quote texts that hold commas"),
        ("rows.json", b"[" * 100_000, "cannot be read"),
        ("rows.json", b"", "is not valid JSON at line 1"),
        ("rows.jsonl", b'{"instruction": "a", "output": "b"}\n{"instr', "row 2 is not valid JSON"),
        ("rows.jsonl", b"", "holds no rows"),
        ("rows.csv", b"", "holds no rows"),
        ("rows.csv", b"instruction,output\nonly one\n", "row 1 must have a non-empty text 'output', got None"),
        ("rows.parquet", b"PAR1 no", "cannot be read"),
        ("rows.xml", b"<a/>", "must end in .json, .jsonl, .parquet, .csv"),
    ],
)  # fmt: skip
def test_an_unreadable_file_is_told_in_one_line(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as told:
        load(path)
    assert message in str(told.value) and name in str(told.value)
    assert "\n" not in str(told.value)


def test_repeated_evaluation_instructions_are_refused(tmp_path: Path) -> None:
    """Verdicts are paired by instruction, so that two equal ones would share a verdict."""
    rows = [{"instruction": "Sort."}, {"instruction": "Greet."}, {"instruction": "Sort."}]
    with pytest.raises(UserError, match=r"rows.json row 3 repeats the instruction of an earlier row"):
        load_instructions(Source("file", str(write(tmp_path / "rows.json", rows))))


def test_evaluation_instructions_keep_input_reference_and_part(tmp_path: Path) -> None:
    rows = [{"instruction": "Sort.", "input": "b a", "output": "a b", "dataset": "koala", "generator": "person"},
            {"instruction": "Sort."}]  # fmt: skip
    first, second = load_instructions(Source("file", str(write(tmp_path / "rows.json", rows))))
    assert (first.instruction, first.reference, first.dataset) == ("Sort.\n\nb a", "a b", "koala")
    assert (second.reference, second.dataset, second.generator) == (None, "rows", None)


def test_an_input_of_null_is_no_input(tmp_path: Path) -> None:
    rows = [{"instruction": "Greet.", "input": None, "output": "Hello"}]
    assert load(write(tmp_path / "rows.json", rows)) == ((Turn("Greet.", "Hello"),),)


def test_public_sets_are_read_with_the_columns_they_have(tmp_path: Path) -> None:
    """Columns as published on the hub: Evol-Instruct, OpenPlatypus, Alpaca, ShareGPT."""
    rows = [
        {"instruction": "Sort.", "output": "a b"},
        {"input": "", "output": "a b", "instruction": "Sort.", "data_source": "leetcode_ne"},
        {"instruction": "Sort.", "input": "", "output": "a b", "text": "Below is ..."},
        {"id": "x_0", "conversations": [{"from": "human", "value": "Sort."}, {"from": "gpt", "value": "a b"}]},
    ]  # fmt: skip
    assert set(load(write(tmp_path / "rows.json", rows))) == {(Turn("Sort.", "a b"),)}


def test_an_answer_before_the_first_question_falls_away(tmp_path: Path) -> None:
    rows = talk(("gpt", "Welcome"), ("human", "Hi"), ("gpt", "Hello"))
    assert load(write(tmp_path / "rows.json", rows)) == ((Turn("Hi", "Hello"),),)


def test_json_lines_keep_texts_with_unusual_line_separators(tmp_path: Path) -> None:
    """U+2028, U+0085 and form feeds stand in scraped texts; JSON leaves them as they are."""
    text = "one\u2028two\x85three\x0cfour"
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"instruction": "Say.", "output": text}, ensure_ascii=False), encoding="utf-8")
    assert load(path) == ((Turn("Say.", text),),)


def test_json_lines_under_the_name_of_json_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ALPACA).rename(tmp_path / "rows.json")
    assert load(path) == ALPACA_TURNS


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_a_byte_order_mark_is_no_part_of_the_data(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"rows{suffix}", ALPACA)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load(path) == ALPACA_TURNS


def test_a_long_text_fits_into_csv(tmp_path: Path) -> None:
    rows = [{"instruction": "Repeat.", "output": "word " * 60_000}]
    assert len(load(write(tmp_path / "rows.csv", rows))[0][0].response) == 300_000


@pytest.mark.parametrize(
    ("name", "rows", "with_input", "turns"),
    [("alpaca_2k.json", 2000, 787, {1: 2000}), ("dolly_3k.json", 2996, 434, {1: 2996}),
     ("sharegpt_identity_500.json", 500, 0, {1: 167, 2: 166, 3: 167})],
)  # fmt: skip
def test_real_sets_are_read_whole(name: str, rows: int, with_input: int, turns: dict[int, int]) -> None:
    path = REAL / "instruct" / name
    if not path.is_file():
        pytest.skip(f"{name} (not ours to ship) is not beside the checkout")
    found = load(path)
    assert len(found) == rows == sum(1 for _ in read_rows(path))
    assert sum(bool(row[0].input) for row in found) == with_input
    assert Counter(map(len, found)) == turns
