"""How many rows a local data file has and how long they are, in tokens, before anything is tokenised."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from neft_lab.config import UserError
from neft_lab.datasets import read_rows
from neft_lab.sources import Source

CHARACTERS_PER_TOKEN = 4.0
"""Of English under the usual tokenizers, where a model's own is not here."""
SAMPLE = 64
LARGE = 64 << 20
TEXTS = (
    "instruction",
    "input",
    "output",
    "context",
    "response",
    "value",
    "content",
    "conversations",
    "messages",
)
ALPACA_EVAL_ROWS, ALPACA_EVAL_CHARACTERS = 805, 165.0


@dataclass(frozen=True)
class Texts:
    """Rows of a data file: how many, the mean characters of a row and of its instruction, and some of them."""

    rows: int
    characters: float
    prompt_characters: float
    sample: tuple[str, ...] = ()


@lru_cache
def read_texts(source: Source) -> Texts | None:
    """What a local file holds; None where it lies elsewhere, cannot be read, or is too large to be read for this."""
    path = Path(source.location)
    if source.kind == "hub":
        is_alpaca_eval = source.location == "tatsu-lab/alpaca_eval"
        return (
            Texts(ALPACA_EVAL_ROWS, ALPACA_EVAL_CHARACTERS, ALPACA_EVAL_CHARACTERS)
            if is_alpaca_eval
            else None
        )
    with suppress(OSError, UserError):
        if path.stat().st_size > LARGE:
            return None
        rows = [row for _, row in read_rows(path)]
        count = max(len(rows), 1)
        texts = [_texts(row) for row in rows]
        prompts = [
            _texts({name: row.get(name) for name in ("instruction", "input", "context")}) for row in rows
        ]
        return Texts(
            len(rows), sum(map(len, texts)) / count, sum(map(len, prompts)) / count, tuple(texts[:SAMPLE])
        )
    return None


def _texts(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "\n".join(filter(None, (_texts(value[name]) for name in TEXTS if name in value)))
    if isinstance(value, list):
        return "\n".join(map(_texts, value))
    return ""


@lru_cache
def characters_per_token(model: Source, sample: tuple[str, ...]) -> float:
    """Measured on a sample with the model's own tokenizer.json, else four."""
    file = Path(model.location) / "tokenizer.json"
    if model.kind != "folder" or not sample or not file.is_file():
        return CHARACTERS_PER_TOKEN
    from tokenizers import Tokenizer

    encoded = Tokenizer.from_file(str(file)).encode_batch(list(sample))
    return sum(map(len, sample)) / max(sum(len(one.ids) for one in encoded), 1)
