"""A finished sweep without its weights, as a results folder of its own: small enough to be committed and sent."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neft_lab.config import UserError
from neft_lab.lock.content import LOCK
from neft_lab.lock.files import shared_bytes, step_files
from neft_lab.lock.verify import compare_file, load_lock
from neft_lab.store import Store

ARCHIVE = ".tar.gz"


def bundle(folder: Path, target: Path) -> list[str]:
    """Copy a sweep's folder and its steps' folders, without weights and without the folders of this machine.

    target: a folder, or a file ending in .tar.gz. A folder may hold other bundles, and shares steps with them.
    Returns what is not as locked, a line each; then nothing is written. Raises UserError for a target in use.
    """
    lock = load_lock(folder)
    files, faults = _gather(lock, folder.resolve())
    if faults:
        return faults
    if target.name.endswith(ARCHIVE):
        _write_archive(files, target)
    else:
        _write_folder(files, target, f"sweeps/{folder.resolve().name}")
    return []


def _gather(lock: Mapping[str, Any], folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Path within the bundle -> file, and what is not as locked."""
    done = Store(folder.parents[1]).done()
    files: dict[str, Path] = {}
    faults = []
    for where, source, digests in _folders(lock, folder, done):
        for name, digest in digests.items():
            fault = compare_file(source / name, digest)
            faults += [f"{fault}: {where}/{name}"] if fault else []
            files[f"{where}/{name}"] = source / name
    own = (name for name in step_files(folder) if "/" not in name and not name.endswith(".partial"))
    files |= {f"sweeps/{folder.name}/{name}": folder / name for name in own}
    return files, faults


def _folders(
    lock: Mapping[str, Any], folder: Path, done: Mapping[tuple[str, str], Path]
) -> Iterator[tuple[str, Path, Mapping[str, Any]]]:
    for step in lock["steps"]:
        if step["status"] == "done":
            where = f"{step['stage']}/{step['name']}-{step['key']}"
            yield where, done.get((step["stage"], step["key"]), folder / "none"), step["files"]
    yield f"sweeps/{folder.name}", folder, lock["published"]


def _write_folder(files: Mapping[str, Path], target: Path, sweep: str) -> None:
    if target.exists() and not target.is_dir():
        raise UserError(f"--to must name a folder or a {ARCHIVE} file, got the file '{target}'")
    if (target / sweep).exists():
        raise UserError(f"--to '{target}' holds {sweep} already; name another folder, or remove that one")
    contents = {name: shared_bytes(path) for name, path in files.items()}
    for name, content in contents.items():
        path = target / name
        if path.is_file() and path.read_bytes() != content:
            raise UserError(f"--to '{target}' holds another {name}; name another folder")
    for name, content in sorted(contents.items(), key=lambda pair: pair[0].endswith((LOCK, "record.json"))):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)


def _write_archive(files: Mapping[str, Path], target: Path) -> None:
    """Equal sweeps give equal bytes: no times, no owners."""
    if target.exists():
        raise UserError(f"--to '{target}' exists already; name another file, or remove it")
    top = target.name.removesuffix(ARCHIVE)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with (
            partial.open("wb") as file,
            gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for name, path in sorted(files.items()):
                content = shared_bytes(path)
                entry = tarfile.TarInfo(f"{top}/{name}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
