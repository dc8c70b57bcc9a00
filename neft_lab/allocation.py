"""How this process asks the kernel for memory."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
"""Parameters of glibc's ``mallopt(3)``."""
TOP = 2**28


def keep_freed_memory() -> None:
    """Let freed blocks be used again, where the C library is glibc; elsewhere nothing happens.

    By default glibc maps every large block anew and gives it back when it is freed, so that each activation of a
    training on the CPU costs its page faults again: a sixth of a step in float32, a fifth in bfloat16
    (``benchmarks/training.py``). Peak memory grows by about one percent, and is kept until the process ends.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):  # no glibc under that name: musl
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for parameter, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, TOP)):
            mallopt(parameter, value)
