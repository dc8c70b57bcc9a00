"""Where steps run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from neft_lab.config.rules import neutral


class EngineKind(Enum):
    local = "local"


class Device(Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass
class EngineConfig:
    name: str = neutral()
    kind: EngineKind = neutral()
    device: Device = neutral()
