"""What a step tells while it runs: how far it is, and events (losses, doses) for the tracker."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Listener = Callable[[int, int | None, str], None]


class Progress:
    """Counts work done, and appends events to ``events.jsonl`` of the step's folder.

    ``listener(done, total, unit)`` is called at every advance; the engine draws bars with it.
    """

    def __init__(self, output: Path, *, listener: Listener | None = None) -> None:
        self.output = output
        self.resolved: dict[str, Any] = {}
        """What the stage found behind its sources (revision, precision, data set size); goes to the record."""
        self._events = output / "events.jsonl"
        self._listener = listener
        self._done = 0
        self._total: int | None = None
        self._unit = ""

    def start(self, total: int | None, *, unit: str, done: int = 0) -> None:
        """Begin a count of ``total`` units (``done`` of them finished by an earlier try)."""
        self._total, self._unit, self._done = total, unit, done
        self._tell()

    def advance(self, amount: int = 1) -> None:
        self._done += amount
        self._tell()

    def event(self, **values: Any) -> None:
        """Append one event, a flat mapping of JSON values; curves have a ``step``."""
        with self._events.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def _tell(self) -> None:
        if self._listener is not None:
            self._listener(self._done, self._total, self._unit)


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Events of a step in order; after a resume the later telling of a (kind, step) counts."""
    path = folder / "events.jsonl"
    if not path.is_file():
        return []
    told: dict[tuple[Any, Any], dict[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        try:
            event = json.loads(line)
        except json.JSONDecodeError:  # the last line of a killed process
            continue
        told[event.get("kind"), event.get("step", -number)] = event
    return sorted(told.values(), key=lambda event: (str(event.get("kind")), event.get("step", 0)))
