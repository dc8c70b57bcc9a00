"""What a W&B run file says, read back from the bytes that wandb wrote.

The file is a log in LevelDB's format: blocks of 32 KiB, chunks of (checksum, length, kind), of which kinds 1 and 4
end a record; each record is one protobuf message.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEADER, BLOCK, CHUNK = 7, 32 * 1024, struct.Struct("<IHB")


@dataclass
class WrittenRun:
    """One run file."""

    folder: Path
    id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    notes: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    step_of: dict[str, str] = field(default_factory=dict)
    """Name or pattern of a metric -> the metric that is its horizontal axis."""
    exit_codes: list[int] = field(default_factory=list)
    starts: int = 0

    def table(self, name: str) -> dict[str, Any]:
        """A logged table: ``columns`` and ``data``."""
        found: dict[str, Any] = json.loads(self.media(name).read_text(encoding="utf-8"))
        return found

    def media(self, name: str) -> Path:
        """The file of a logged table or figure."""
        return self.folder / "files" / self.summary[name]["path"]


def read_runs(folder: Path) -> list[WrittenRun]:
    """All runs below a results folder in order of their ids."""
    return sorted(map(read_run, (folder / "wandb").glob("*run-*/*.wandb")), key=lambda run: run.id)


def read_run(path: Path) -> WrittenRun:
    """One ``.wandb`` file."""
    from wandb.proto import wandb_internal_pb2

    run = WrittenRun(path.parent)
    for data in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        _take(run, record)
    return run


def _records(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B"
    place, record = HEADER, b""
    while place + CHUNK.size <= len(data):
        left = BLOCK - place % BLOCK
        if left < CHUNK.size:
            place += left
            continue
        _, length, kind = CHUNK.unpack_from(data, place)
        place += CHUNK.size
        record += data[place : place + length]
        place += length
        if kind in (1, 4):
            yield record
            record = b""


def _take(run: WrittenRun, record: Any) -> None:
    match record.WhichOneof("record_type"):
        case "run":
            said = record.run
            run.starts += 1
            run.id, run.name, run.group, run.job_type = (
                said.run_id,
                said.display_name,
                said.run_group,
                said.job_type,
            )
            run.notes, run.tags = said.notes, list(said.tags)
            _update(run.config, said.config.update)
        case "config":
            _update(run.config, record.config.update)
        case "summary":
            _update(run.summary, record.summary.update)
        case "history":
            row: dict[str, Any] = {}
            _update(row, record.history.item)
            run.history.append({name: value for name, value in row.items() if not name.startswith("_")})
        case "metric" if record.metric.step_metric:
            run.step_of[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        case "exit":
            run.exit_codes.append(record.exit.exit_code)


def _update(values: dict[str, Any], items: Any) -> None:
    for item in items:
        *above, last = list(item.nested_key) or [item.key]
        place = values
        for name in above:
            place = place.setdefault(name, {})
        place[last] = json.loads(item.value_json)
