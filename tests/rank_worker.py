"""What the processes of the tests do. Here alone accelerate is made to shard on a CPU, which it does not as shipped."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neft_lab.processes import launch
from neft_lab.progress import Progress
from neft_lab.store import read_json, write_json


@dataclass(frozen=True)
class Case:
    """One of several trainings that share a launch, which costs seconds."""

    name: str
    config: Any
    inputs: Any


@dataclass(frozen=True)
class Place:
    """Inputs of a worker that trains nothing."""

    device: str = "cpu"


def train_cases(cases: Sequence[Case], place: Place, output: Path, progress: Progress) -> dict[str, Any]:
    """Train every case that has not told.json yet, in a folder of its own below ``output``.

    In a case with "fused" in its name output layer and loss are fused in every pass, as on a GPU in large ones.
    """
    from neft_lab.stages.train import fine_tune
    from neft_lab.training import head, losses

    kept = head.DEVICES, losses.is_worth_it
    write_pid(output)
    shard_on_cpu()
    for case in cases:
        folder = output / case.name
        if (folder / "told.json").exists():
            continue
        folder.mkdir(exist_ok=True)
        os.environ.pop(
            "ACCELERATE_USE_FSDP", None
        )  # what accelerate keeps of a sharded training before this one
        fused = "fused" in case.name
        head.DEVICES, losses.is_worth_it = (("cpu",), lambda *_: True) if fused else kept
        told = fine_tune(case.config, case.inputs, folder, type(progress)(folder))
        if rank() == 0:
            write_json(folder / "told.json", told)
    return {}


def train_unsharded(case: Case, place: Place, output: Path, progress: Progress) -> str:
    """Ask for shards where accelerate gives none and says nothing; what the trainer says."""
    from neft_lab.stages.train import fine_tune

    try:
        fine_tune(case.config, case.inputs, output, progress)
    except RuntimeError as error:
        return str(error)
    return "nothing"


def check_then_train(cases: Sequence[Case], place: Place, output: Path, progress: Progress) -> str:
    """``train_unsharded`` with the first case, then ``train_cases`` with the others."""
    said = train_unsharded(cases[0], place, output, progress)
    train_cases(cases[1:], place, output, progress)
    return said


def shard_on_cpu() -> None:
    """Let accelerate's state be FSDP with processes on a CPU too, as it would be with as many GPUs."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    if hasattr(AcceleratorState.__init__, "__wrapped__"):
        return
    original = AcceleratorState.__init__

    @functools.wraps(original)
    def initialise(self: Any, *arguments: Any, fsdp_plugin: Any = None, **options: Any) -> None:
        original(self, *arguments, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = initialise


def rank() -> int:
    return int(os.environ["RANK"])


def write_pid(output: Path) -> None:
    (output / f"pid-{rank()}").write_text(str(os.getpid()))


def fail(how: str, place: Place, output: Path, progress: Progress) -> None:
    """The second process ends as ``how`` says, while the first waits for it without end."""
    from neft_lab.config import UserError

    write_pid(output)
    ends: dict[str, Callable[[], Any]] = {
        "raises": lambda: [][1],
        "user": lambda: raise_it(UserError("finetune.batch: 3 is not to my taste; take 4")),
        "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "exits": lambda: os._exit(7),
    }
    if rank() == 1:
        ends[how]()
    time.sleep(600)


def raise_it(error: Exception) -> None:
    raise error


def wait(seconds: float, place: Place, output: Path, progress: Progress) -> str:
    """Count a while; what the first process is."""
    write_pid(output)
    progress.start(3, unit="look")
    progress.event(kind="look", step=rank())
    progress.advance(2)
    time.sleep(seconds)
    return f"rank {rank()}, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS')}"


def start(worker: Callable[..., Any], config: Any, output: str, told: str) -> None:
    """``launch`` two processes in one that the test can end; what came of it goes to a file."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        value = launch(worker, config, Place(), Path(output), Progress(Path(output)), processes=2)
    except BaseException as error:
        value = f"{type(error).__name__}: {error}"
    write_json(Path(told), value)


def pids(output: Path) -> list[int]:
    """Of the processes that wrote theirs."""
    return [int(path.read_text()) for path in output.glob("pid-*") if path.read_text()]


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def told_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(folder / "told.json")
    return found
