"""What the command shows: bars with time left for the sweep and the step, and one line per finished step."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from neft_lab.plan import Step

GUESSED_SECONDS = {"train": 50.0, "generate": 15.0, "describe": 1.0, "judge": 25.0,
                   "leaderboard": 25.0, "analyze": 12.0}  # fmt: skip
"""Relative lengths of stages until one of each has been measured."""


class TerminalReporter:
    """Draws bars on a terminal; elsewhere only lines. Use as a context."""

    def __init__(self, steps: Sequence[Step], console: Console) -> None:
        self._console = console
        self._left = list(steps)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(), TextColumn("{task.fields[left]}"), console=console, transient=True,
            disable=not console.is_terminal,
        )  # fmt: skip
        self._sweep = self._bars.add_task("sweep", total=len(steps), unit="steps", left="")
        self._step: TaskID | None = None
        self._began = 0.0
        self._first: tuple[float, int] | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, step: Step) -> None:
        self._began, self._first = time.perf_counter(), None
        self._step = self._bars.add_task(f"{step.stage} {step.name}", total=None, unit="", left="")
        self._bars.update(self._sweep, left=f"about {_clock(self._remaining())} left")

    def progress(self, done: int, total: int | None, unit: str) -> None:
        if self._step is None:
            return
        now = time.perf_counter()
        if self._first is None:
            self._first = (now, done)
        begun, already = self._first
        left = ""
        if total and done > already:
            left = f"{_clock((now - begun) / (done - already) * (total - done))} left"
        self._bars.update(self._step, completed=done, total=total, unit=unit, left=left)

    def finish(self, step: Step, *, seconds: float) -> None:
        self.seconds[step.stage].append(seconds)
        self._end(step, f"{step.stage:<12} {step.key} {step.name} {seconds:.1f} s", "")

    def fail(self, step: Step, message: str) -> None:
        self._end(step, f"{step.stage:<12} {step.key} {step.name} FAILED: {message}", "bold red")

    def block(self, step: Step, behind: str) -> None:
        self._end(step, f"{step.stage:<12} {step.key} {step.name} not run: it needs {behind}", "yellow")

    def _end(self, step: Step, line: str, style: str) -> None:
        if self._step is not None:
            self._bars.remove_task(self._step)
            self._step = None
        self._left = [other for other in self._left if other.key != step.key]
        self._bars.advance(self._sweep)
        self._console.print(Text(line, style=style), soft_wrap=True)

    def _remaining(self) -> float:
        measured = {stage: sum(values) / len(values) for stage, values in self.seconds.items()}
        ratios = [value / GUESSED_SECONDS[stage] for stage, value in measured.items()]
        scale = sum(ratios) / len(ratios) if ratios else 1.0
        return sum(measured.get(step.stage, GUESSED_SECONDS[step.stage] * scale) for step in self._left)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def time_line(seconds: dict[str, list[float]]) -> str:
    """Where the time went, by stage."""
    parts = [f"{stage} {sum(values):.0f} s" for stage, values in seconds.items() if values]
    total = sum(map(sum, seconds.values()))
    return f"{total:.0f} s in all: " + ", ".join(parts)
