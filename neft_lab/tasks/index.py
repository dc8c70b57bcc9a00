"""lm-eval's own definitions of tasks, found by name without reading all of its thousands of files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.tasks import TaskManager

from neft_lab.config import TaskConfig, UserError, nearest


@dataclass(frozen=True)
class Definition:
    """One task: its name, lm-eval's settings for it, and what the groups around it change in them."""

    name: str
    settings: dict[str, Any]
    overrides: dict[str, Any]
    manager: TaskManager

    @property
    def subset(self) -> str:
        """The configuration of its data set; for MMLU the subject."""
        return str(self.settings.get("dataset_name"))

    def check_metric(self, metric: str) -> None:
        """Raise UserError for a metric that the task does not list."""
        known = [str(listed["metric"]) for listed in self.settings.get("metric_list") or ()]
        if known and metric.split(",")[0] not in known:
            told = nearest(metric, known)
            raise UserError(f"leaderboard.tasks: {self.name} has no metric '{metric}'; {told}")


def check_tasks(asked: Sequence[TaskConfig]) -> None:
    """Find a mistake in names, subsets or metrics before anything runs; reads no documents.

    Raises UserError naming the nearest that is known.
    """
    for one in asked:
        for definition in find_definitions(one.task, one.subsets):
            definition.check_metric(one.metric)


def find_definitions(name: str, subsets: Sequence[str] | None = None) -> list[Definition]:
    """The task of a name, or all tasks of a group or tag, or those of them with certain subsets.

    Raises UserError for a name or subset that lm-eval does not know, naming the nearest.
    """
    manager = _task_manager(name)
    found = list(_leaves(manager, name, {}))
    if subsets is None:
        return found
    by_subset = {definition.subset: definition for definition in found}
    for subset in subsets:
        if subset not in by_subset:
            told = nearest(subset, by_subset)
            raise UserError(f"leaderboard.tasks: {name} has no subset '{subset}'; {told}")
    return [by_subset[subset] for subset in subsets]


@lru_cache(maxsize=8)
def _task_manager(name: str) -> TaskManager:
    """An index that knows a name: of the folders that begin like it, else of everything (many seconds)."""
    root = Path(lm_eval.tasks.__file__).parent
    likely = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and name.startswith(folder.name)]
    if likely:
        manager = TaskManager(include_path=list(likely), include_defaults=False)
        if name in manager.all_tasks:
            return manager
    manager = TaskManager()
    if name not in manager.all_tasks:
        hint = nearest(name, manager.all_tasks).partition("known: ")[0]  # the others are thousands
        raise UserError(
            f"leaderboard.tasks names '{name}', which lm-eval does not know; {hint}`lm_eval ls tasks` lists all"
        )
    return manager


def _leaves(manager: TaskManager, name: str, overrides: dict[str, Any]) -> Iterator[Definition]:
    entry = manager.task_index.get(name)
    if entry is None:
        raise UserError(
            f"leaderboard.tasks: lm-eval defines '{name}' inside its group; name other tasks one by one"
        )
    settings = entry.cfg or {}
    if entry.kind.name == "TAG":
        for member in sorted(entry.tags):
            yield from _leaves(manager, member, overrides)
    elif entry.kind.name == "GROUP":
        for member in settings["task"]:
            changes = {"task": member} if isinstance(member, str) else dict(member)
            child = changes.pop("task", None) or changes.pop("group")
            yield from _leaves(manager, child, overrides | changes)
    else:
        yield Definition(name, settings | overrides, overrides, manager)
