"""One step from its frozen JSON alone: ``python -m neft_lab.step results/work/<stage>-<key>/step.json``."""

from __future__ import annotations

import errno
import math
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from filelock import FileLock
from omegaconf import OmegaConf

from neft_lab.config import UserError, nearest
from neft_lab.environment import environment_class, git_commit, package_versions, resolve_device
from neft_lab.hub import Kind, resolved_revision
from neft_lab.progress import Listener, Progress
from neft_lab.quiet import import_quietly, quiet_libraries
from neft_lab.sources import Source
from neft_lab.stages import STAGES, Inputs, Metrics
from neft_lab.store import SCHEMA, Store, read_json, write_json

USES_NO_DEVICE = {"file", "longest", "random", "alpaca_eval", "openai_compatible"}

NO_SPACE = ("No space left on device", "inline_container")
"""What errors without a number say of a full disk: safetensors', and those of torch's file writer."""


class StepFailed(Exception):
    """A step that ended in an error, told in one line; the traceback is in its error.json."""


def run_step(store: Store, stage: str, key: str, *, listener: Listener | None = None) -> Path:
    """Run the step whose step.json lies in its work folder, unless it is done; the finished step's folder.

    Waits while another process runs the same step. Raises StepFailed after writing error.json.
    """
    lock = store.lock_file(stage, key)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        done = store.find(stage, key)
        if done is None:
            frozen = read_json(store.work(stage, key) / "step.json")
            done = store.adopt(stage, key, frozen["name"]) or _run_locked(store, frozen, listener)
        return done


def run_together(
    store: Store, stage: str, keys: Sequence[str], *, listener: Listener | None = None
) -> dict[str, str]:
    """Do for several frozen steps of a stage at once what is better done together; each is to be run after it.

    Returns keys of steps that cannot be run now, with the reason, which their error.json holds too.
    """
    together = STAGES[stage].together
    if together is None or not keys:
        return {}
    quiet_libraries()
    with FileLock(
        store.lock_file(stage, min(keys))
    ):  # another process of the same sweep waits, and finds it done
        steps = {key: one for key in keys if (one := _frozen_step(store, stage, key)) is not None}
        found = _function(together)(list(steps.values()), listener) if steps else []
        failed = {key: error for key, error in zip(steps, found, strict=True) if error is not None}
        for key, error in failed.items():
            _write_error(store.work(stage, key), error)
    return {key: one_line(error) for key, error in failed.items()}


def _frozen_step(store: Store, stage: str, key: str) -> tuple[Any, Inputs, Path] | None:
    """What a stage's function is handed, of a step that is still to be run; None where it is done by now."""
    work = store.work(stage, key)
    try:
        frozen = read_json(work / "step.json")
    except FileNotFoundError:
        return None
    return _stage_config(frozen), _find_inputs(store, frozen), work


def _run_locked(store: Store, frozen: dict[str, Any], listener: Listener | None) -> Path:
    stage, key = frozen["stage"], frozen["key"]
    work = store.work(stage, key)
    try:
        started = time.perf_counter()
        began = datetime.now(UTC).isoformat(timespec="seconds")
        inputs = _find_inputs(store, frozen)
        metrics, resolved = _call_stage(frozen, inputs, Progress(work, listener=listener))
        record = {
            **{
                name: frozen[name]
                for name in ("stage", "key", "name", "version", "config", "needs", "sources")
            },
            "schema": SCHEMA,
            "status": "done",
            "metrics": metrics,
            "resolved": resolved | resolved_revisions(inputs.sources),
            "environment": environment_class(inputs.device),
            "packages": package_versions(),
            "commit": git_commit(),
            "started": began,
            "seconds": round(time.perf_counter() - started, 3),
        }
        return store.publish(stage, key, frozen["name"], record)
    except Exception as error:
        _write_error(work, error)
        raise StepFailed(one_line(error)) from error


def resolved_revisions(sources: Mapping[str, Source]) -> dict[str, dict[str, str]]:
    """The commits behind sources of the hub (one request each, remembered from when the stage asked)."""
    kinds: dict[str, Kind] = {"model": "model", "judge_model": "model"}
    found = {
        name: resolved_revision(source.location, kinds.get(name, "dataset"), source.revision)
        for name, source in sources.items()
        if source.kind == "hub" and name != "tasks"  # the leaderboard's results.json has its own, by task
    }
    return {"revisions": found} if found else {}


