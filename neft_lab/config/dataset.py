"""Which instruction set is trained on, where it comes from and how it is prepared."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from neft_lab.config.rules import key, nearest, neutral, require

FORMATS = ("auto", "alpaca", "sharegpt", "messages")
TEMPLATES = ("alpaca", "vicuna", "chatml")


class DatasetSource(Enum):
    auto = "auto"
    package = "package"
    local = "local"
    hub = "hub"


class Cleaning(Enum):
    none = "none"
    """Every malformed row is an error."""
    fastchat = "fastchat"
    """FastChat's clean_sharegpt: rows that are malformed, repeated or name OpenAI's products are left out."""


class EmptyTexts(Enum):
    refuse = "refuse"
    keep = "keep"
    """As the paper's code: an empty response teaches the end token alone. Alpaca has such rows."""


class Responses(Enum):
    own = "own"
    shuffled = "shuffled"
    """Every instruction with the response of another row: a positive control, known to be worse."""


class LeakedRows(Enum):
    refuse = "refuse"
    drop = "drop"


@dataclass
class DatasetConfig:
    name: str = key()
    source: DatasetSource = neutral()
    hub_id: str | None = neutral()
    revision: str | None = neutral()
    path: str | None = neutral()
    split: str = key()
    files: str | None = key()
    """Which data files of a hub repository, as a glob; null: those whose names hold the split."""
    format: str = key()
    """alpaca, sharegpt, messages, or auto: told from each row's columns."""
    template: str = key()
    response_prefix: str = key()
    """What follows the prompt and is not learned. Training in the paper has nothing, generation a newline."""
    max_rows: int | None = key()
    """The first rows of the files."""
    cleaning: Cleaning = key()
    empty_texts: EmptyTexts = key()
    split_long: bool = key()
    """Conversations cut between exchanges into pieces of at most finetune.max_length tokens, by FastChat's rule."""
    complete_only: bool = key()
    """Rows that lose their end token to finetune.max_length are left out, instead of trained without it."""
    longest: int | None = key()
    """Only that many rows, those with the longest responses in characters (arXiv 2402.04833 takes 1,000)."""
    responses: Responses = key()
    leaked_rows: LeakedRows = key()
    """Rows that are among the evaluation instructions."""
    published_rows: int | None = neutral()
    published_characters: float | None = neutral()
    """Rows and mean response characters of the paper's copy (table 4), which the record puts beside this one's."""

    def __post_init__(self) -> None:
        for name in ("max_rows", "longest"):
            value = getattr(self, name)
            require(value is None or value > 0, f"dataset.{name}", value, "must be > 0 or null")
        for name, known in (("format", FORMATS), ("template", TEMPLATES)):
            value = getattr(self, name)
            require(value in known, f"dataset.{name}", value, f"is unknown ({nearest(value, known)})")
        if self.source is DatasetSource.local:
            require(
                bool(self.path), "dataset.path", self.path, "must name a file when dataset.source is local"
            )
        elif self.source is not DatasetSource.package and not self.path:
            rule = "must name a repository of the hub, unless dataset.path names a file"
            require(bool(self.hub_id), "dataset.hub_id", self.hub_id, rule)
