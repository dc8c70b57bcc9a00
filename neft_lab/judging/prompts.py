"""Judge prompts, filled so that no answer can leave its place.

Slots are filled all at once and after the prompt has its structure, so an answer that contains chat markers
or the name of another slot stays text. AlpacaEval fills slots one after the other and cuts the result at
chat markers; for answers without such markers both give the same prompt.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neft_lab.config import UserError
from neft_lab.sources import Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTION = """Instruction:
{instruction}

Answer A:
{first}

Answer B:
{second}

Which answer is better for the person who gave the instruction? Reply with A or B."""
LABELS = ("A", "B")
PLAIN_ENDING = "\nThe better answer is"
CUT = " [...]"
SLOTS = ("instruction", "first", "second")

_SLOT = re.compile(r"\{(instruction|first|second)\}")


def prompt_source() -> Source:
    """What of the local judge's question enters a key."""
    text = "\0".join((QUESTION, *LABELS, PLAIN_ENDING, CUT))
    return Source(
        "package", "neft_lab/local_judge", digest=f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    )


@dataclass(frozen=True)
class LocalPrompt:
    """One question as token ids, and whether a text in it had to be cut."""

    tokens: tuple[int, ...]
    cut: bool


@dataclass(frozen=True)
class LocalTemplate:
    """The local judge's question in a model's own tokens: fixed parts around three slots, and two labels."""

    fixed: tuple[tuple[int, ...], ...]
    slots: tuple[str, ...]
    labels: tuple[int, int]
    cut_mark: tuple[int, ...]

    @classmethod
    def build(cls, tokenizer: PreTrainedTokenizerBase) -> LocalTemplate:
        """Lay the question out in the tokenizer's chat template, or as plain text where it has none.

        Raises:
            UserError: both answer labels start with the same token.
        """
        chat = bool(tokenizer.chat_template)
        text = _chat_text(tokenizer) if chat else QUESTION + PLAIN_ENDING
        pieces = _SLOT.split(text)
        fixed = [_encode(tokenizer, piece, trusted=True) for piece in pieces[0::2]]
        if not chat and tokenizer.bos_token_id is not None:
            fixed[0] = (tokenizer.bos_token_id, *fixed[0])
        shared, labels = _label_tokens(tokenizer, "" if chat else " ")
        fixed[-1] += shared
        return cls(tuple(fixed), tuple(pieces[1::2]), labels, _encode(tokenizer, CUT, trusted=False))

    def fill(self, texts: dict[str, tuple[int, ...]], *, max_tokens: int) -> LocalPrompt:
        """Put tokenised texts into the slots, cutting them so that the whole has at most `max_tokens` tokens.

        Raises:
            UserError: the fixed parts leave the texts less than eight tokens each.
        """
        room = max_tokens - sum(map(len, self.fixed))
        if room < 8 * len(SLOTS):
            raise UserError(
                f"judge.max_prompt_tokens must be at least {max_tokens - room + 8 * len(SLOTS)} "
                f"for this model, got {max_tokens}"
            )
        shown = {name: self._cut(texts[name], limit) for name, limit in _limits(texts, room).items()}
        tokens = list(self.fixed[0])
        for slot, piece in zip(self.slots, self.fixed[1:], strict=True):
            tokens += [*shown[slot], *piece]
        return LocalPrompt(tuple(tokens), cut=any(len(shown[name]) < len(texts[name]) for name in SLOTS))

    def _cut(self, tokens: tuple[int, ...], limit: int) -> tuple[int, ...]:
        if len(tokens) <= limit:
            return tokens
        return tokens[: max(limit - len(self.cut_mark), 0)] + self.cut_mark[:limit]


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Token ids of a text that is not ours: chat markers in it become ordinary characters."""
    return _encode(tokenizer, text, trusted=False)


def _limits(texts: dict[str, tuple[int, ...]], room: int) -> dict[str, int]:
    """Tokens for each slot: a third for the instruction, equal halves of the rest, unused room passed on."""
    lengths = {name: len(texts[name]) for name in SLOTS}
    answers = lengths["first"] + lengths["second"]
    instruction = min(lengths["instruction"], max(room // 3, room - answers))
    half = (room - instruction) // 2
    first = min(lengths["first"], max(half, room - instruction - lengths["second"]))
    second = min(lengths["second"], max(half, room - instruction - lengths["first"]))
    return {"instruction": instruction, "first": first, "second": second}


def _label_tokens(tokenizer: PreTrainedTokenizerBase, before: str) -> tuple[tuple[int, ...], tuple[int, int]]:
    """What both labels start with in tokens, and the token in which each then differs."""
    first, second = (_encode(tokenizer, before + label, trusted=True) for label in LABELS)
    for place, pair in enumerate(zip(first, second, strict=False)):
        if pair[0] != pair[1]:
            return first[:place], pair
    raise UserError(
        f"judge.model: its tokenizer does not tell the labels {LABELS} apart; choose another model"
    )


def _chat_text(tokenizer: PreTrainedTokenizerBase) -> str:
    messages: Sequence[dict[str, str]] = [{"role": "user", "content": QUESTION}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, *, trusted: bool) -> tuple[int, ...]:
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=not trusted)
    return tuple(encoded["input_ids"])
