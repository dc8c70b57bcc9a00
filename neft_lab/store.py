"""Keys, folders, records and locks: where the answers live, and what proves that a step is done.

``results/work/<stage>-<key>/`` holds a step while it runs; it is renamed to ``results/<stage>/<name>-<key>/``
once ``record.json`` stands in it. Only the record makes a step done, and the rename is the last act.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1
KEY_DIGITS = 12


def canonical_json(value: Any) -> str:
    """One text for equal values: sorted keys, no spaces; refuses what JSON cannot say exactly."""
    return json.dumps(
        _canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_text(name): _canonical(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    raise TypeError(f"a key is made of str, int, finite float, bool, None, list and dict; got {value!r}")


def _text(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a key's field names are strings, got {name!r}")
    return name


def make_key(payload: Mapping[str, Any]) -> str:
    """First 12 hex digits of the SHA-256 of the payload's canonical JSON."""
    return hashlib.sha256(canonical_json(payload).encode()).hexdigest()[:KEY_DIGITS]


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is whole or absent: another name, sync, rename."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is whole or absent: another name, sync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def sync_folder(folder: Path) -> None:
    """Make everything below a folder durable: every file, then every folder, children first."""
    for where, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(where) / name)
        _sync(Path(where))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class Store:
    """The results folder of one project."""

    root: Path

    def work(self, stage: str, key: str) -> Path:
        """Where a step lives while it runs."""
        return self.root / "work" / f"{stage}-{key}"

    def lock_file(self, stage: str, key: str) -> Path:
        return self.root / "work" / f"{stage}-{key}.lock"

    def done(self) -> dict[tuple[str, str], Path]:
        """Folders of all finished steps by (stage, key); one reading of the disk."""
        found: dict[tuple[str, str], Path] = {}
        if not self.root.is_dir():
            return found
        for stage in self.root.iterdir():
            if stage.name in ("work", "sweeps", "paper") or not stage.is_dir():
                continue
            for folder in stage.iterdir():
                if (folder / "record.json").is_file():
                    found[stage.name, folder.name.rsplit("-", 1)[-1]] = folder
        return found

    def find(self, stage: str, key: str) -> Path | None:
        """The folder of a finished step, or None."""
        parent = self.root / stage
        if not parent.is_dir():
            return None
        for folder in parent.glob(f"*-{key}"):
            if (folder / "record.json").is_file():
                return folder
        return None

    def error(self, stage: str, key: str) -> dict[str, Any] | None:
        """What the last failure of a step said, or None."""
        path = self.work(stage, key) / "error.json"
        if not path.is_file():
            return None
        with suppress(json.JSONDecodeError):
            error: dict[str, Any] = read_json(path)
            return error
        return {"message": f"{path} cannot be read"}

    def publish(self, stage: str, key: str, name: str, record: Mapping[str, Any]) -> Path:
        """Write the record into the step's work folder and move the folder to its final place."""
        work = self.work(stage, key)
        (work / "error.json").unlink(missing_ok=True)
        sync_folder(work)
        write_json(work / "record.json", record)
        final = self.root / stage / f"{name}-{key}"
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():  # left by a kill between an older program's rename and its record
            shutil.rmtree(final)
        work.rename(final)
        _sync(final.parent)
        return final

    def adopt(self, stage: str, key: str, name: str) -> Path | None:
        """Finish the publication of a step that was killed after its record was written."""
        work = self.work(stage, key)
        if not (work / "record.json").is_file():
            return None
        return self.publish(stage, key, name, read_json(work / "record.json"))
