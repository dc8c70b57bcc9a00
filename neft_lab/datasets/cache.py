"""Tokenised examples on disk, named by all that decides their content; whole or absent, rebuilt when damaged."""

from __future__ import annotations

import json
import os
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from filelock import FileLock
from numpy.typing import NDArray

from neft_lab import paths

LIMIT = 4 << 30
"""Bytes of all files together; the ones used longest ago go first."""
STALE = 3600.0
"""Seconds after which an unfinished file is taken for what a kill left."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Entry:
    """What one file holds: named arrays, and facts that are plain JSON."""

    arrays: Arrays
    facts: dict[str, Any]


def load_or_build(digest: str, build: Callable[[], Entry], *, limit: int = LIMIT) -> Entry:
    """The entry of that name, built once by whichever process comes first; the others wait for it."""
    folder = paths.cache_dir() / "examples"
    path = folder / f"{digest}.npz"
    found = _load(path)
    if found is not None:
        return found
    with _lock(folder / f"{digest[:2]}.lock"):
        found = _load(path)
        if found is None:
            found = build()
            with suppress(OSError):  # a cache that cannot be written costs time, nothing else
                _save(path, found)
                _prune(folder, path, limit)
    return found


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """At most 256 lock files; where none can be made (a read-only home), every process builds for itself."""
    lock = FileLock(path)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _load(path: Path) -> Entry | None:
    try:
        with path.open("rb") as file, numpy.load(file, allow_pickle=False) as zipped:
            arrays = {name: zipped[name] for name in zipped.files}  # reading compares the zip's checksums
        facts = json.loads(arrays.pop("facts").tobytes())
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return None
    with suppress(OSError):
        os.utime(path)
    return Entry(arrays, facts)


def _save(path: Path, entry: Entry) -> None:
    facts = numpy.frombuffer(json.dumps(entry.facts).encode(), numpy.uint8)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            numpy.savez_compressed(file, allow_pickle=False, **entry.arrays, facts=facts)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _prune(folder: Path, newest: Path, limit: int) -> None:
    for partial in folder.glob(".*.partial"):
        if time.time() - partial.stat().st_mtime > STALE:
            partial.unlink(missing_ok=True)
    sizes = {path: path.stat() for path in folder.glob("*.npz")}
    total = sum(status.st_size for status in sizes.values())
    for path in sorted(sizes.keys() - {newest}, key=lambda path: sizes[path].st_mtime):
        if total <= limit:
            return
        path.unlink(missing_ok=True)
        total -= sizes[path].st_size
