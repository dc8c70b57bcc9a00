"""Token ids, loss masks and instruction masks, worked by hand for two kinds of tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neft_lab.config import UserError
from neft_lab.datasets import IGNORED, Example, tokenize
from neft_lab.prompts import ALPACA, ALPACA_WITH_INPUT, VICUNA_SYSTEM, Turn
from tests.dataset_cases import REAL, byte_level, sentencepiece

TALK = [(Turn("Hi", "Hello"), Turn("Bye", "(ok)"))]
SMILE = [(Turn("Sort.", "(ab)"),)]
PROMPT = len(ALPACA) - len("{instruction}") + len("Sort.")
"""Letters of the Alpaca prompt around "Sort."."""


def pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    return list(tokenizer.convert_ids_to_tokens(ids))


def learned(tokenizer: Any, example: Example) -> list[str]:
    return pieces(tokenizer, [label for label in example.labels if label != IGNORED])


def given(tokenizer: Any, example: Example) -> list[str]:
    masked = zip(example.input_ids, example.prompt_text_mask, strict=True)
    return pieces(tokenizer, [token for token, own in masked if own])


def test_a_token_over_the_border_of_prompt_and_response_is_not_learned_byte_level() -> None:
    """Colon and bracket become one token, the last that the prompt has alone, as in the paper's code."""
    tokenizer = byte_level((":", "("))
    (example,) = tokenize(SMILE, tokenizer, template="alpaca", max_length=512)
    assert len(example.input_ids) == PROMPT + len("ab)") + 1
    assert pieces(tokenizer, example.input_ids[PROMPT - 1 :]) == [":(", "a", "b", ")", "</s>"]
    assert example.labels == [IGNORED] * PROMPT + example.input_ids[PROMPT:]


def test_a_token_over_the_border_of_prompt_and_response_is_not_learned_sentencepiece() -> None:
    tokenizer = sentencepiece((":", "("))
    (example,) = tokenize(SMILE, tokenizer, template="alpaca", max_length=512)
    start = 2 + PROMPT  # the begin mark and the blank before the text
    assert example.input_ids[0] == 1 and len(example.input_ids) == start + len("ab)") + 1
    assert pieces(tokenizer, example.input_ids[start - 1 :]) == [":(", "a", "b", ")", "</s>"]
    assert example.labels == [IGNORED] * start + example.input_ids[start:]


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_a_newline_before_the_response_parts_the_two_and_is_not_learned(make: Any) -> None:
    tokenizer = make((":", "("))
    (example,) = tokenize(SMILE, tokenizer, template="alpaca", max_length=512, response_prefix="\n")
    assert learned(tokenizer, example) == ["(", "a", "b", ")", "</s>"]


def test_every_answer_is_learned_with_the_blank_before_it_and_its_end() -> None:
    """As FastChat masks: no question, no role, no separator; LLaMA's kind has a blank anew after the end mark."""
    tokenizer = sentencepiece(("▁", "H"))
    (example,) = tokenize(TALK, tokenizer, template="vicuna", max_length=512)
    first, second = ["▁H", *"ello", "</s>"], ["▁", *"(ok)", "</s>"]
    assert learned(tokenizer, example) == first + second
    assert given(tokenizer, example) == ["▁H", "i", "▁", *"Bye"]
    head = 2 + len(f"{VICUNA_SYSTEM} USER:")
    assert example.prompt_text_mask.index(1) == head
    answer = head + len(["▁H", "i"]) + len(" ASSISTANT:")
    assert example.labels[answer - 1 : answer + 1] == [IGNORED, tokenizer.convert_tokens_to_ids("▁H")]
    between = pieces(tokenizer, example.input_ids[answer + len(first) :])[: len("▁USER:")]
    assert between == [*"▁USER:"]


def test_instruction_and_input_are_marked_and_the_template_is_not() -> None:
    rows = [(Turn("Sort.", "(ab)", input="b a"),)]
    for tokenizer, blank in ((byte_level(), "Ġ"), (sentencepiece(), "▁")):
        (example,) = tokenize(rows, tokenizer, template="alpaca", max_length=512)
        assert given(tokenizer, example) == [*"Sort.", "b", blank, "a"]
        assert not any(
            own and label != IGNORED
            for own, label in zip(example.prompt_text_mask, example.labels, strict=True)
        )


