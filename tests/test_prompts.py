"""Prompts byte for byte, against digests taken from the released code and from FastChat."""

from __future__ import annotations

import hashlib

import pytest

from neft_lab.config import UserError
from neft_lab.config.dataset import TEMPLATES
from neft_lab.prompts import (
    ALPACA,
    ALPACA_WITH_INPUT,
    VICUNA_SYSTEM,
    Turn,
    render_prompt,
    render_training,
)

PUBLISHED = {
    "with input": (
        ALPACA_WITH_INPUT,
        224,
        "28811e9850d9511bab334d167a03a8a37614535fdb28d645492efac8e9951c0f",
    ),
    "without input": (ALPACA, 152, "35101bc36d10997c7d926d8f21f7d173aec6523f3a57d78821b944a89925cdca"),
    "generation": (ALPACA + "\n", 153, "7768da83ee0feb389c3bbcac0841599b1f953ff9ee5c448ec02fc560d762893f"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_template_has_the_published_bytes(name: str) -> None:
    text, size, digest = PUBLISHED[name]
    assert len(text.encode()) == size
    assert hashlib.sha256(text.encode()).hexdigest() == digest


def test_the_composed_generation_prompt_is_the_template_and_one_newline() -> None:
    from neft_lab.plan import expand

    generation = expand(["judge=longest", "leaderboard=none"])[0].config.generation
    prompt = render_prompt(generation.template, "{instruction}") + generation.prompt_suffix
    assert hashlib.sha256(prompt.encode()).hexdigest() == PUBLISHED["generation"][2]


def test_the_vicuna_system_sentence_has_the_published_bytes() -> None:
    digest = hashlib.sha256(VICUNA_SYSTEM.encode()).hexdigest()
    assert len(VICUNA_SYSTEM.encode()) == 154
    assert (digest[:8], digest[-6:]) == ("1fa69e23", "98a9f5")


def test_nothing_follows_the_last_colon_in_training() -> None:
    for given in ("", "a, b"):
        *prompt, response = render_training("alpaca", [Turn("Sort.", "a b", input=given)], "</s>")
        assert prompt[-1].text.endswith("### Response:") and not any(segment.learned for segment in prompt)
        assert response.text == "a b</s>" and response.learned


def test_a_prefix_follows_the_prompt_and_is_not_learned() -> None:
    *_, last, response = render_training("alpaca", [Turn("Sort.", "a b")], "</s>", prefix="\n")
    assert last.text.endswith("### Response:\n") and not last.learned and response.text == "a b</s>"


@pytest.mark.parametrize("template", TEMPLATES)
def test_training_shows_the_prompt_that_generation_shows(template: str) -> None:
    for given in ("", "b a"):
        segments = render_training(template, [Turn("Sort.", "a b", input=given)], "</s>")
        prompt = "".join(segment.text for segment in segments if not segment.learned)
        assert prompt == render_prompt(template, "Sort.", given)


def test_what_the_row_gave_is_told_from_the_template() -> None:
    """A blank before a text goes with the text: tokenizers join the two."""
    turns = [Turn("Sort {input}", "a b", input="b a")]
    wanted = {
        "alpaca": ["Sort {input}", "b a"],
        "vicuna": [" Sort {input}\n\nb a"],
        "chatml": ["Sort {input}\n\nb a"],
    }
    for template, texts in wanted.items():
        segments = render_training(template, turns, "</s>")
        assert [segment.text for segment in segments if segment.given] == texts
        assert not any(segment.given and segment.learned for segment in segments)


def test_no_line_of_a_template_ends_in_a_space() -> None:
    for template in (ALPACA, ALPACA_WITH_INPUT, VICUNA_SYSTEM):
        assert not any(line.endswith(" ") for line in template.split("\n"))


def test_the_input_section_is_there_exactly_when_there_is_an_input() -> None:
    assert "### Input:" not in render_prompt("alpaca", "Sort.")
    assert render_prompt("alpaca", "Sort.", "b a").endswith(
        "### Instruction:\nSort.\n\n### Input:\nb a\n\n### Response:"
    )


def test_placeholders_in_a_text_stay_literal() -> None:
    instruction, given = "Explain {input} and {instruction} in str.format", "{instruction} {input} {0}"
    prompt = render_prompt("alpaca", instruction, given)
    assert prompt.count(f"### Instruction:\n{instruction}\n") == 1
    assert prompt.count(f"### Input:\n{given}\n") == 1
    assert f"### Instruction:\n{instruction}\n\n### Response:" in render_prompt("alpaca", instruction)


def test_vicuna_joins_turns_as_fastchat_does() -> None:
    """FastChat's vicuna_v1.1: separators are one space and the end mark."""
    segments = render_training("vicuna", [Turn("Hi", "Hello"), Turn("Bye", "See you")], "</s>")
    text = "".join(segment.text for segment in segments)
    assert text == f"{VICUNA_SYSTEM} USER: Hi ASSISTANT: Hello</s>USER: Bye ASSISTANT: See you</s>"
    assert [segment.text for segment in segments if segment.learned] == [" Hello</s>", " See you</s>"]


def test_chatml_learns_its_own_end_mark() -> None:
    segments = render_training("chatml", [Turn("Hi", "Hello")], "</s>")
    assert "".join(segment.text for segment in segments) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
    )
    assert [segment.text for segment in segments if segment.learned] == ["Hello<|im_end|>\n"]


def test_alpaca_refuses_a_conversation_and_an_unknown_template_names_the_nearest() -> None:
    with pytest.raises(UserError, match="takes one turn, got 2; use dataset.template=vicuna"):
        render_training("alpaca", [Turn("a", "b"), Turn("c", "d")], "</s>")
    with pytest.raises(UserError, match="did you mean 'alpaca'"):
        render_prompt("alpacca", "a")
    assert TEMPLATES == ("alpaca", "vicuna", "chatml")
