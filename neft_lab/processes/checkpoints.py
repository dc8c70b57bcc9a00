"""What a training can go on from, also where another number of processes left it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neft_lab.store import read_json

COUNTS = "noise-{rank}.json"
"""What each process has counted, in every checkpoint."""
SHARED = ("tokens",)
"""Counts that every process has of all of them."""


@dataclass(frozen=True)
class Resumable:
    """A whole checkpoint."""

    folder: Path
    processes: int
    """How many wrote it."""
    sharded: bool

    def set_aside(self) -> None:
        """Give it a name under which nobody goes on from it; one that was set aside before is dropped."""
        for older in self.folder.parent.glob("set-aside-*"):
            shutil.rmtree(older)
        self.folder.rename(self.folder.with_name(f"set-aside-{self.folder.name}"))


def find_resumable(root: Path) -> Resumable | None:
    """The last whole checkpoint below a folder, or None."""
    from transformers.trainer_utils import get_last_checkpoint

    last = get_last_checkpoint(str(root)) if root.is_dir() else None
    if last is None:
        return None
    folder = Path(last)
    return Resumable(
        folder,
        processes=len(list(folder.glob(COUNTS.format(rank="*")))),
        sharded=any(folder.glob("pytorch_model_fsdp_*")),
    )


def read_counts(found: Resumable, *, rank: int, processes: int) -> dict[str, Any]:
    """What a process goes on counting from: its own counts, if as many processes go on as wrote the checkpoint.

    Else the first one takes over all counts, and the others begin at zero.
    """
    if found.processes == processes:
        own: dict[str, Any] = read_json(found.folder / COUNTS.format(rank=rank))
        return own
    told = [read_json(found.folder / COUNTS.format(rank=writer)) for writer in range(found.processes)]
    total: dict[str, Any] = _add(told if rank == 0 else [_times_zero(told[0])])
    return total | {name: told[0][name] for name in SHARED}


def _add(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, dict):
        return {name: _add([value[name] for value in values]) for name in first}
    if isinstance(first, list):
        return [_add(items) for items in zip(*values, strict=True)]
    return sum(values)


def _times_zero(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _times_zero(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_times_zero(item) for item in value]
    return 0 * value
