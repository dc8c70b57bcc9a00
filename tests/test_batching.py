"""Batches planned ahead, and the journal by which a killed pass over them goes on."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from neft_lab.batching import plan_batches, plan_digest
from neft_lab.journal import BatchJournal

LENGTHS = st.lists(st.integers(1, 50), max_size=40)


@given(LENGTHS, st.integers(1, 300), st.integers(0, 60))
def test_every_row_is_planned_once_within_the_budget(lengths: list[int], budget: int, extra: int) -> None:
    batches = plan_batches(lengths, token_budget=budget, extra=extra)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        width = max(lengths[row] for row in batch) + extra
        assert len(batch) == 1 or len(batch) * width <= budget


@given(LENGTHS, st.integers(1, 300))
def test_a_batch_is_closed_only_when_the_next_row_does_not_fit(lengths: list[int], budget: int) -> None:
    batches = plan_batches(lengths, token_budget=budget)
    for batch in batches[:-1]:
        assert (len(batch) + 1) * max(lengths[row] for row in batch) > budget


def test_rows_go_longest_first_and_equal_ones_in_order() -> None:
    """By hand: widths 9 | 5 5 | 5 3 | 1 within ten tokens."""
    assert plan_batches([5, 3, 9, 5, 5, 1], token_budget=10) == [[2], [0, 3], [4, 1], [5]]
    assert plan_batches([5, 3, 9, 5, 5, 1], token_budget=30, extra=1) == [[2, 0, 3], [4, 1, 5]]
    assert plan_batches([], token_budget=10) == []


def test_the_digest_of_a_plan_knows_batches_and_texts() -> None:
    known = plan_digest([[0, 1]], ["a", "b"])
    assert known == plan_digest([(0, 1)], ("a", "b"))
    assert (
        len(
            {
                known,
                plan_digest([[1, 0]], ["a", "b"]),
                plan_digest([[0], [1]], ["a", "b"]),
                plan_digest([[0, 1]], ["a", "c"]),
            }
        )
        == 4
    )


def write_journal(path: Path, *, plan: str = "p") -> bytes:
    with BatchJournal(path, plan=plan) as journal:
        for batch in range(3):
            journal.append(batch, [[f"text {batch}\n", batch, True]])
    return path.read_bytes()


def test_a_journal_torn_at_any_byte_keeps_its_whole_batches(tmp_path: Path) -> None:
    whole = write_journal(tmp_path / "whole.jsonl")
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        path = tmp_path / "torn.jsonl"
        path.write_bytes(whole[:cut])
        with BatchJournal(path, plan="p") as journal:
            kept = max(sum(end <= cut for end in ends) - 1, 0)
            assert list(journal.finished) == list(range(kept))
            for batch in range(kept, 3):
                journal.append(batch, [[f"text {batch}\n", batch, True]])
        assert path.read_bytes() == whole


def test_a_journal_with_garbage_in_the_middle_is_good_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    lines = write_journal(path).splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1] + b"\0\0\0\n" + lines[3])
    with BatchJournal(path, plan="p") as journal:
        assert list(journal.finished) == [0]


def test_a_journal_of_another_plan_is_started_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write_journal(path)
    with BatchJournal(path, plan="another") as journal:
        assert journal.finished == {}
    assert path.read_bytes() == b'{"plan": "another"}\n'
