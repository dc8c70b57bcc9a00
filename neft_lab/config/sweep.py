"""Which runs are made together, for one question."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class TableConfig:
    rows: str = ""
    columns: str | None = None
    values: list[str] = field(default_factory=list)


@dataclass
class SweepConfig:
    """Which runs are made together, for one question; see ``sweeps/``."""

    name: str = ""
    question: str = ""
    axes: dict[str, list[Any]] = field(default_factory=dict)
    zip: dict[str, list[Any]] = field(default_factory=dict)
    baseline: dict[str, Any] = field(default_factory=dict)
    primary: str = "win_rate"
    margin: dict[str, float] = field(default_factory=dict)
    table: TableConfig = field(default_factory=TableConfig)
