"""Where ``conf/`` and ``sweeps/`` are: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE_DIR = Path(__file__).resolve().parent
_ROOT = PACKAGE_DIR if (PACKAGE_DIR / "conf").is_dir() else PACKAGE_DIR.parent

CONF_DIR = _ROOT / "conf"
SWEEPS_DIR = _ROOT / "sweeps"
PAPER_NUMBERS = (_ROOT if _ROOT == PACKAGE_DIR else _ROOT / "results") / "paper" / "numbers.csv"
STARTER_DIR = PACKAGE_DIR / "starter"


def cache_dir() -> Path:
    """The folder for what is made once per machine: converted models, digests of large files."""
    chosen = os.environ.get("NEFT_LAB_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "neft_lab"
