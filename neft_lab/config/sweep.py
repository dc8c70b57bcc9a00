"""Which runs are made together, for one question."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from neft_lab.config.rules import require


@dataclass
class TableConfig:
    rows: str = ""
    columns: str | None = None
    values: list[str] = field(default_factory=list)


@dataclass
class SelectConfig:
    """Arms that are tuned before they are compared: every arm has the same number of tries.

    A try is one combination of an arm's values. The best try of each arm is chosen on validation instructions and
    reported on held-out ones; axes of the sweep beside it are contexts, in each of which the choice is made anew.
    """

    arms: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    """Arm -> override key -> values. Every arm names the same keys, so that no try rests on a default."""
    by: str = "win_rate"
    """What the tries of an arm are ranked by."""
    higher: bool = True
    """Whether the highest value is the best."""
    baseline: str = ""
    """The arm that the others are compared with; empty: the first."""
    share: float = 0.25
    """Share of the instructions that choose, where the instructions have no validation split of their own."""

    def __post_init__(self) -> None:
        require(0 < self.share < 1, "sweep.select.share", self.share, "must be in (0, 1)")


@dataclass
class ControlConfig:
    """The baseline once more, changed in a way whose effect on the primary metric is known beforehand."""

    change: dict[str, Any] = field(default_factory=dict)
    """Override key -> value."""
    seeds: list[int] = field(default_factory=list)
    """Seeds in place of the sweep's; empty: those. Other seeds than the sweep's are paired with them in order."""
    expect: str = "same"
    """same, higher or lower than the baseline."""


@dataclass
class SweepConfig:
    """Which runs are made together, for one question; see ``sweeps/``."""

    name: str = ""
    question: str = ""
    paper: str | None = None
    """The artifact of the paper whose published numbers are set beside the sweep's own."""
    axes: dict[str, list[Any]] = field(default_factory=dict)
    zip: dict[str, list[Any]] = field(default_factory=dict)
    baseline: dict[str, Any] = field(default_factory=dict)
    select: SelectConfig | None = None
    controls: dict[str, ControlConfig] = field(default_factory=dict)
    """Comparisons that show whether the tests find what is there, and nothing where nothing is."""
    primary: str = "win_rate"
    """The one metric that claims are made about."""
    family: list[str] = field(default_factory=list)
    """Axes whose comparisons are corrected together; every value of the other axes has a family of its own. Empty:
    all comparisons of the sweep are one family."""
    exploratory: bool = False
    """Benjamini-Hochberg in place of Holm: a share of what is found may be false, and the tables say so."""
    matched_dose: bool = False
    """The arms with noise are meant to be given one dose; measured doses that differ by more are told."""
    margin: dict[str, float] = field(default_factory=dict)
    """Metric, or leaderboard for all tasks -> points within which "preserved" holds."""
    table: TableConfig = field(default_factory=TableConfig)

    def __post_init__(self) -> None:
        for name, points in self.margin.items():
            require(points > 0, f"sweep.margin.{name}", points, "must be > 0 points")
