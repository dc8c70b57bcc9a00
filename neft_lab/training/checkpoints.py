"""Checkpoints of a training in its folder: written whole or not at all, one of them kept, the last one found again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from neft_lab.processes import Resumable, find_resumable
from neft_lab.processes.checkpoints import COUNTS
from neft_lab.progress import Progress
from neft_lab.store import sync_folder, write_json

PARTIAL = "partial"


class Checkpoints:
    """The checkpoints below a folder; the calls are collective, and the first process moves the files."""

    def __init__(self, root: Path, accelerator: Any) -> None:
        self._root = root
        self._accelerator = accelerator
        self.writing: Path | None = None
        """Where Trainer must put the checkpoint that is being written; None between checkpoints."""

    def write(self, step: int, counts: Mapping[str, Any], save: Callable[[], None]) -> None:
        """Write under another name, sync, rename, and only then drop the older ones.

        save: puts a folder ``checkpoint-<step>`` below ``writing``; counts: this process's, written beside it.
        """
        name, partial = f"checkpoint-{step}", self._root / PARTIAL
        if self._accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        self._accelerator.wait_for_everyone()
        self.writing = partial
        try:
            save()
        finally:
            self.writing = None
        write_json(partial / name / COUNTS.format(rank=self._accelerator.process_index), dict(counts))
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            self._publish(partial, name)
        self._accelerator.wait_for_everyone()

    def _publish(self, partial: Path, name: str) -> None:
        sync_folder(partial)
        os.rename(partial / name, self._root / name)
        shutil.rmtree(partial)
        for older in self._root.glob("checkpoint-*"):
            if older.name != name:
                shutil.rmtree(older)

    def find(self, *, sharded: bool, progress: Progress) -> Resumable | None:
        """The last one that this training can read; whole and sharded weights are stored differently."""
        found = find_resumable(self._root)
        if found is None:
            return None
        fits, processes = found.sharded == sharded, int(self._accelerator.num_processes)
        if not fits or found.processes != processes:
            progress.event(
                kind="resume", checkpoint=found.folder.name, set_aside=not fits, sharded=found.sharded,
                processes_before=found.processes, processes=processes,
            )  # fmt: skip
        self._accelerator.wait_for_everyone()
        if not fits and self._accelerator.is_main_process:
            found.set_aside()
        self._accelerator.wait_for_everyone()
        return found if fits else None
