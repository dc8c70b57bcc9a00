"""Instruction sets made ready: ShareGPT's preparation, what is left out and counted, and what is told apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neft_lab.config import Cleaning, DatasetConfig, EmptyTexts, LeakedRows, Responses, UserError
from neft_lab.datasets import IGNORED, Prepared, prepare_examples
from neft_lab.datasets.preparation import shuffle_responses
from neft_lab.datasets.sharegpt import split_conversation
from neft_lab.prompts import Turn
from neft_lab.sources import Source
from tests.dataset_cases import REAL, byte_level, dataset, sentencepiece, stored


def rows(*outputs: str) -> list[dict[str, str]]:
    return [{"instruction": f"Task {number}", "output": text} for number, text in enumerate(outputs, start=1)]


def talk(id: str, *texts: str, first: str = "human") -> dict[str, Any]:
    """A ShareGPT row whose speakers take turns."""
    speakers = ("human", "gpt") if first == "human" else ("gpt", "human")
    turns = [{"from": speakers[place % 2], "value": text} for place, text in enumerate(texts)]
    return {"id": id, "conversations": turns}


def prepare(source: Source, config: DatasetConfig, *, max_length: int = 512, **options: Any) -> Prepared:
    return prepare_examples(source, config, byte_level(), max_length=max_length, **options)


def responses(prepared: Prepared) -> list[str]:
    """What is learned of each example, its end mark left away."""
    tokenizer = byte_level()
    return [
        tokenizer.decode([label for label in example.labels if label != IGNORED]).removesuffix("</s>")
        for example in prepared.examples
    ]


@pytest.mark.parametrize(
    ("lengths", "wanted"),
    [
        ([100, 100, 100], [[0, 1, 2]]),  # 300 fit
        ([200, 200, 200, 100], [[0, 1], [2, 3]]),
        ([512], [[0]]),
        ([513], []),  # too long, and the last one: never written
        ([300, 300], [[0]]),  # the second opens a piece that is never written
        ([600, 100, 100], [[0], [1, 2]]),  # too long, but not the last: kept whole
        ([100, 600, 100], [[0], [1]]),  # what comes after the long one is the last, and lost
        ([100, 600, 100, 100], [[0], [1], [2, 3]]),
    ],
)  # fmt: skip
def test_long_conversations_are_cut_between_exchanges_as_fastchat_cuts_them(
    lengths: list[int], wanted: list[list[int]]
) -> None:
    """Worked by hand from the published rule; its loss at the end is part of it."""
    turns = tuple(Turn(str(number), "") for number in range(len(lengths)))
    found = split_conversation(turns, lengths, max_length=512)
    assert [[int(turn.prompt) for turn in piece] for piece in found] == wanted


def test_sharegpt_is_prepared_as_for_vicuna(tmp_path: Path) -> None:
    """Lengths by hand: a byte is a token, and FastChat counts 6 more for each text.

    Exchanges of 52, 232, 252 and 52: the third would make 536, more than 512, and opens a piece with the fourth.
    """
    small, middle, large = "a" * 20, "b" * 110, "c" * 120
    source = stored(tmp_path / "talks.json", [
        talk("1", small, small, middle, middle, large, large, small, small),
        talk("2", "Hi", "Hello", "Bye"),
        talk("3", "Welcome", "Hi", "Good day", first="gpt"),
        talk("4", "Hi", "I am ChatGPT"),
        talk("1", "Hi", "Same id"),
        talk("5", "Hello?", "Hello"),
        talk("6", "Unanswered"),
        talk("7", "Hi", '<div class="markdown prose">b</div>'),
        {"id": "8", "conversations": [{"from": "human", "value": "a"}, {"from": "bing", "value": "b"}]},
    ])  # fmt: skip
    prepared = prepare(source, dataset("sharegpt"))
    first, second = f" {small}</s> {middle}", f" {large}</s> {small}"
    assert responses(prepared) == [first, second, " Hello", " Good day"]
    assert prepared.rows_read == 9
    assert prepared.rows_left_out == {"blocked words": 1, "repeated": 2, "malformed": 3}
    assert prepared.exchanges_lost == 0
    assert prepared.response_characters == pytest.approx((20 + 110 + 120 + 20 + 5 + 8) / 6)
    assert prepared.facts["published_characters"] == 1276.76


def test_malformed_conversations_are_errors_unless_cleaning_is_asked_for(tmp_path: Path) -> None:
    source = stored(tmp_path / "talks.json", [talk("1", "Hi", "Hello"), talk("2", "Hi")])
    with pytest.raises(UserError, match=r"talks.json row 2 holds no question with an answer"):
        prepare(source, dataset(template="vicuna"))
    assert len(prepare(source, dataset(template="vicuna", cleaning=Cleaning.fastchat)).examples) == 1


def test_exchanges_that_splitting_loses_are_counted(tmp_path: Path) -> None:
    long = "a" * 150  # an exchange is 312
    source = stored(tmp_path / "talks.json", [talk("1", long, long, long, long, long, long)])
    prepared = prepare(source, dataset("sharegpt"))
    assert len(prepared.examples) == 2 and prepared.exchanges_lost == 1


def test_empty_texts_are_kept_where_the_papers_set_has_them(tmp_path: Path) -> None:
    source = stored(tmp_path / "rows.json", rows("a", ""))
    with pytest.raises(UserError, match="rows.json row 2 must have a non-empty text 'output'"):
        prepare(source, dataset())
    assert responses(prepare(source, dataset("alpaca"))) == ["a", ""]
    assert responses(prepare(source, dataset(empty_texts=EmptyTexts.keep))) == ["a", ""]


PROMPT = 145
"""Tokens of the Alpaca prompt around "Task 1": 152 letters, less 13 of the placeholder, and 6."""


def test_rows_that_lose_their_end_are_counted_or_left_out(tmp_path: Path) -> None:
    """At 155 tokens 10 are left for the response and its end: 9 letters fit."""
    source = stored(tmp_path / "rows.json", rows("a" * 9, "b" * 10, "c" * 300))
    kept = prepare(source, dataset(), max_length=155)
    assert responses(kept) == ["a" * 9, "b" * 10, "c" * 10]
    assert (kept.truncated, kept.rows_incomplete) == (2, 0)
    assert kept.lengths == [155, 155, 155] and kept.learned_tokens == 30
    whole = prepare(source, dataset(complete_only=True), max_length=155)
    assert responses(whole) == ["a" * 9] and (whole.truncated, whole.rows_incomplete) == (0, 2)
    with pytest.raises(UserError, match=r"no row is whole within finetune.max_length=150 tokens; raise it"):
        prepare(source, dataset(complete_only=True), max_length=150)


def test_rows_whose_prompt_fills_the_length_are_left_out_and_counted(tmp_path: Path) -> None:
    many = [{"instruction": "x" * 200, "output": "a"}, *rows("b")]
    prepared = prepare(stored(tmp_path / "rows.json", many), dataset(), max_length=PROMPT + 2)
    assert responses(prepared) == ["b"] and prepared.rows_without_response == 1
    with pytest.raises(
        UserError, match="no row keeps a response within finetune.max_length=64 tokens; raise it"
    ):
        prepare(stored(tmp_path / "rows.json", many), dataset(), max_length=64)


def test_the_longest_responses_are_kept_in_the_files_order(tmp_path: Path) -> None:
    source = stored(tmp_path / "rows.json", rows("aaaa", "b", "cc", "dddd", "ee"))
    prepared = prepare(source, dataset(longest=3))
    assert responses(prepared) == ["aaaa", "cc", "dddd"], "the earlier of two equal ones"
    assert [example.id for example in prepared.examples] == [0, 2, 3], "the same row has the same noise"
    with pytest.raises(UserError, match="dataset.longest must be at most the 5 rows that are left, got 6"):
        prepare(source, dataset(longest=6))


def test_the_first_rows_of_a_file_are_read(tmp_path: Path) -> None:
    prepared = prepare(stored(tmp_path / "rows.json", rows("a", "b", "c")), dataset(max_rows=2))
    assert responses(prepared) == ["a", "b"] and prepared.rows_read == 2


def test_shuffled_responses_are_all_there_and_none_is_at_home(tmp_path: Path) -> None:
    texts = [f"answer {number}" for number in range(1, 41)]
    source = stored(tmp_path / "rows.json", rows(*texts))
    found = responses(prepare(source, dataset(responses=Responses.shuffled)))
    assert sorted(found) == sorted(texts)
    assert not any(one == other for one, other in zip(found, texts, strict=True))
    assert found == responses(prepare(source, dataset(responses=Responses.shuffled)))
    assert found != texts[1:] + texts[:1], "not the neighbour's"
    with pytest.raises(UserError, match="dataset.responses=shuffled needs more rows"):
        prepare(stored(tmp_path / "one.json", rows("a")), dataset(responses=Responses.shuffled))


def test_no_row_of_a_conversation_set_keeps_a_response_of_its_own() -> None:
    talks = [tuple(Turn("?", f"{row}") for _ in range(row % 4 + 1)) for row in range(30)]
    found = shuffle_responses(talks, seed=0)
    assert [len(turns) for turns in found] == [len(turns) for turns in talks]
    assert sorted(turn.response for turns in found for turn in turns) == sorted(
        turn.response for turns in talks for turn in turns
    )
    assert not any(turn.response == str(row) for row, turns in enumerate(found) for turn in turns)


def test_training_rows_among_the_evaluation_instructions_are_refused_by_name(tmp_path: Path) -> None:
    """White space and letter case do not count; an input belongs to the question."""
    leaky = [*rows("a"), {"instruction": "Sort  these\nwords", "input": "b a", "output": "a b"}]
    source = stored(tmp_path / "rows.json", leaky)
    evaluation = ["Name a colour.", "sort these words\n\nB A "]
    message = (
        r"^rows.json row 2 'Sort these words b a' is among the evaluation instructions; remove it, or set"
    )
    for _ in range(2):  # tokenised, and found tokenised
        with pytest.raises(UserError, match=message):
            prepare(source, dataset(), evaluation=evaluation)
        assert len(prepare(source, dataset(), evaluation=["Sort these words"]).examples) == 2


def test_leaked_questions_are_found_at_every_turn_and_told_in_few_words(tmp_path: Path) -> None:
    long = " ".join(map(str, range(20)))
    source = stored(tmp_path / "rows.json", [talk("1", "Hi", "a", long, "b"), talk("2", long, "c")])
    message = r"rows.json row 1 '0 1 2 3 4 5 6 7 \.\.\.' \(and 1 more\) is among"
    with pytest.raises(UserError, match=message):
        prepare(source, dataset(template="vicuna"), evaluation=[long])


def test_leaked_rows_are_dropped_where_that_is_asked_for(tmp_path: Path) -> None:
    source = stored(tmp_path / "rows.json", rows("a", "b", "c"))
    dropping = dataset(leaked_rows=LeakedRows.drop)
    prepared = prepare(source, dropping, evaluation=["TASK 2"])
    assert responses(prepared) == ["a", "c"]
    assert (prepared.rows_read, prepared.rows_left_out) == (3, {"leaked": 1})
    assert responses(prepare(source, dropping, evaluation=["Task 3"])) == ["a", "b"]
    assert responses(prepare(source, dropping)) == ["a", "b", "c"]


def test_facts_are_plain_and_whole(tmp_path: Path) -> None:
    facts = prepare(stored(tmp_path / "rows.json", rows("a", "bb")), dataset()).facts
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["rows"], facts["rows_read"], facts["response_characters"]) == (2, 2, 1.5)


def test_published_sets_name_the_papers_counts() -> None:
    """The paper's table 4, and the rows of the public files."""
    told = {name: dataset(name) for name in ("alpaca", "evol_instruct", "open_platypus", "sharegpt")}
    assert [one.published_characters for one in told.values()] == [270.31, 1356.43, 649.39, 1276.76]
    assert [one.published_rows for one in told.values()] == [52002, 70000, 24926, None]
    assert all(one.response_prefix == "" and not one.complete_only for one in told.values())
    assert (told["sharegpt"].template, told["sharegpt"].split_long) == ("vicuna", True)


