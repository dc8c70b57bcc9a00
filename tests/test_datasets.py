"""Instruction sets of every form and format; what is wrong is told by file and row; labels worked by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from neft_lab.config import UserError
from neft_lab.datasets import IGNORED, load_conversations, load_instructions, tokenize
from neft_lab.prompts import Turn
from neft_lab.sources import Source

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


GOOD = ALPACA[0]
MALFORMED = {
    "an empty answer": ([GOOD, {**GOOD, "output": " "}], "rows.json row 2 must have a non-empty text 'output', got ' '"),
    "a number for an instruction": ([{**GOOD, "instruction": 7}], "row 1 must have a non-empty text 'instruction', got 7"),
    "no known column": ([{"question": "?"}], "row 1 has none of instruction, conversations, messages; got question"),
    "a row that is no object": ([GOOD, "text"], "row 2 must be an object with named fields, got str"),
    "turns that are no list": ([{"conversations": "Hi"}], "row 1 must have a list of turns 'conversations'"),
    "a turn without text": ([{"messages": [{"role": "user", "content": None}]}], "row 1 has a turn without text"),
    "two answers in a row": (
        [{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}], "row 1 must alternate"),
    "no answer": ([{"messages": [{"role": "user", "content": "a"}]}], "row 1 holds no question with an answer"),
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
        ("rows.json", b"\xff\xfe", "cannot be read"),
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


class Letters:
    """A tokenizer with one token per letter (its code point), a begin mark 1 and an end mark "$" of token 2."""

    eos_token = "$"

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [1, *(2 if letter == "$" else ord(letter) for letter in text)]}


def test_only_the_responses_and_their_end_are_learned() -> None:
    """By hand: after the begin mark and the prompt come a, b, end."""
    (example,) = tokenize([(Turn("Sort.", "ab"),)], Letters(), template="alpaca", max_length=512)
    prompt = 1 + 152 - len("{instruction}") + len("Sort.")
    assert example.input_ids[prompt:] == example.labels[prompt:] == [ord("a"), ord("b"), 2]
    assert example.labels[:prompt] == [IGNORED] * prompt
    assert sum(example.prompt_mask) == prompt and not example.truncated and example.learned


def test_every_answer_of_a_conversation_is_learned_and_no_question() -> None:
    (example,) = tokenize(TALK, Letters(), template="vicuna", max_length=512)
    learned = "".join("$" if label == 2 else chr(label) for label in example.labels if label != IGNORED)
    assert learned == " Hello$ See you$"


def test_long_examples_are_cut_on_the_right_and_lose_their_end() -> None:
    whole, cut, silent = (
        tokenize([(Turn("Sort.", "ab"),)], Letters(), template="alpaca", max_length=length)[0]
        for length in (148, 147, 145)
    )
    assert not whole.truncated and whole.labels[-1] == 2
    assert cut.truncated and len(cut.input_ids) == 147 and cut.labels[-2:] == [ord("a"), ord("b")]
    assert silent.truncated and not silent.learned, "the prompt alone fills it"


def test_a_real_tokenizer_learns_the_response_and_its_end(tiny_llama: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    for example, (turn,) in zip(
        tokenize(ALPACA_TURNS, tokenizer, template="alpaca", max_length=512), ALPACA_TURNS, strict=True
    ):
        learned = [label for label in example.labels if label != IGNORED]
        assert learned[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(learned[:-1]) == turn.response
        assert example.input_ids[-1] == tokenizer.eos_token_id != tokenizer.pad_token_id
