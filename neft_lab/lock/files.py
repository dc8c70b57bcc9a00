"""Files of a finished step as they may leave this machine, and their digests.

Records name the files they were made from, with the folders above them. Those folders are cut before a digest is
taken and before a file is copied, so that one digest holds on every machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neft_lab.paths import without_folders
from neft_lab.sources import file_digest

Digests = dict[str, dict[str, Any]]
"""Path below a folder -> bytes and sha256."""

TOLD = {"record.json", "step.json", "base.json", "model.json", "finished.json", "results.json", "plan.json"}
"""Files that the program itself fills, which may name files of this machine; all others hold texts and numbers."""
WEIGHTS = ("model", "adapter", "checkpoints")
"""Folders of a training that no table needs: weights, with their tokenizer."""


def step_files(folder: Path) -> Iterator[str]:
    """Paths of all files below a folder, in one order everywhere."""
    yield from sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def is_weight(name: str) -> bool:
    """Whether a file of a step is left out of a bundle."""
    return name.split("/", 1)[0] in WEIGHTS


def shared_bytes(path: Path) -> bytes:
    """A file without the folders of this machine; what names none is unchanged."""
    content = path.read_bytes()
    if path.name not in TOLD:
        return content
    value = json.loads(content)
    told = without_places(value)
    if told == value:
        return content
    return (json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def without_places(value: Any) -> Any:
    """JSON types with every file told by its name."""
    if isinstance(value, str):
        return without_folders(value)
    if isinstance(value, Mapping):
        return {without_folders(name): without_places(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(item) for item in value]
    return value


def digest_of(path: Path) -> dict[str, Any]:
    """Bytes and SHA-256 of a file as it may be shared; read anew every time."""
    content = shared_bytes(path)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def weight_digest(path: Path) -> dict[str, Any]:
    """Bytes and SHA-256 of a file of weights; large ones are remembered by path, size and time."""
    return {"bytes": path.stat().st_size, "sha256": file_digest(path).removeprefix("sha256:")}
