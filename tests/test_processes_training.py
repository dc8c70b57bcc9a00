"""One training, whoever shares it: padded, packed, two processes, two that shard; the same losses and weights.

Losses agree to 1e-5 and weights to 1e-4 of the largest one: what is left is the order in which float32 sums are taken,
carried through 30 steps of Adam. One launch trains all cases, since each costs seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from neft_lab.execute import freeze
from neft_lab.plan import make_plan
from neft_lab.processes import launch
from neft_lab.progress import Progress, read_events
from neft_lab.stages import Inputs
from neft_lab.stages.train import fine_tune
from neft_lab.step import run_step
from neft_lab.store import Store, read_json
from tests import rank_worker
from tests.processes import CONTEXT, finish, kill_when
from tests.rank_worker import Case, Place, told_of

TEXTS = ["Red.", "One, two, three, four, five, six.", "Hello there, and welcome.", "No.", "Yes, of course.",
         "Water, flour, salt and yeast.", "A river."]  # fmt: skip
STEPS = 30


class Cases:
    """Trainings of a tiny Llama on seven rows, three a step, so that every third step has one row for two processes."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.rows = folder / "rows.json"
        self.rows.write_text(
            json.dumps([{"instruction": f"Task {i}.", "output": text} for i, text in enumerate(TEXTS)])
        )
        self.model = model

    def overrides(self, *more: str) -> list[str]:
        return ["model=local", f"model.path={self.model}", "dataset=local", f"dataset.path={self.rows}",
                "stages=[train]", "tracker=none", "noise.alpha=5", f"finetune.max_steps={STEPS}", "finetune.batch=3",
                "finetune.micro_batch=1", "finetune.token_budget=300", "finetune.checkpoint_every=8",
                "finetune.learning_rate=0.003", *more]  # fmt: skip

    def __call__(self, name: str, *more: str) -> Case:
        given = {text.split("=", 1)[0]: text for text in self.overrides(*more)}
        (step,) = make_plan(list(given.values())).steps.values()
        return Case(name, step.inputs, Inputs(device="cpu", sources=step.sources))


