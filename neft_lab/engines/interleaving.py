"""Judge steps that ask a service: after all outputs, and their questions in turn.

A judge behind a service changes from one hour to the next. Asked cell by cell it would treat the first arm of a
sweep otherwise than the last; asked in turn it treats all arms alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from neft_lab.plan import Step
from neft_lab.progress import Listener
from neft_lab.step import StepFailed, run_together
from neft_lab.store import Store


def split_asked(steps: Sequence[Step]) -> tuple[list[Step], list[Step]]:
    """Steps to be run as they come, and the judge steps that ask a service, which nothing waits for."""
    asked = [step for step in steps if step.stage == "judge" and step.inputs.judge.kind.over_http]
    keys = {step.key for step in asked}
    return [step for step in steps if step.key not in keys], asked


def ask_together(asked: Sequence[Step], store: Store, listener: Listener | None = None) -> dict[str, str]:
    """Ask for all verdicts of judge steps whose outputs are there, arms in turn, into the ledger.

    Returns keys of steps that cannot be finished now, with the reason; the others are then run as usual and find
    their verdicts.
    """
    ready = [step.key for step in asked if _is_ready(step, store)]
    return run_together(store, "judge", ready, listener=listener)


def _is_ready(step: Step, store: Store) -> bool:
    if store.find(step.stage, step.key) is not None:
        return False
    return all(store.find(stage, key) is not None for stage, key in step.needs.items())


class Interleaved:
    """Judge steps of one run of an engine: the first one that is run asks for all of them."""

    def __init__(self, asked: Sequence[Step], store: Store) -> None:
        self._asked, self._store = list(asked), store
        self._failed: dict[str, str] | None = None

    def prepare(self, step: Step, listener: Listener) -> None:
        """Before a step is run. Raises StepFailed where the verdicts it needs are not to be had now."""
        if all(step.key != one.key for one in self._asked):
            return
        if self._failed is None:
            self._failed = ask_together(self._asked, self._store, listener)
        if step.key in self._failed:
            raise StepFailed(self._failed[step.key])
