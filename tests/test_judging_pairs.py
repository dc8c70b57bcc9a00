"""Pairs, controls and the file judge."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from neft_lab.config import UserError
from neft_lab.judging.controls import prefer_longest, prefer_random
from neft_lab.judging.pairs import (
    Pair,
    annotation_rows,
    match_rows,
    output_characters,
    read_preference,
    read_rows,
)
from neft_lab.judging.replay import replay


def _row(instruction: str, output: str, **more: str) -> dict[str, str]:
    return {"instruction": instruction, "output": output, "generator": "g"} | more


def test_outputs_are_paired_by_instruction_in_the_order_of_the_outputs() -> None:
    pairs = match_rows([_row("b", "out b"), _row("a", "out a")], [_row("a", "ref a"), _row("b", "ref b")])
    assert [(pair.instruction, pair.reference, pair.output) for pair in pairs] == [
        ("b", "ref b", "out b"),
        ("a", "ref a", "out a"),
    ]


def test_a_repeated_instruction_is_paired_occurrence_by_occurrence_not_as_a_product() -> None:
    pairs = match_rows([_row("a", "1"), _row("a", "2")], [_row("a", "x"), _row("a", "y")])
    assert [(pair.output, pair.reference) for pair in pairs] == [("1", "x"), ("2", "y")]


def test_an_instruction_that_differs_by_a_space_is_an_error_and_not_a_smaller_n() -> None:
    with pytest.raises(UserError, match=r"judge.reference has no answer to 'a '.*equal to the character"):
        match_rows([_row("a ", "1")], [_row("a", "x")])


def test_references_that_nobody_answered_are_left_out() -> None:
    assert len(match_rows([_row("a", "1")], [_row("a", "x"), _row("b", "y")])) == 1


@pytest.mark.parametrize(
    ("stored", "counted"),
    [
        (0, 1.5),
        (1, 1.0),
        (2, 2.0),
        (1.25, 1.25),
        (None, None),
        (-1, None),
        (float("nan"), None),
        ("2", None),
        (True, None),
    ],
)
def test_preferences_are_read_as_alpaca_eval_counts_them(stored: object, counted: float | None) -> None:
    assert read_preference(stored) == counted


def test_mean_length_is_truncated_as_in_alpaca_eval() -> None:
    assert output_characters(["abc", "abcd", "abcd"]) == 3  # 11 / 3 = 3.67


def test_the_longest_rule_counts_characters_and_calls_equal_lengths_a_draw() -> None:
    pairs = [Pair("i", "aa", "b"), Pair("i", "a", "bb"), Pair("i", "ab", "ba")]
    assert [verdict.preference for verdict in prefer_longest(pairs)] == [1.0, 2.0, 1.5]


def test_the_coin_is_fair_and_does_not_depend_on_row_order() -> None:
    pairs = [Pair(f"instruction {number}", "x", "y") for number in range(2000)]
    verdicts = dict(zip(pairs, prefer_random(pairs, seed=0), strict=True))
    wins = sum(verdict.preference == 2.0 for verdict in verdicts.values())
    assert abs(wins - 1000) < 4 * (2000 / 4) ** 0.5
    shuffled = random.Random(1).sample(pairs, len(pairs))
    assert prefer_random(shuffled, seed=0) == [verdicts[pair] for pair in shuffled]
    assert prefer_random(pairs, seed=1) != list(verdicts.values())


def test_the_coin_calls_equal_answers_a_draw() -> None:
    assert prefer_random([Pair("i", "x", "x")], seed=0)[0].preference == 1.5


def _annotation(instruction: str, reference: str, output: str, preference: float | None) -> dict[str, object]:
    return {"instruction": instruction, "output_1": reference, "output_2": output, "preference": preference}


def test_replay_gives_the_stored_verdicts_and_names_the_holes() -> None:
    stored = [_annotation("a", "x", "1", 2), _annotation("b", "x", "2", None), _annotation("c", "x", "x", 0)]
    _, verdicts = replay([_row("c", "x"), _row("b", "2"), _row("a", "1")], stored)
    assert [(verdict.preference, verdict.hole) for verdict in verdicts] == [
        (1.5, None),
        (None, "no verdict in the file"),
        (2.0, None),
    ]


def test_replay_refuses_verdicts_on_another_answer() -> None:
    with pytest.raises(UserError, match=r"another answer to 'a'.*same model"):
        replay([_row("a", "new answer")], [_annotation("a", "x", "old answer", 2)])


def test_replay_refuses_an_output_that_nobody_judged() -> None:
    with pytest.raises(UserError, match=r"no verdict on 'b'"):
        replay([_row("b", "1")], [_annotation("a", "x", "1", 2)])


def test_annotations_keep_holes_as_rows_with_a_null_preference() -> None:
    pairs, verdicts = replay([_row("b", "2")], [_annotation("b", "x", "2", None)])
    (row,) = annotation_rows(pairs, verdicts, annotator="judge")
    assert row["preference"] is None and row["hole"] == "no verdict in the file"
    assert {"instruction", "output_1", "generator_1", "output_2", "generator_2", "annotator"} <= set(row)


@pytest.mark.parametrize("text", ["not json", '{"instruction": 1}', '[{"output": "x"}]', "[1]"])
def test_a_file_that_is_not_alpaca_eval_rows_is_the_users_mistake(tmp_path: Path, text: str) -> None:
    file = tmp_path / "rows.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"judge.annotations=.*rows.json"):
        read_rows(file, option="judge.annotations")


def test_rows_are_read_as_utf8(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_bytes(json.dumps([_row("ä", "é")], ensure_ascii=False).encode())
    assert read_rows(file, option="x")[0]["output"] == "é"
