"""Real processes of the program, to be waited for or killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.warm"])


def _run(arguments: Sequence[str], folder: str, log: str, environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    # a shell starts background jobs with SIGINT ignored, and children inherit that; a user's terminal does not
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from neft_lab.run import main

    sys.exit(main(arguments))


def start(arguments: Sequence[str], folder: Path, **environment: str) -> BaseProcess:
    """Start ``python -m neft_lab.run`` in a folder; its output goes to ``log.txt`` there."""
    process = CONTEXT.Process(
        target=_run, args=(list(arguments), str(folder), str(folder / "log.txt"), environment)
    )
    process.start()
    return process


def finish(arguments: Sequence[str], folder: Path, *, code: int = 0, **environment: str) -> str:
    """Run to the end, require the exit code; what was printed."""
    process = start(arguments, folder, **environment)
    process.join(timeout=240)
    text = (folder / "log.txt").read_text()
    assert process.exitcode == code, text
    return text


def kill_when(
    condition: Callable[[], bool], arguments: Sequence[str], folder: Path, *, seconds: float = 120
) -> bool:
    """SIGKILL the program as soon as a condition holds; False when it ended before."""
    process = start(arguments, folder)
    end = time.monotonic() + seconds
    while process.is_alive() and time.monotonic() < end:
        if condition():
            os.kill(int(process.pid or 0), signal.SIGKILL)
            process.join()
            return True
        time.sleep(0.002)
    assert not process.is_alive(), "the condition never held"
    return False
