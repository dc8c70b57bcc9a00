"""Which model, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from neft_lab.config.rules import UserError, key, nearest, neutral, require

ARCHITECTURES = (
    "llama", "llama3", "smollm", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "opt", "opt_projected", "gpt_neox"
)  # fmt: skip
"""Architectures that have a tiny random model (``neft_lab.random_models``)."""


class ModelSource(Enum):
    auto = "auto"
    embedded = "embedded"
    local = "local"
    hub = "hub"
    random = "random"
    """Tiny and untrained, of the option's architecture: to try out on a laptop what is meant for a cluster."""


NEEDS = {"embedded": "package", "local": "path", "hub": "hub_id", "random": "architecture"}
"""The field that each source reads."""


@dataclass
class ModelConfig:
    name: str = key()
    source: ModelSource = neutral()
    architecture: str | None = neutral()
    """Which tiny model ``source: random`` is; it enters the key by that model's digest. null: there is none."""
    hub_id: str | None = neutral()
    revision: str | None = neutral()
    path: str | None = neutral()
    package: str | None = neutral()
    package_file: str | None = neutral()
    trust_remote_code: bool = key()

    def __post_init__(self) -> None:
        if self.architecture is not None and self.architecture not in ARCHITECTURES:
            raise UserError(f"model.architecture '{self.architecture}' has no tiny model; "
                            f"{nearest(self.architecture, ARCHITECTURES)}")  # fmt: skip
        if self.source is ModelSource.auto:
            require(
                any((self.path, self.package, self.hub_id)),
                "model",
                self.name,
                "needs one of model.path, model.package, model.hub_id",
            )
        else:
            needed = NEEDS[self.source.name]
            require(bool(getattr(self, needed)), f"model.{needed}", getattr(self, needed),
                    f"must be given when model.source is {self.source.name}")  # fmt: skip