def test_real_conversations_are_split_and_cleaned() -> None:
    """An identity set: nearly every answer names its makers, and FastChat's rule leaves only OpenAI's out."""
    path = REAL / "instruct" / "sharegpt_identity_500.json"
    if not path.is_file():
        pytest.skip("FastChat's rows are not beside the checkout")
    source = Source("file", str(path))
    told = json.loads(path.read_text(encoding="utf-8"))
    blocked = sum(
        any(word in turn["value"].lower() for turn in row["conversations"] for word in ("openai", "chatgpt"))
        for row in told
    )
    prepared = prepare_examples(source, dataset("sharegpt"), sentencepiece(), max_length=512)
    assert prepared.rows_read == 500 and prepared.rows_left_out["blocked words"] == blocked
    assert all(length <= 512 for length in prepared.lengths)


def test_a_real_sample_of_alpaca_is_near_the_published_characters() -> None:
    path = REAL / "instruct" / "alpaca_2k.json"
    if not path.is_file():
        pytest.skip("Alpaca's rows (not ours to ship) are not beside the checkout")
    prepared = prepare(Source("file", str(path)), dataset("alpaca", max_rows=600))
    outputs = [row["output"] for row in json.loads(path.read_text(encoding="utf-8"))[:600]]
    assert prepared.response_characters == pytest.approx(sum(map(len, outputs)) / 600)
    assert prepared.response_characters == pytest.approx(prepared.published_characters, rel=0.1)
