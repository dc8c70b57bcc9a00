"""Reading another host's SQLite file on a shared disk without taking part in its locking.

SQLite's write-ahead log needs shared memory, which two hosts do not have. So a foreign file is read as it
lies, or, while its writer is at work, from a private copy of it and its log; if the log was folded into
the file meanwhile, both are read again.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

TRIES = 20
PAUSE = 0.1
"""Seconds between two tries."""


def query_foreign(file: Path, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Rows of a query on a file that another host may be writing.

    Raises:
        sqlite3.DatabaseError: the file stays unreadable.
    """
    for attempt in range(TRIES):
        try:
            before = _signature(file)
            rows = _read(file, query, values)
        except (sqlite3.DatabaseError, FileNotFoundError):
            if attempt == TRIES - 1:
                raise
        else:
            if _signature(file) == before:
                return rows
        time.sleep(PAUSE)
    raise sqlite3.DatabaseError(f"{file} changes too often to be read")


def _read(file: Path, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    log = _log(file)
    if not log.exists() or log.stat().st_size == 0:
        return _query(f"{file.absolute().as_uri()}?mode=ro&immutable=1", query, values)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / file.name
        shutil.copyfile(file, copy)
        shutil.copyfile(log, _log(copy))
        return _query(copy.absolute().as_uri(), query, values)


def _query(address: str, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(address, uri=True)) as database:
        return database.execute(query, tuple(values)).fetchall()


def _log(file: Path) -> Path:
    return file.with_name(file.name + "-wal")


def _signature(file: Path) -> tuple[int, int]:
    """Size and time of the file; the log may grow meanwhile, a torn end of it is no commit."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns
