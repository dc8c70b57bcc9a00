"""Several processes started from a step: what they tell, how they fail, and that none of them is left."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from neft_lab.config import UserError
from neft_lab.plan import make_plan
from neft_lab.processes import RankFailed, check_machine, check_sharing, launch, read_counts
from neft_lab.processes.checkpoints import Resumable
from neft_lab.progress import Progress, read_events
from neft_lab.store import read_json, write_json
from tests import rank_worker
from tests.processes import CONTEXT


def wait_for(condition: Callable[[], Any], *, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.05)


def finetune(*overrides: str) -> Any:
    """The fine-tuning of a run's configuration."""
    (step,) = make_plan(["stages=[train]", "tracker=none", *overrides]).steps.values()
    return step.inputs.finetune


def test_the_first_process_is_heard_and_returns_the_result(tmp_path: Path) -> None:
    counted: list[tuple[int, int | None, str]] = []
    progress = Progress(tmp_path, listener=lambda *count: counted.append(count))
    handler = signal.getsignal(signal.SIGINT)
    told = launch(rank_worker.wait, 1.0, rank_worker.Place(), tmp_path, progress, processes=2)
    assert told.startswith("rank 0")
    assert counted[-1] == (2, 3, "look")
    assert [event["step"] for event in read_events(tmp_path)] == [0]
    assert signal.getsignal(signal.SIGINT) is handler
    assert not (tmp_path / "ranks").exists()


def failure(how: str, folder: Path) -> Exception:
    """What a launch raises whose second process fails so."""
    folder.mkdir()
    with pytest.raises((RankFailed, UserError)) as caught:
        launch(rank_worker.fail, how, rank_worker.Place(), folder, Progress(folder), processes=2)
    assert len(rank_worker.pids(folder)) == 2
    assert not any(map(rank_worker.alive, rank_worker.pids(folder))), "a process was left"
    return caught.value


def test_an_error_names_its_rank_and_carries_its_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    error = failure("raises", tmp_path / "step")
    assert str(error) == "rank 1 of 2 processes: IndexError: list index out of range"
    assert "rank_worker.py" in error.__notes__[0] and error.__notes__[0].startswith("In rank 1:\nTraceback")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.__notes__) == (RankFailed, str(error), error.__notes__)
    assert capfd.readouterr() == ("", ""), "only the one line is told, by whoever catches it"


def test_a_killed_process_is_told_by_its_signal(tmp_path: Path) -> None:
    error = failure("killed", tmp_path / "step")
    assert str(error) == "rank 1 of 2 processes was ended by SIGKILL (out of memory?)"


@pytest.mark.soak
def test_a_users_mistake_stays_one_line(tmp_path: Path) -> None:
    error = failure("user", tmp_path / "step")
    assert isinstance(error, UserError)
    assert str(error) == "finetune.batch: 3 is not to my taste; take 4"


@pytest.mark.soak
def test_a_silent_end_is_told_by_its_code(tmp_path: Path) -> None:
    text = "rank 1 of 2 processes ended with exit code 7 and no traceback; its output is in ranks/"
    assert str(failure("exits", tmp_path / "step")) == text


def started(folder: Path) -> BaseProcess:
    """A process that has launched two, which wait."""
    process = CONTEXT.Process(
        target=rank_worker.start, args=(rank_worker.wait, 600.0, str(folder), str(folder / "told.json"))
    )
    process.start()
    wait_for(lambda: len(rank_worker.pids(folder)) == 2)
    return process


def test_no_process_outlives_a_killed_parent(tmp_path: Path) -> None:
    process = started(tmp_path)
    assert process.pid is not None and all(map(rank_worker.alive, rank_worker.pids(tmp_path)))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    wait_for(lambda: not any(map(rank_worker.alive, rank_worker.pids(tmp_path))), seconds=10)


def test_ctrl_c_ends_all_processes_and_stays_an_interrupt(tmp_path: Path) -> None:
    """A terminal sends the signal to parent and processes alike."""
    process = started(tmp_path)
    for pid in (*rank_worker.pids(tmp_path), process.pid):
        os.kill(int(pid or 0), signal.SIGINT)
    process.join(timeout=60)
    assert read_json(tmp_path / "told.json").startswith("KeyboardInterrupt")
    assert not any(map(rank_worker.alive, rank_worker.pids(tmp_path)))


def test_sharding_without_gpus_is_a_users_mistake() -> None:
    with pytest.raises(
        UserError, match=r"^finetune.sharded=true needs GPUs, .* cpu; use finetune.sharded=false"
    ):
        check_machine(finetune("finetune=full_fsdp"), device="cpu", keeps_copy=False)


def test_four_bit_weights_and_a_whole_copy_are_not_sharded() -> None:
    with pytest.raises(UserError, match="cannot split the 4-bit weights of qlora"):
        check_machine(finetune("finetune=qlora", "finetune.sharded=true"), device="cuda", keeps_copy=False)
    with pytest.raises(UserError, match="regularizer.kl would keep a whole copy"):
        check_machine(finetune("finetune=full_fsdp"), device="cuda", keeps_copy=True)


@pytest.mark.skipif(torch.cuda.device_count() > 62, reason="has that many GPUs")
def test_more_processes_than_gpus_is_a_users_mistake() -> None:
    asked = finetune("finetune.processes=63")
    found = torch.cuda.device_count()
    with pytest.raises(
        UserError, match=f"finetune.processes=63 needs as many GPUs, and this machine has {found}"
    ):
        check_machine(asked, device="cuda", keeps_copy=False)
    check_machine(asked, device="cpu", keeps_copy=False)


def test_processes_that_share_nothing_are_noticed() -> None:
    model = torch.nn.Linear(4, 4)
    check_sharing(model, finetune(), processes=1, sharded=False)
    for overrides, found, said in (
        (
            ["finetune.processes=2"],
            {"processes": 1, "sharded": False},
            "processes is 2, but 1 train together",
        ),
        (["finetune.processes=2"], {"processes": 2, "sharded": False}, "their gradients are not averaged"),
        (["finetune.sharded=true"], {"processes": 1, "sharded": False}, "but the trainer shards: False"),
        (["finetune.sharded=true"], {"processes": 1, "sharded": True}, "weight is whole in every process"),
    ):
        with pytest.raises(RuntimeError, match=said):
            check_sharing(model, finetune(*overrides), **found)


def test_counts_of_another_number_of_processes_are_added_up(tmp_path: Path) -> None:
    for rank, (passes, sums) in enumerate([(3, [1.0, 2.0]), (4, [10.0, 20.0])]):
        noise = {"armed": passes, "fired": passes, "sums": sums}
        write_json(tmp_path / f"noise-{rank}.json", {"micro_batches": passes, "tokens": 900, "noise": noise})
    found = Resumable(tmp_path, processes=2, sharded=False)
    alone = read_counts(found, rank=0, processes=1)
    assert alone == {
        "micro_batches": 7,
        "tokens": 900,
        "noise": {"armed": 7, "fired": 7, "sums": [11.0, 22.0]},
    }
    assert read_counts(found, rank=0, processes=3) == alone
    empty = {"micro_batches": 0, "tokens": 900, "noise": {"armed": 0, "fired": 0, "sums": [0.0, 0.0]}}
    assert read_counts(found, rank=2, processes=3) == empty
    assert read_counts(found, rank=1, processes=2)["noise"]["sums"] == [10.0, 20.0]