def test_a_begin_mark_that_is_the_end_mark_is_not_learned() -> None:
    """OPT: </s> begins a text and ends it."""
    tokenizer = byte_level(begin="</s>")
    (example,) = tokenize(SMILE, tokenizer, template="alpaca", max_length=512)
    assert example.input_ids[0] == example.input_ids[-1] == example.labels[-1] == 0
    assert example.labels[:1] == [IGNORED] and learned(tokenizer, example) == [*"(ab)", "</s>"]


def test_long_examples_are_cut_on_the_right_and_lose_their_end() -> None:
    tokenizer = byte_level()
    whole, cut, silent = (
        tokenize(SMILE, tokenizer, template="alpaca", max_length=PROMPT + more)[0] for more in (5, 4, 0)
    )
    assert not whole.truncated and learned(tokenizer, whole) == [*"(ab)", "</s>"]
    assert cut.truncated and len(cut.input_ids) == PROMPT + 4 and learned(tokenizer, cut) == [*"(ab)"]
    assert silent.truncated and not silent.learned and len(silent.labels) == PROMPT
    assert tokenize(TALK, tokenizer, template="vicuna", max_length=8)[0].input_ids == tokenizer(VICUNA_SYSTEM[:8])["input_ids"]  # fmt: skip


def test_an_empty_response_teaches_the_end_alone() -> None:
    tokenizer = sentencepiece()
    (example,) = tokenize([(Turn("Sort.", ""),)], tokenizer, template="alpaca", max_length=512)
    assert learned(tokenizer, example) == ["</s>"]


def test_rows_are_the_same_alone_and_among_others() -> None:
    tokenizer = sentencepiece(("▁", "H"), (":", "("))
    rows = [SMILE[0], (Turn("Sort.", "a", input="b"),), (Turn("Hi", "x" * 700),), *([SMILE[0]] * 600)]
    together = tokenize(rows, tokenizer, template="alpaca", max_length=256)
    for number in (0, 1, 2, 3, 520, 602):
        (alone,) = tokenize([rows[number]], tokenizer, template="alpaca", max_length=256)
        assert alone.input_ids == together[number].input_ids and alone.labels == together[number].labels
        assert alone.prompt_text_mask == together[number].prompt_text_mask
    assert [example.id for example in together] == list(range(603))


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_real_rows_are_masked_by_the_papers_rule(make: Any) -> None:
    """Prompt + output + end mark as one text; as many tokens are without loss as the prompt has by itself."""
    path = REAL / "instruct" / "alpaca_2k.json"
    if not path.is_file():
        pytest.skip("Alpaca's rows (not ours to ship) are not beside the checkout")
    rows = json.loads(path.read_text(encoding="utf-8"))[:200]
    tokenizer = make((":", "("), (":", ":"), ("e", "r"), ("i", "n"))
    turns = [(Turn(row["instruction"], row["output"], input=row["input"]),) for row in rows]
    for row, example in zip(rows, tokenize(turns, tokenizer, template="alpaca", max_length=512), strict=True):
        prompt = (ALPACA_WITH_INPUT if row["input"] != "" else ALPACA).format_map(row)
        ids = tokenizer(prompt + row["output"] + "</s>")["input_ids"]
        before = len(tokenizer(prompt)["input_ids"])
        assert example.input_ids == ids[:512]
        assert example.labels == ([IGNORED] * before + ids[before:])[:512]
        assert example.truncated == (len(ids) > 512)


def test_a_real_tokenizer_learns_the_response_and_its_end(tiny_llama: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    texts = ["a b", 'Hello, "you"\nthere', "naïve café 漢字 🙂"]
    rows = [(Turn("Sort.", text, input="b a"),) for text in texts]
    for example, text in zip(
        tokenize(rows, tokenizer, template="alpaca", max_length=512), texts, strict=True
    ):
        found = [label for label in example.labels if label != IGNORED]
        assert found[-1] == example.input_ids[-1] == tokenizer.eos_token_id != tokenizer.pad_token_id
        assert tokenizer.decode(found[:-1]) == text


def test_tokenizers_that_cannot_end_a_response_are_refused() -> None:
    endless = byte_level()
    endless.eos_token = None
    with pytest.raises(UserError, match="the tokenizer has no end token; set eos_token"):
        tokenize(SMILE, endless, template="alpaca", max_length=512)
    with pytest.raises(UserError, match="adds its end token itself; set add_eos_token to false"):
        tokenize(SMILE, sentencepiece(ending=True), template="alpaca", max_length=512)
    with pytest.raises(UserError, match="template 'chatml' needs a tokenizer that knows"):
        tokenize(SMILE, sentencepiece(), template="chatml", max_length=512)
