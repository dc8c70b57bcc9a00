"""Where ``conf/`` and ``sweeps/`` are: beside the package in a checkout, inside it in a wheel; paths told by name."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath

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


FOLDERS = re.compile(r"""(?<=')~?/[^'\n]*/(?=[^'/\n]+')|(?<![\w.:/~-])~?/(?:[^/,\]\s'")]+/)+""")
"""The folders above a file, where a text names them from the root or from somebody's home."""


def is_path(value: object) -> bool:
    """Whether a value is the path of a file on one machine, and no sentence that begins with one."""
    return isinstance(value, str) and value.startswith(("/", "~/")) and not re.search("[;:'\"\\n]", value)


def without_folders(text: str) -> str:
    """A text that may leave this machine: files by their names, without the folders above them."""
    return PurePath(text).name or text if is_path(text) else FOLDERS.sub("", text)
