"""Which instruction set is trained on, where it comes from and how it is prepared."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from neft_lab.config.rules import key, neutral, require


class DatasetSource(Enum):
    auto = "auto"
    package = "package"
    local = "local"
    hub = "hub"


@dataclass
class DatasetConfig:
    name: str = key()
    source: DatasetSource = neutral()
    hub_id: str | None = neutral()
    revision: str | None = neutral()
    path: str | None = neutral()
    split: str = key()
    format: str = key()
    """alpaca, sharegpt, messages, or auto: told from the columns."""
    template: str = key()
    max_rows: int | None = key()

    def __post_init__(self) -> None:
        require(
            self.max_rows is None or self.max_rows > 0,
            "dataset.max_rows",
            self.max_rows,
            "must be > 0 or null",
        )
        formats = ("auto", "alpaca", "sharegpt", "messages")
        require(self.format in formats, "dataset.format", self.format, f"must be one of {', '.join(formats)}")
        if self.source is DatasetSource.local:
            require(
                bool(self.path), "dataset.path", self.path, "must name a file when dataset.source is local"
            )