def _find_inputs(store: Store, frozen: dict[str, Any]) -> Inputs:
    folders: dict[str, Path] = {}
    for stage, key in frozen["needs"].items():
        folder = store.find(stage, key)
        if folder is None:
            raise UserError(
                f"{frozen['stage']} {frozen['key']} needs {stage} {key}, which is not done; run it first"
            )
        folders[stage] = folder
    sources = {name: Source(**source) for name, source in frozen["sources"].items()}
    return Inputs(device=_device(frozen), sources=sources, **folders)


def _device(frozen: dict[str, Any]) -> str:
    part = next(iter(frozen["config"].values()))
    if frozen["stage"] == "describe" or (
        isinstance(part, dict) and (part.get("source") == "file" or part.get("kind") in USES_NO_DEVICE)
    ):
        return "none"
    return resolve_device(frozen["device"])


def _call_stage(frozen: dict[str, Any], inputs: Inputs, progress: Progress) -> tuple[Metrics, dict[str, Any]]:
    stage = STAGES[frozen["stage"]]
    if stage.version != frozen["version"]:
        raise UserError(
            f"step.json is of version {frozen['version']} of {stage.name}, this program has {stage.version}"
        )
    quiet_libraries()
    metrics: Metrics = _function(stage.function)(_stage_config(frozen), inputs, progress.output, progress)
    # what has no value (the error of a mean of one) is absent: JSON has no nan
    known = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
    return known, progress.resolved


def _function(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    return cast(Callable[..., Any], getattr(import_quietly(module), name))


def _stage_config(frozen: Mapping[str, Any]) -> Any:
    inputs = STAGES[frozen["stage"]].inputs
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(inputs), frozen["config"]))


def _write_error(work: Path, error: Exception) -> None:
    told = {
        "type": type(error).__name__,
        "message": one_line(error),
        "user": isinstance(error, UserError),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "traceback": traceback.format_exception(error),
    }
    with suppress(OSError):  # a full disk cannot take the report either; the caller still tells it
        write_json(work / "error.json", told)


def one_line(error: Exception) -> str:
    """What an error says, as one line; a full disk with its remedy, whichever library met it."""
    if getattr(error, "errno", None) == errno.ENOSPC or any(text in str(error) for text in NO_SPACE):
        where = getattr(error, "filename", None) or "results folder"
        return f"no space left on the disk ({where}); free some and run the same command again"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


FROZEN = {"stage": str, "key": str, "name": str, "version": int, "config": dict, "needs": dict, "sources": dict,
          "device": str}  # fmt: skip
"""What a step.json must say, as ``Step.as_json`` writes it."""


def _read_frozen(path: Path) -> dict[str, Any]:
    """A step.json that can be run. Raises UserError naming what is wrong with it."""
    remedy = "run the command of its sweep again, which writes it anew"
    try:
        frozen = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} must be JSON ({one_line(error)}); {remedy}") from None
    if not isinstance(frozen, dict):
        raise UserError(f"{path} must be a JSON object; {remedy}")
    wrong = [name for name, kind in FROZEN.items() if not isinstance(frozen.get(name), kind)]
    if wrong:
        raise UserError(f"{path} must say {', '.join(wrong)}; {remedy}")
    if frozen["stage"] not in STAGES:
        raise UserError(f"{path}: no such stage '{frozen['stage']}'; {nearest(frozen['stage'], STAGES)}")
    return frozen


def main(arguments: list[str]) -> int:
    """``python -m neft_lab.step FILE``: 0 done, 1 failed, 2 no such step."""
    if len(arguments) != 1 or not Path(arguments[0]).is_file():
        print("usage: python -m neft_lab.step results/work/<stage>-<key>/step.json", file=sys.stderr)
        return 2
    path = Path(arguments[0]).resolve()
    try:
        frozen = _read_frozen(path)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    store = Store(path.parents[2])
    if path.parent != store.work(frozen["stage"], frozen["key"]):
        print(f"{path} must lie in results/work/{frozen['stage']}-{frozen['key']}/", file=sys.stderr)
        return 2
    try:
        folder = run_step(store, frozen["stage"], frozen["key"])
    except StepFailed as error:
        print(error, file=sys.stderr)
        return 1
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
