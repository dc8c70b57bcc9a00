"""Which benchmark tasks are scored."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from neft_lab.config.precision import Precision
from neft_lab.config.rules import key, neutral, require


class TaskSource(Enum):
    auto = "auto"
    embedded = "embedded"
    folder = "folder"
    hub = "hub"


@dataclass
class TaskConfig:
    task: str = key()
    shots: int = key()
    metric: str = key()
    limit: int | None = key()
    """Documents per task (per subject for a group)."""
    subsets: list[str] | None = key()

    def __post_init__(self) -> None:
        where = f"leaderboard.tasks: {self.task}"
        require(self.shots >= 0, f"{where}: shots", self.shots, "must be >= 0")
        require(self.limit is None or self.limit > 0, f"{where}: limit", self.limit, "must be > 0 or null")


@dataclass
class LeaderboardConfig:
    name: str = key()
    tasks: list[TaskConfig] = key()
    source: TaskSource = neutral()
    folder: str | None = neutral()
    token_budget: int = key()
    max_length: int | None = key()
    precision: Precision = key()
    processes: int | None = neutral()
    """Processes that share the documents, each with the whole model; null: one for every GPU, one on a CPU."""

    def __post_init__(self) -> None:
        require(self.token_budget > 0, "leaderboard.token_budget", self.token_budget, "must be > 0")
        require(self.processes is None or self.processes > 0, "leaderboard.processes", self.processes,
                "must be > 0 or null")  # fmt: skip
        if self.source is TaskSource.folder:
            require(
                bool(self.folder), "leaderboard.folder", self.folder, "must name a folder with source=folder"
            )
        looked_at = self.source in (TaskSource.folder, TaskSource.auto) or not self.folder
        rule = f"is not looked at with leaderboard.source={self.source.name}; use folder or auto"
        require(looked_at, "leaderboard.folder", self.folder, rule)
        names = [asked.task for asked in self.tasks]
        require(len(set(names)) == len(names), "leaderboard.tasks", names, "must name each task once")
