"""Benchmarks: lm-eval's tasks, each with its documents and its shots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.api.samplers import ContextSampler
from lm_eval.api.task import Task

from neft_lab.config import LeaderboardConfig, TaskConfig, TaskSource, UserError
from neft_lab.tasks.data_set import DataSet, NoDocuments
from neft_lab.tasks.documents import Documents, find_documents
from neft_lab.tasks.index import Definition, find_definitions

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
            holes[asked.task] = f"{reason}. To fill it: leaderboard.source=folder leaderboard.folder=FOLDER"
    return found, holes


def load_benchmark(asked: TaskConfig, *, source: TaskSource, folder: str | None) -> Benchmark:
    """Build one benchmark. Raises NoDocuments or UserError as ``load_benchmarks`` tells them."""
    definitions = find_definitions(asked.task, asked.subsets)
    order = _order(source, folder)
    where = Path(folder).expanduser() if folder else None
    subtasks = [_build(definition, asked.shots, order, where) for definition in definitions]
    return Benchmark(asked, [one.name for one in definitions] != [asked.task], subtasks)


def _order(source: TaskSource, folder: str | None) -> Sequence[TaskSource]:
    if source is not TaskSource.auto:
        return (source,)
    local = (TaskSource.folder,) if folder else ()
    return (*local, TaskSource.embedded, TaskSource.hub)


@dataclass(frozen=True)
class _Splits:
    """Where a task's questions and shots come from. ``proper``: the split that lm-eval draws its shots from."""

    evaluated: str
    proper: str | None
    shots: int

    @property
    def pool(self) -> Sequence[str]:
        """Splits for shots, best first; that of the questions last."""
        if not self.shots or self.proper is None:
            return ()
        others = [split for split in POOLS if split not in (self.proper, self.evaluated)]
        return tuple(dict.fromkeys((self.proper, *others, self.evaluated)))


def _build(definition: Definition, shots: int, order: Sequence[TaskSource], folder: Path | None) -> Subtask:
    settings = definition.settings
    splits = _read_splits(definition, shots)
    data_set = DataSet(settings["dataset_path"], settings.get("dataset_name"), definition.name)
    documents = find_documents(
        data_set, evaluated=splits.evaluated, pool=splits.pool, order=order, folder=folder
    )
    drawn = next((split for split in splits.pool if split in documents.splits), None)
    # lm-eval keeps a question out of its own shots only where both come from ``test_split``.
    leaks = drawn == splits.evaluated and settings.get("test_split") != drawn
    substitute = drawn if drawn is not None and (drawn != splits.proper or leaks) else None
    if substitute is not None and set(settings.get("fewshot_config") or {}) - {"sampler", "split"}:
        raise NoDocuments(
            f"{documents.location} has no split '{splits.proper}', whose shots have a form of their own"
        )
    task = _make_task(definition, documents, splits, own_shots=substitute is not None)
    _remember(task, documents.splits[splits.evaluated])
    if substitute is not None:
        others = _processed(task, documents.splits[substitute])
        task.sampler = _OtherQuestions(others, question=task.doc_to_text)
    task.set_fewshot_seed(SHOT_SEED)
    used = dict.fromkeys(split for split in (splits.evaluated, drawn) if split is not None)
    return Subtask(definition.name, task, documents, documents.digest(list(used)), substitute)


def _read_splits(definition: Definition, shots: int) -> _Splits:
    settings = definition.settings
    evaluated = settings.get("test_split") or settings.get("validation_split")
    if "dataset_path" not in settings or evaluated is None:
        told = f"leaderboard.tasks: {definition.name} is defined in Python, and only lm-eval's own command runs it"
        raise UserError(told)
    config = settings.get("fewshot_config") or {}
    proper = (
        config.get("split") or settings.get("fewshot_split") or settings.get("training_split") or evaluated
    )
    own_examples = "samples" in config and config.get("split") is None
    fixed = settings.get("num_fewshot") == 0  # the task's prompt holds its examples
    return _Splits(evaluated, None if own_examples else proper, 0 if fixed else shots)


def _make_task(definition: Definition, documents: Documents, splits: _Splits, *, own_shots: bool) -> Task:
    """A task over documents that are already read, with lm-eval's splits unless its shots are ours or none."""
    changed = dict(definition.overrides)
    changed |= {"custom_dataset": lambda **_: documents.splits, "num_fewshot": splits.shots}
    if own_shots or splits.shots == 0:
        # One split for questions and shots makes lm-eval hand the question to the sampler.
        changed |= {"training_split": None, "validation_split": None}
        no_shots = {"split": splits.evaluated, "process_docs": lambda rows: []}
        changed |= {"test_split": splits.evaluated, "fewshot_config": no_shots}
    group = {"group": f"{definition.name} alone", "task": [{**changed, "task": definition.name}]}
    task: Task = definition.manager.load([group])["tasks"][definition.name]
    return task


def _remember(task: Task, questions: Any) -> None:
    """Spare lm-eval a second mapping of the questions when it builds the requests."""
    process, mapped = task.config.process_docs, task.task_docs
    if process is not None:
        task.config.process_docs = lambda rows: mapped if rows is questions else process(rows)


def _processed(task: Task, rows: Any) -> list[dict[str, Any]]:
    process = task.config.process_docs
    return list(rows if process is None else process(rows))


class _OtherQuestions(ContextSampler):
    """Draws shots at random from documents that ask something else than the question at hand."""

    SPARE = 4
    """Documents drawn beyond the shots, in place of any that ask the same."""

    def __init__(
        self, documents: Sequence[dict[str, Any]], *, question: Callable[[dict[str, Any]], str]
    ) -> None:
        super().__init__(documents)
        self._question = question
        self._asked: dict[int, str] = {}

    def sample(
        self, n: int, eval_doc: dict[str, Any] | None = None, df: Any = None, **_: Any
    ) -> list[dict[str, Any]]:
        own = None if eval_doc is None else self._question(eval_doc)
        places = range(len(self.df))
        drawn = self.rnd.sample(places, min(n + self.SPARE, len(places)))
        kept = [place for place in drawn if self._asks(place) != own]
        if len(kept) < n:
            others = [place for place in places if self._asks(place) != own]
            if len(others) < n:
                told = f"leaderboard.tasks: {n} shots asked for, but only {len(others)} other questions are there"
                raise UserError(told)
            kept = self.rnd.sample(others, n)
        return [self.df[place] for place in kept[:n]]

    def _asks(self, place: int) -> str:
        if place not in self._asked:  # rendering a question costs more than all the rest
            self._asked[place] = self._question(self.df[place])
        return self._asked[place]
