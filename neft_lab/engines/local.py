"""Steps in this process, one after another; models and tokenised data loaded once stay warm between them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from neft_lab.engines import Reporter
from neft_lab.engines.interleaving import Interleaved, split_asked
from neft_lab.plan import Step
from neft_lab.step import StepFailed, run_step
from neft_lab.store import Store


class LocalEngine:
    def run(self, steps: Sequence[Step], store: Store, reporter: Reporter) -> None:
        """Run steps in the order given, upstream first; what stands behind a failure is told as blocked.

        Steps that ask a service for verdicts come last, when the outputs of all of them are there.
        """
        others, asked = split_asked(steps)
        lost: dict[str, str] = {}
        together = Interleaved(asked, store)
        for step in (*others, *asked):
            behind = next((lost[key] for key in step.needs.values() if key in lost), None)
            if behind is not None:
                lost[step.key] = behind
                reporter.block(step, behind)
                continue
            reporter.begin(step)
            started = time.perf_counter()
            try:
                together.prepare(step, reporter.progress)
                run_step(store, step.stage, step.key, listener=reporter.progress)
            except StepFailed as error:
                lost[step.key] = f"{step.stage} {step.name}"
                reporter.fail(step, str(error))
            else:
                reporter.finish(step, seconds=time.perf_counter() - started)
