"""How missing steps are run: one interface, one module per engine."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from neft_lab.store import Store

if TYPE_CHECKING:
    from neft_lab.plan import Step

ENGINES = {"local": "neft_lab.engines.local:LocalEngine"}


class Reporter(Protocol):
    """Told what happens to steps; draws bars, writes the log."""

    def begin(self, step: Step) -> None: ...
    def progress(self, done: int, total: int | None, unit: str) -> None: ...
    def finish(self, step: Step, *, seconds: float) -> None: ...
    def fail(self, step: Step, message: str) -> None: ...
    def block(self, step: Step, behind: str) -> None: ...


class Engine(Protocol):
    """Runs steps, each after those it needs; a failed one blocks only what depends on it."""

    def run(self, steps: Sequence[Step], store: Store, reporter: Reporter) -> None: ...


def make_engine(kind: str) -> Engine:
    """The engine of a kind of ``engine.kind``."""
    module, _, name = ENGINES[kind].partition(":")
    engine: Engine = getattr(importlib.import_module(module), name)()
    return engine
