"""ShareGPT's preparation as for Vicuna 1.1: which conversations FastChat leaves out, and where it cuts long ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neft_lab.prompts import Turn

BLOCKED = ("openai", "chatgpt")
OVERHEAD = 6
"""Tokens that FastChat counts for the role and the separator around each text."""


class Cleaner:
    """FastChat's rules for conversations that are well-formed (github lm-sys/FastChat, data/clean_sharegpt.py).

    Its conversion of HTML is not among them, since the public copies are converted; nor is the choice of
    languages in optional_clean, which needs a language detector.
    """

    def __init__(self) -> None:
        self._seen: set[Any] = set()

    def reason(self, id: Any, turns: Sequence[Turn]) -> str | None:
        """Why a conversation is left out, or None; one that is kept is remembered."""
        texts = (text.lower() for turn in turns for text in (turn.prompt, turn.response))
        if any(word in text for text in texts for word in BLOCKED):
            return "blocked words"
        marks: set[Any] = {(turns[0].response, len(turns))} | ({id} if isinstance(id, str) else set())
        if marks & self._seen:
            return "repeated"
        self._seen |= marks
        return None


def split_conversation(
    turns: tuple[Turn, ...], lengths: Sequence[int], *, max_length: int
) -> list[tuple[Turn, ...]]:
    """Pieces of at most ``max_length`` tokens, or of one exchange that is longer by itself.

    ``lengths``: tokens of each exchange, OVERHEAD for both texts included. The rule is that of FastChat's
    split_long_conversation with its loss: an exchange that no longer fits begins a new piece, and where it is
    the conversation's last one, that piece is never written.
    """
    pieces = []
    start = size = 0
    for place, length in enumerate(lengths):
        if size + length > max_length:
            pieces.append(turns[start:place])
            start, size = place, 0
        elif place == len(turns) - 1:
            pieces.append(turns[start:])
        size += length
    return [piece for piece in pieces if piece]
