"""Which model, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from neft_lab.config.rules import key, neutral, require


class ModelSource(Enum):
    auto = "auto"
    embedded = "embedded"
    local = "local"
    hub = "hub"


@dataclass
class ModelConfig:
    name: str = key()
    source: ModelSource = neutral()
    hub_id: str | None = neutral()
    revision: str | None = neutral()
    path: str | None = neutral()
    package: str | None = neutral()
    package_file: str | None = neutral()
    trust_remote_code: bool = key()

    def __post_init__(self) -> None:
        where = {"hub": self.hub_id, "local": self.path, "embedded": self.package}
        if self.source is ModelSource.auto:
            require(
                any(where.values()),
                "model",
                self.name,
                "needs one of model.path, model.package, model.hub_id",
            )
        else:
            named = {"hub": "model.hub_id", "local": "model.path", "embedded": "model.package"}[
                self.source.name
            ]
            require(bool(where[self.source.name]), named, where[self.source.name],
                    f"must be given when model.source is {self.source.name}")  # fmt: skip
