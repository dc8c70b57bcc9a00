"""On what a step ran: device type, precision, versions, commit. Kept in its record."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from functools import lru_cache
from typing import Any

from neft_lab.paths import PACKAGE_DIR


@lru_cache
def package_versions() -> dict[str, str]:
    """Every installed distribution and its version."""
    found = {
        item.metadata["Name"]: item.version
        for item in importlib.metadata.distributions()
        if item.metadata["Name"]
    }
    return dict(sorted(found.items(), key=lambda pair: pair[0].lower()))


@lru_cache
def git_commit() -> str | None:
    """The checkout's commit, with ``+changes`` where files differ from it; None outside a checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+changes" if changed else commit


def _git(*words: str) -> str:
    command = ["git", "-C", str(PACKAGE_DIR.parent), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()


def environment_class(device: str) -> dict[str, Any]:
    """What must agree before two arms are compared: device type, machine type, versions of torch and transformers."""
    versions = package_versions()
    return {
        "device": device,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": versions.get("torch"),
        "transformers": versions.get("transformers"),
    }


def resolve_device(asked: str) -> str:
    """``auto`` to cuda where a GPU answers, else cpu. Asks torch only where torch is installed."""
    if asked != "auto":
        return asked
    try:
        import torch
    except ModuleNotFoundError:
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"
