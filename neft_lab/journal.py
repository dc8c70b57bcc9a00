"""An append-only file of finished batches, so that a killed pass over them goes on where it stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any


class BatchJournal:
    """Results of whole batches under one plan; a file of another plan is started anew.

    Every batch is on disk when `append` returns. What a kill tore is dropped when the file is opened.
    """

    def __init__(self, path: Path, *, plan: str) -> None:
        self.finished: dict[int, list[Any]] = {}
        """Batch number -> its values, JSON types."""
        good = self._read(path, plan)
        self._stream = path.open("r+b" if path.exists() else "w+b")
        self._stream.truncate(good)
        self._stream.seek(good)
        if good == 0:
            self._write({"plan": plan})

    def append(self, batch: int, values: list[Any]) -> None:
        """Store one finished batch."""
        self._write({"batch": batch, "values": values})
        self.finished[batch] = values

    def __enter__(self) -> BatchJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def _read(self, path: Path, plan: str) -> int:
        """Take over what is whole; returns the number of bytes that may stay."""
        if not path.exists():
            return 0
        lines = path.read_bytes().split(b"\n")[:-1]  # the last one has no line end: torn, or empty
        good = 0
        for number, line in enumerate(lines):
            try:
                row = json.loads(line)
            except ValueError:
                break
            if number == 0 and row.get("plan") != plan:
                return 0
            if number > 0:
                self.finished[row["batch"]] = row["values"]
            good += len(line) + 1
        return good

    def _write(self, row: dict[str, object]) -> None:
        self._stream.write(json.dumps(row).encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
