"""Prompt templates, byte for byte, and which parts of a text are learned."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from neft_lab.config import UserError, nearest
from neft_lab.config.dataset import TEMPLATES

ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
"""Stanford Alpaca's prompts (github tatsu-lab/stanford_alpaca); nothing follows the last colon."""

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""FastChat's system sentence of template vicuna_v1.1."""

CHATML_END = "<|im_end|>"


@dataclass(frozen=True)
class Turn:
    """One question and its answer."""

    prompt: str
    response: str
    input: str = ""


@dataclass(frozen=True)
class Segment:
    """A stretch of training text: of the template, ``given`` by the row as instruction or input, or ``learned``."""

    text: str
    given: bool = False
    learned: bool = False


def render_prompt(template: str, instruction: str, input: str = "") -> str:
    """The text a model is given before it answers one instruction."""
    return "".join(segment.text for segment in _prompt(template, Turn(instruction, "", input), first=True))


def render_training(template: str, turns: Sequence[Turn], eos: str, *, prefix: str = "") -> list[Segment]:
    """A conversation as training segments; each response carries its end mark.

    ``prefix`` stands between prompt and response and is not learned. A blank that a template puts before a text
    belongs to that text, since tokenizers join it to the word that follows.
    """
    if template == "alpaca" and len(turns) != 1:
        raise UserError(f"template 'alpaca' takes one turn, got {len(turns)}; use dataset.template=vicuna")
    segments: list[Segment] = []
    for number, turn in enumerate(turns):
        *opening, last = _prompt(template, turn, first=number == 0)
        before, after = RESPONSES[template]
        response = Segment(before + turn.response + after.format(eos=eos), learned=True)
        segments += [*opening, Segment(last.text + prefix), response]
    return segments


RESPONSES = {"alpaca": ("", "{eos}"), "vicuna": (" ", "{eos}"), "chatml": ("", f"{CHATML_END}\n")}
"""What stands before and after a response."""


def _prompt(template: str, turn: Turn, *, first: bool) -> list[Segment]:
    """The segments of one question; the last one is of the template."""
    if template == "alpaca":
        return _fill(ALPACA_WITH_INPUT if turn.input else ALPACA, turn)
    if template == "vicuna":
        system = f"{VICUNA_SYSTEM} " if first else ""
        return [Segment(f"{system}USER:"), Segment(f" {_joined(turn)}", given=True), Segment(" ASSISTANT:")]
    if template == "chatml":
        given = Segment(_joined(turn), given=True)
        return [Segment("<|im_start|>user\n"), given, Segment(f"{CHATML_END}\n<|im_start|>assistant\n")]
    raise UserError(f"template '{template}' is unknown; {nearest(template, TEMPLATES)}")


def _fill(template: str, turn: Turn) -> list[Segment]:
    # cut before it is filled: a text that holds a placeholder must not be filled in turn
    pieces = {"{instruction}": turn.prompt, "{input}": turn.input}
    return [
        Segment(pieces.get(piece, piece), given=piece in pieces)
        for piece in re.split(r"(\{instruction\}|\{input\})", template)
    ]


def _joined(turn: Turn) -> str:
    return f"{turn.prompt}\n\n{turn.input}" if turn.input else turn.prompt
