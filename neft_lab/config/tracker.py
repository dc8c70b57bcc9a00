"""Where runs are logged."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from neft_lab.config.rules import neutral


class TrackerKind(Enum):
    none = "none"
    wandb = "wandb"


class TrackerMode(Enum):
    auto = "auto"
    online = "online"
    offline = "offline"


@dataclass
class TrackerConfig:
    name: str = neutral()
    kind: TrackerKind = neutral()
    project: str = neutral()
    entity: str | None = neutral()
    mode: TrackerMode = neutral()
    """auto: online when logged in, else offline."""
