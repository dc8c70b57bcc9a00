"""Prompt templates, byte for byte, and which parts of a text are learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neft_lab.config import UserError, nearest

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


@dataclass(frozen=True)
class Turn:
    """One question and its answer."""

    prompt: str
    response: str
    input: str = ""


@dataclass(frozen=True)
class Segment:
    """A stretch of training text; ``learned`` says whether its tokens carry loss."""

    text: str
    learned: bool


def render_prompt(template: str, instruction: str, input: str = "") -> str:
    """The text a model is given before it answers one instruction."""
    if template == "alpaca":
        return _fill_alpaca(instruction, input)
    if template == "vicuna":
        return f"{VICUNA_SYSTEM} USER: {_joined(instruction, input)} ASSISTANT:"
    if template == "chatml":
        return f"<|im_start|>user\n{_joined(instruction, input)}<|im_end|>\n<|im_start|>assistant\n"
    raise UserError(f"template '{template}' is unknown; {nearest(template, TEMPLATES)}")


def render_training(template: str, turns: Sequence[Turn], eos: str) -> list[Segment]:
    """A conversation as training segments: prompts not learned, responses with their end mark learned."""
    if template == "alpaca":
        if len(turns) != 1:
            raise UserError(
                f"template 'alpaca' takes one turn, got {len(turns)}; use dataset.template=vicuna"
            )
        first = turns[0]
        return [Segment(_fill_alpaca(first.prompt, first.input), False), Segment(first.response + eos, True)]
    segments = []
    for number, turn in enumerate(turns):
        prompt = render_prompt(template, turn.prompt, turn.input)
        if template == "vicuna":
            prompt = prompt if number == 0 else f"USER: {_joined(turn.prompt, turn.input)} ASSISTANT:"
            segments += [Segment(prompt, False), Segment(f" {turn.response}{eos}", True)]
        else:
            segments += [Segment(prompt, False), Segment(f"{turn.response}<|im_end|>\n", True)]
    return segments


TEMPLATES = ("alpaca", "vicuna", "chatml")


def _fill_alpaca(instruction: str, input: str) -> str:
    # one replacement each, and the instruction last: a text that holds a placeholder must not be filled in turn
    if input:
        head, tail = ALPACA_WITH_INPUT.split("{input}")
        return head.replace("{instruction}", instruction, 1) + input + tail
    return ALPACA.replace("{instruction}", instruction, 1)


def _joined(instruction: str, input: str) -> str:
    return f"{instruction}\n\n{input}" if input else instruction
