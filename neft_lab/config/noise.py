"""The noise on the embeddings while a model trains."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from neft_lab.config.rules import key, require


class NoiseKind(Enum):
    none = "none"
    uniform = "uniform"
    gaussian = "gaussian"
    rademacher = "rademacher"


class NoiseScale(Enum):
    raw = "raw"
    matched = "matched"


class NoiseLength(Enum):
    sample = "sample"
    padded = "padded"
    packed_row = "packed_row"
    none = "none"


class NoisePlace(Enum):
    both = "both"
    prompt = "prompt"
    response = "response"
    first = "first"


class NoiseStrength(Enum):
    alpha = "alpha"
    sigma = "sigma"
    proportional = "proportional"


class NoiseSchedule(Enum):
    constant = "constant"
    linear_decay = "linear_decay"


@dataclass
class NoiseConfig:
    name: str = key()
    kind: NoiseKind = key()
    alpha: float = key()
    """alpha / sqrt(L d) scales the unit draw; the paper's values are 5, 10 and 15."""
    scale: NoiseScale = key()
    length: NoiseLength = key()
    place: NoisePlace = key()
    strength: NoiseStrength = key()
    frozen: bool = key()
    schedule: NoiseSchedule = key()
    symmetric: bool = key()

    def __post_init__(self) -> None:
        require(self.alpha >= 0, "noise.alpha", self.alpha, "must be >= 0")
        if self.kind is NoiseKind.none:
            require(
                self.alpha == 0,
                "noise.alpha",
                self.alpha,
                "must be 0 with noise=none (or choose noise=uniform)",
            )

    @property
    def silent(self) -> bool:
        """No noise at all, however that is spelled."""
        return self.kind is NoiseKind.none or self.alpha == 0


SILENT = NoiseConfig(
    name="none",
    kind=NoiseKind.none,
    alpha=0.0,
    scale=NoiseScale.raw,
    length=NoiseLength.sample,
    place=NoisePlace.both,
    strength=NoiseStrength.alpha,
    frozen=False,
    schedule=NoiseSchedule.constant,
    symmetric=False,
)
"""The one canonical form of "no noise"."""