@pytest.fixture(scope="module")
def cases(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return Cases(tmp_path_factory.mktemp("rows"), tiny_llama)


TWO, SHARDED = "finetune.processes=2", ("finetune.processes=2", "finetune.sharded=true")
SHORT = "finetune.max_steps=6"
ADAPTERS = ("finetune=lora", "finetune.lora_rank=4", "finetune.lora_dropout=0", SHORT)
PAPER = ("finetune.layout=padded", "finetune.loss_average=paper", SHORT)
CHECKPOINTED = ("finetune.gradient_checkpointing=true", SHORT)
QLORA = ("finetune=qlora", "finetune.lora_rank=4", "finetune.lora_dropout=0", "finetune.layout=padded", SHORT)


@pytest.fixture(scope="module")
def shared(cases: Cases, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder per case, each trained by two processes."""
    folder = tmp_path_factory.mktemp("shared")
    killed = cases("killed", *SHARDED)
    kill_at_checkpoint(killed, folder)
    shutil.copytree(folder / "killed", folder / "kept", ignore=shutil.ignore_patterns("partial"))
    asked = [
        cases("refused", *SHARDED),
        cases("two", TWO),
        cases("sharded", *SHARDED),
        cases("two-checkpointed", TWO, *CHECKPOINTED),
        cases("sharded-checkpointed", *SHARDED, *CHECKPOINTED),
        cases("two-paper", TWO, *PAPER),
        cases("two-lora", TWO, *ADAPTERS),
        cases("sharded-lora", *SHARDED, *ADAPTERS),
        cases("sharded-fused", *SHARDED, SHORT),
        killed,
    ]
    if find_spec("bitsandbytes"):
        asked.append(cases("two-qlora", TWO, *QLORA))
    said = launch(rank_worker.check_then_train, asked, Place(), folder, Progress(folder), processes=2)
    (folder / "said.txt").write_text(said)
    return folder


def kill_at_checkpoint(case: Case, folder: Path) -> None:
    """Begin a training of two processes below a folder, and SIGKILL what launched them at its first checkpoint."""
    process = CONTEXT.Process(
        target=rank_worker.start,
        args=(rank_worker.train_cases, [case], str(folder), str(folder / "said.json")),
    )
    process.start()
    end = time.monotonic() + 120
    while not (folder / case.name / "checkpoints/checkpoint-8").is_dir():
        assert process.is_alive() and time.monotonic() < end
        time.sleep(0.002)
    os.kill(int(process.pid or 0), signal.SIGKILL)
    process.join()
    while any(map(rank_worker.alive, rank_worker.pids(folder))):
        time.sleep(0.01)


@pytest.fixture(scope="module")
def alone(cases: Cases, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Train in this process; every case once."""
    folder = tmp_path_factory.mktemp("alone")

    def train(*more: str) -> Path:
        name = "-".join(more).replace("finetune", "") or "packed"
        if not (folder / name).is_dir():
            train_alone(cases(name, *more), folder / name)
        return folder / name

    return train


def train_alone(case: Case, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    told = fine_tune(case.config, case.inputs, folder, Progress(folder))
    (folder / "told.json").write_text(json.dumps(told))


def losses(folder: Path) -> list[float]:
    return [event["loss"] for event in read_events(folder) if event["kind"] == "train"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = [*folder.glob("model/*.safetensors"), *folder.glob("adapter/*.safetensors")]
    return load_file(path)


def assert_same_training(folder: Path, reference: Path) -> None:
    assert losses(folder) == pytest.approx(losses(reference), rel=1e-5)
    found, wanted = weights(folder), weights(reference)
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-4 * float(weight.abs().max()))
    ours, theirs = (told_of(one)["metrics"] for one in (folder, reference))
    for name in ("equivalent_alpha", "mean_noise_norm", "noise_to_embedding_rms"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
    assert [ours[name] for name in ("train_steps", "train_tokens")] == [
        theirs[name] for name in ("train_steps", "train_tokens")
    ]


def test_packed_is_the_training_that_padded_is(alone: Callable[..., Path]) -> None:
    packed, padded = alone(), alone("finetune.layout=padded")
    assert len(losses(packed)) == STEPS and losses(packed)[-1] < losses(packed)[0] - 1
    assert_same_training(packed, padded)
    assert told_of(packed)["metrics"]["equivalent_alpha"] == pytest.approx(5, rel=0.01)


@pytest.mark.parametrize("name", ["two", "sharded"])
def test_two_processes_are_the_training_that_one_is(
    name: str, shared: Path, alone: Callable[..., Path]
) -> None:
    assert_same_training(shared / name, alone("finetune.layout=padded"))
    told = told_of(shared / name)
    assert (told["resolved"]["processes"], told["resolved"]["sharded"]) == (2, name == "sharded")
    assert told["metrics"]["micro_batches"] == 50, (
        "20 steps of three rows, two a pass at most; 10 steps of one"
    )


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("two-checkpointed", [SHORT]),
        ("sharded-checkpointed", [SHORT]),
        ("two-paper", PAPER),
        ("two-lora", ADAPTERS),
        ("sharded-lora", ADAPTERS),
        ("sharded-fused", [SHORT]),
    ],
)
def test_so_they_are_with_checkpointing_adapters_and_the_papers_average(
    name: str, more: list[str], shared: Path, alone: Callable[..., Path]
) -> None:
    assert_same_training(shared / name, alone(*more))


def test_adapters_on_four_bit_weights_train_in_two_processes(
    shared: Path, alone: Callable[..., Path]
) -> None:
    """Computed in bfloat16, whose rounding takes up what float32 sums differ by."""
    pytest.importorskip("bitsandbytes")
    two, one = shared / "two-qlora", alone(*QLORA)
    assert told_of(two)["resolved"]["processes"] == 2
    assert losses(two) == pytest.approx(losses(one), rel=1e-3)
    assert weights(two).keys() == weights(one).keys()


def test_output_layer_and_loss_are_fused_within_shards_too(shared: Path) -> None:
    found = {name: told_of(shared / name)["resolved"]["fused_loss"] for name in ("sharded", "sharded-fused")}
    assert found == {"sharded": False, "sharded-fused": True}


def test_sharding_that_accelerate_leaves_out_in_silence_is_an_error(shared: Path) -> None:
    assert (shared / "said.txt").read_text() == "finetune.sharded is True, but the trainer shards: False"


def test_one_file_is_left_of_sharded_weights_and_no_checkpoint_twice(shared: Path) -> None:
    assert [path.name for path in (shared / "sharded/model").glob("*.safetensors")] == ["model.safetensors"]
    assert [path.name for path in (shared / "sharded/checkpoints").iterdir()] == ["checkpoint-24"]
    written = {path.name for path in (shared / "sharded/checkpoints/checkpoint-24").iterdir()}
    assert written >= {
        "pytorch_model_fsdp_0",
        "optimizer_0",
        "noise-0.json",
        "noise-1.json",
        "rng_state_1.pth",
    }
    assert "model.safetensors" not in written


def digest(folder: Path) -> str:
    (path,) = folder.rglob("model/model.safetensors")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_step_of_two_processes_goes_on_from_a_checkpoint_to_the_same_bytes(
    cases: Cases, shared: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    (step,) = make_plan(cases.overrides(TWO)).steps.values()
    freeze(step, store)
    work = store.work(step.stage, step.key)
    shutil.copytree(shared / "two/checkpoints", work / "checkpoints")
    before = (shared / "two/events.jsonl").read_text().splitlines(keepends=True)
    (work / "events.jsonl").write_text(
        "".join(line for line in before if json.loads(line).get("step", 0) <= 24)
    )
    folder = run_step(store, step.stage, step.key)
    assert digest(folder) == digest(shared / "two")
    assert losses(folder) == losses(shared / "two")
    record = read_json(folder / "record.json")
    assert record["metrics"] == told_of(shared / "two")["metrics"]
    assert (record["resolved"]["processes"], record["resolved"]["sharded"]) == (2, False)
    assert not (folder / "ranks").exists() and not (folder / "checkpoints").exists()


@pytest.mark.soak
def test_a_killed_step_of_two_processes_goes_on_to_the_same_bytes(
    cases: Cases, shared: Path, alone: Callable[..., Path], tmp_path: Path
) -> None:
    """And its last checkpoint serves one process as well."""
    arguments = [*cases.overrides(TWO), "judge=none", "leaderboard=none", "analysis=none"]
    work, kept = tmp_path / "results/work", tmp_path / "kept"

    def written() -> bool:
        return any(work.glob("train-*/checkpoints/checkpoint-8"))

    assert kill_when(written, arguments, tmp_path)
    (found,) = work.glob("train-*/checkpoints")
    shutil.copytree(found.parent, kept, ignore=shutil.ignore_patterns("ranks", "partial"))
    finish(arguments, tmp_path)
    (folder,) = (tmp_path / "results/train").iterdir()
    assert digest(folder) == digest(shared / "two")
    assert losses(folder) == losses(shared / "two")

    train_alone(cases("kept"), kept)
    (told,) = [event for event in read_events(kept) if event["kind"] == "resume"]
    assert (told["checkpoint"], told["set_aside"]) == ("checkpoint-8", False)
    assert (told["processes_before"], told["processes"]) == (2, 1)
    assert_same_training(kept, alone())


def test_killed_shards_go_on_to_the_same_bytes(
    cases: Cases, shared: Path, alone: Callable[..., Path]
) -> None:
    """One process cannot read shards: it sets them aside, says so, and begins anew."""
    kept = shared / "kept"
    assert len(losses(kept)) < STEPS
    assert digest(shared / "killed") == digest(shared / "sharded")
    assert losses(shared / "killed") == losses(shared / "sharded")
    assert told_of(shared / "killed")["metrics"] == told_of(shared / "sharded")["metrics"]

    train_alone(cases("kept"), kept)
    (told,) = [event for event in read_events(kept) if event["kind"] == "resume"]
    assert (told["set_aside"], told["sharded"]) == (True, True)
    assert {path.name for path in (kept / "checkpoints").iterdir()} == {
        "checkpoint-24", f"set-aside-{told['checkpoint']}"
    }  # fmt: skip
    assert digest(kept) == digest(alone())


def test_without_gpus_the_sharded_recipe_fails_in_one_line(cases: Cases, tmp_path: Path) -> None:
    from tests.steps import run_stages

    with pytest.raises(Exception, match=r"^finetune\.sharded=true needs GPUs.*use finetune\.sharded=false"):
        run_stages(cases.overrides("finetune=full_fsdp"), tmp_path)
