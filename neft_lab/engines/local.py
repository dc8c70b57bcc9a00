"""Steps in this process, one after another; models and tokenised data loaded once stay warm between them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from neft_lab.engines import Reporter
from neft_lab.plan import Step
from neft_lab.step import StepFailed, run_step
from neft_lab.store import Store


class LocalEngine:
    def run(self, steps: Sequence[Step], store: Store, reporter: Reporter) -> None:
        """Run steps in the order given, upstream first; what stands behind a failure is told as blocked."""
        lost: dict[str, str] = {}
        for step in steps:
            behind = next((lost[key] for key in step.needs.values() if key in lost), None)
            if behind is not None:
                lost[step.key] = behind
                reporter.block(step, behind)
                continue
            reporter.begin(step)
            started = time.perf_counter()
            try:
                run_step(store, step.stage, step.key, listener=reporter.progress)
            except StepFailed as error:
                lost[step.key] = f"{step.stage} {step.name}"
                reporter.fail(step, str(error))
            else:
                reporter.finish(step, seconds=time.perf_counter() - started)
