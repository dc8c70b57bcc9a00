"""A stage's function in several processes of this machine, which torch's elastic agent starts and ends together."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from neft_lab.config import UserError
from neft_lab.progress import Progress
from neft_lab.quiet import quiet_libraries

T = TypeVar("T")
Worker = Callable[[Any, Any, Path, Progress], T]
"""A stage's function, of a module that a new process can import."""

RANKS = "ranks"
"""Folder of the processes' own output; what a failed start leaves behind."""
COUNT = "count.json"
SECONDS = 0.25
"""Between two looks at the processes, and at how far they are."""


class RankFailed(RuntimeError):
    """What ended one of several processes, in one line; its traceback is a note on the error."""


def launch(
    worker: Worker[T], config: Any, inputs: Any, output: Path, progress: Progress, *, processes: int
) -> T:
    """Call a stage's function in so many new processes, each with its rank; what the first of them returns.

    Only the first one's events are written and its count shown. The processes end with this one, whatever ends
    it. Raises RankFailed naming the rank that failed first, UserError where that was the user's mistake, and
    KeyboardInterrupt; no process is left then.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    # the agent's own account of a failure is a page long
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    ranks = output / RANKS
    shutil.rmtree(ranks, ignore_errors=True)
    ranks.mkdir(parents=True)
    try:
        with _interrupt_handler_kept(), _followed(ranks / COUNT, progress):
            told = elastic_launch(_agent(ranks, processes), _run_rank)(worker, config, inputs, output)
    except ChildFailedError as error:  # does not survive pickling
        raise _tell_failure(error.failures, processes) from None
    except SignalException:
        raise KeyboardInterrupt from None
    shutil.rmtree(ranks, ignore_errors=True)
    first: T = told[0]
    return first


def _agent(ranks: Path, processes: int) -> Any:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig

    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid4().hex,
        max_restarts=0,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        start_method="spawn",
        monitor_interval=SECONDS,
        signals_to_handle="SIGINT",  # a cluster's SIGTERM ends this process, and the ranks with it
        logs_specs=DefaultLogsSpecs(log_dir=str(ranks), redirects=Std.ALL),
    )


@contextmanager
def _interrupt_handler_kept() -> Iterator[None]:
    """The agent leaves its own handler of SIGINT behind."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _followed(count: Path, progress: Progress) -> Iterator[None]:
    """Tell what the first process counts, from a thread, while the agent has this one."""
    ended = threading.Event()

    def follow() -> None:
        last = ""
        while not ended.wait(SECONDS):
            with suppress(OSError):
                text = count.read_text(encoding="utf-8")
                if text != last:
                    progress.start(**json.loads(text))
                    last = text

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _tell_failure(failures: dict[int, Any], processes: int) -> BaseException:
    """The failure behind the others: a process that was killed, else the error that was written first."""

    def when(rank: int) -> tuple[bool, int]:
        with suppress(OSError):
            return True, os.stat(failures[rank].error_file).st_mtime_ns
        return False, rank

    rank = min(failures, key=when)
    failure = failures[rank]
    if failure.exitcode == -signal.SIGINT:  # a terminal tells every process of a Ctrl-C
        return KeyboardInterrupt()
    who = f"rank {rank} of {processes} processes"
    if not isinstance(failure.message, dict):
        return RankFailed(f"{who} {_how_it_ended(failure)}")
    told, traceback = failure.message["message"], failure.message["extraInfo"]["py_callstack"]
    kind, _, text = told.partition(": ")
    error = UserError(text) if kind == UserError.__name__ else RankFailed(f"{who}: {told}")
    error.add_note(f"In rank {rank}:\n{traceback}")
    return error


def _how_it_ended(failure: Any) -> str:
    if failure.exitcode >= 0:
        return f"ended with exit code {failure.exitcode} and no traceback; its output is in {RANKS}/"
    cause = " (out of memory?)" if failure.exitcode == -signal.SIGKILL else ""
    return f"was ended by {failure.signal_name()}{cause}"


def _run_rank(worker: Worker[T], config: Any, inputs: Any, output: Path) -> T:
    """What one process does."""
    import torch
    from torch import distributed

    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once, without a word of its own
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm's notice, which goes to all processes of a job
    quiet_libraries()
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    if inputs.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    progress = Progress(output, listener=_posting(output / RANKS / COUNT)) if rank == 0 else Unheard(output)
    told = worker(config, inputs, output, progress)
    if distributed.is_initialized():
        distributed.destroy_process_group()
    return told


class Unheard(Progress):
    """The progress of a process that is not the first."""

    def event(self, **values: Any) -> None:
        """Drop the event: the first process tells the same."""


def _posting(path: Path) -> Callable[[int, int | None, str], None]:
    """A listener that leaves the count in a file, whole at any moment."""

    def post(done: int, total: int | None, unit: str) -> None:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"total": total, "unit": unit, "done": done}), encoding="utf-8")
        partial.replace(path)

    return post


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, even by SIGKILL."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
