"""Sweeps to Weights & Biases: online when logged in, else on disk for ``wandb sync``.

A run is written whole every time and never resumed: W&B replaces a run when its id comes again, online and by sync,
so that telling it twice adds nothing. wandb itself is imported only when there is something to send.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from neft_lab.config import TrackerConfig
from neft_lab.tracking.account import Mode, logged_in, reachable, server, wanted_mode
from neft_lab.tracking.content import RunContent, TrackedSweep, describe
from neft_lab.tracking.flat import slug
from neft_lab.tracking.ledger import Ledger, Sent
from neft_lab.tracking.redaction import Redactor
from neft_lab.tracking.writing import abandon_session, run_folders, write_run

PATIENCE = 60.0
"""Seconds to wait for another process that tracks the same sweep."""


class WandbTracker:
    """Replays sweeps to W&B; ``folder`` is the results folder, wandb's files go to its ``wandb/``."""

    def __init__(self, config: TrackerConfig, folder: Path) -> None:
        self._config = config
        self._folder = folder.absolute()
        self._redactor = Redactor(os.environ)
        self._mode: Mode = "offline"

    def track(self, sweep: TrackedSweep) -> None:
        """Send the runs of a sweep that are new or changed; trouble is one warning on standard error."""
        try:
            self._mode = wanted_mode(self._config.mode)
            if self._mode == "disabled":
                return
            home = self._folder / "sweeps" / sweep.name
            home.mkdir(parents=True, exist_ok=True)
            with FileLock(home / ".tracked.lock", timeout=PATIENCE):
                self._replay(describe(sweep, self._redactor), Ledger(home / "tracked.json"), sweep.name)
        except Exception as error:  # a tracker must never cost a sweep its results
            _warn(
                f"not tracked: {self._reason(error)}; the results are complete without it, run again to retry"
            )

    def _replay(self, runs: Sequence[RunContent], ledger: Ledger, sweep: str) -> None:
        digests = {run.id: f"{run.digest()} {self._config.entity}/{self._config.project}" for run in runs}
        waiting = [run for run in runs if self._lacks(ledger, run.id, digests[run.id])]
        if waiting and self._mode == "online":
            self._check_account()
            waiting = [run for run in waiting if self._lacks(ledger, run.id, digests[run.id])]
        addresses = []
        for run in waiting:
            addresses.append(self._send(run))
            ledger.add(run.id, Sent(digests[run.id], self._mode))
        if online := list(filter(None, addresses)):
            print(f"W&B: {len(online)} runs at {online[0]}")
        if len(online) < len(addresses):
            print(
                f"W&B: {len(addresses) - len(online)} runs on disk; to upload them: {self._how_to_sync(sweep)}"
            )

    def _lacks(self, ledger: Ledger, run: str, digest: str) -> bool:
        """Whether a run must be sent: new, changed, or so far only on this disk although the server can be had."""
        sent = ledger.get(run)
        if sent is None or sent.digest != digest:
            return True
        return sent.mode == "offline" and self._mode == "online" and not self._synced(run)

    def _synced(self, run: str) -> bool:
        return any((found / f"run-{run}.wandb.synced").is_file() for found in run_folders(self._folder, run))

    def _check_account(self) -> None:
        if not logged_in():
            self._go_offline("not logged in (wandb login)")
        elif not reachable(server()):
            self._go_offline(f"no answer from {self._redactor.text(server())}")

    def _go_offline(self, why: str) -> None:
        _warn(f"W&B: {why}; going on offline")
        self._mode = "offline"

    def _send(self, run: RunContent) -> str:
        if self._mode == "online":
            try:
                return self._write(run)
            except Exception as error:
                self._go_offline(self._reason(error))
                abandon_session()
        return self._write(run)

    def _write(self, run: RunContent) -> str:
        return write_run(
            run, config=self._config, folder=self._folder, mode=self._mode, redactor=self._redactor
        )

    def _how_to_sync(self, sweep: str) -> str:
        where = self._folder / "wandb"
        near = where.relative_to(Path.cwd()) if where.is_relative_to(Path.cwd()) else where
        return f"wandb sync {shlex.quote(str(near))}/offline-run-*-{slug(sweep)}"

    def _reason(self, error: Exception) -> str:
        lines = [line.strip() for line in self._redactor.text(str(error)).splitlines() if line.strip()]
        return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)
