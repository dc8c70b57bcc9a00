"""A sweep's folder against its lock: every file, and the tables made once more from the records."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from neft_lab.config import PaperConfig, RunConfig, Scale, SweepConfig, UserError
from neft_lab.environment import git_commit, package_versions
from neft_lab.execute import Status
from neft_lab.lock.content import LOCK, PARTS, SCHEMA
from neft_lab.lock.files import digest_of
from neft_lab.plan import Cell, Plan, Step
from neft_lab.plan.compose import compose_config, hydra_session
from neft_lab.plan.parts import Parts
from neft_lab.store import Store, read_json

MOST = 8
"""Package versions that are named; more are counted."""


@dataclass
class Verdict:
    """faults: what is missing or changed, a line each. notes: what a reader should know and nothing depends on."""

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: int = 0
    """Files that were compared."""
    tables: int = 0
    """Tables that were made once more."""


def load_lock(folder: Path) -> dict[str, Any]:
    """The lock of a sweep's folder. Raises UserError where there is none that can be read."""
    path = folder / LOCK
    if not path.is_file():
        raise UserError(
            f"'{folder}' has no {LOCK}; name a folder below results/sweeps, or run its sweep once more"
        )
    try:
        lock: dict[str, Any] = read_json(path)
        schema = lock["schema"]
        [
            lock[name]
            for name in ("sweep", "comparison", "cells", "steps", "packages", "environments", "published")
        ]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"'{path}' is no lock of this program; run the sweep once more to write it") from None
    if schema != SCHEMA:
        raise UserError(
            f"'{path}' has schema {schema}, this program reads {SCHEMA}; use the program of its commit"
        )
    return lock


def verify(folder: Path) -> Verdict:
    """Compare all that a lock names with what is there, and rebuild the tables from the records."""
    lock, verdict = load_lock(folder), Verdict()
    done = Store(folder.resolve().parents[1]).done()
    for step in lock["steps"]:
        if step["status"] == "done":
            _check_step(step, done.get((step["stage"], step["key"])), verdict)
    _check_files(folder, lock["published"], verdict, f"sweeps/{folder.resolve().name}")
    if not verdict.faults:
        _check_tables(lock, folder, verdict)
    verdict.notes += [*_weights(lock, done), *_unfinished(lock), *_versions(lock)]
    return verdict


def _check_step(step: Mapping[str, Any], found: Path | None, verdict: Verdict) -> None:
    where = f"{step['stage']}/{step['name']}-{step['key']}"
    if found is None:
        verdict.faults.append(f"missing: {where}/record.json")
        return
    _check_files(found, step["files"], verdict, where)
    there = {name: one for name, one in step["weights"].items() if (found / name).is_file()}
    _check_files(found, there, verdict, where)


def _check_files(folder: Path, digests: Mapping[str, Any], verdict: Verdict, where: str) -> None:
    for name, digest in digests.items():
        verdict.files += 1
        fault = compare_file(folder / name, digest)
        if fault:
            verdict.faults.append(f"{fault}: {where}/{name}")


def compare_file(path: Path, digest: Mapping[str, Any]) -> str:
    """``missing``, ``changed``, or nothing where a file is as locked."""
    if not path.is_file():
        return "missing"
    try:
        return "" if digest_of(path) == digest else "changed"
    except ValueError:  # JSON no more
        return "changed"


def _check_tables(lock: Mapping[str, Any], folder: Path, verdict: Verdict) -> None:
    with tempfile.TemporaryDirectory(prefix="neft_lab_lock_") as name:
        made = Path(name)
        rebuild_tables(lock, folder, made)
        for path in sorted(path for path in made.rglob("*") if path.is_file()):
            table = path.relative_to(made).as_posix()
            verdict.tables += 1
            published = folder / table
            if not published.is_file() or published.read_bytes() != path.read_bytes():
                verdict.faults.append(f"not what the records give: sweeps/{folder.resolve().name}/{table}")


def rebuild_tables(lock: Mapping[str, Any], folder: Path, target: Path) -> None:
    """Write the tables of a locked sweep into a folder, from its records alone."""
    from neft_lab.claims.findings import find
    from neft_lab.publish import write_tables

    plan = locked_plan(lock)
    write_tables(plan, find(plan, _status(lock, plan, Store(folder.resolve().parents[1]))), target)


def locked_plan(lock: Mapping[str, Any]) -> Plan:
    """The plan as it was carried out, without composing it anew: neither its files nor its packages need be here."""
    with hydra_session():
        usual = Parts(compose_config([])).run_config({})
    made = {name: [_typed(getattr(usual, name), part) for part in lock[name]] for name in PARTS}
    cells = [_cell(cell, usual, made) for cell in lock["cells"]]
    steps = {
        step["key"]: Step(step["stage"], step["key"], step["name"], 0, None, step["needs"], {}, "")
        for step in lock["steps"]
    }
    sweep: SweepConfig = _typed(SweepConfig(), lock["comparison"])
    return Plan(lock["sweep"], sweep, cells, steps, cells[0].config)


def _cell(cell: Mapping[str, Any], usual: RunConfig, made: Mapping[str, list[Any]]) -> Cell:
    config = replace(
        usual,
        **{name: made[name][number] for name, number in cell["parts"].items()},
        seed=cell["seed"],
        scale=Scale[cell["scale"]],
        paper=PaperConfig(**cell["paper"]),
    )
    arms = tuple(cell["arms"])
    return Cell(cell["axes"], config, cell["baseline"], cell["added"], cell["steps"], arms, cell["control"])


def _typed(like: Any, value: Any) -> Any:
    """A configuration from JSON; what an older program did not know has its default."""
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(like), value))
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"{LOCK} was written by another program ({first}); use the program of its commit"
        ) from None


def _status(lock: Mapping[str, Any], plan: Plan, store: Store) -> Status:
    found = store.done()
    states = {step["key"]: step for step in lock["steps"]}
    done = {
        key: found[step.stage, key] for key, step in plan.steps.items() if states[key]["status"] == "done"
    }
    failed = {key: {"message": one["message"]} for key, one in states.items() if one["status"] == "failed"}
    return Status(done, failed, [step for key, step in plan.steps.items() if key not in done])


def _weights(lock: Mapping[str, Any], done: Mapping[tuple[str, str], Path]) -> Iterator[str]:
    named = [(step["stage"], step["key"], name) for step in lock["steps"] for name in step.get("weights", {})]
    absent = sum(
        (stage, key) in done and not (done[stage, key] / name).is_file() for stage, key, name in named
    )
    if absent:
        yield f"{absent} of {len(named)} files of weights are not here; no table needs them"


def _unfinished(lock: Mapping[str, Any]) -> Iterator[str]:
    left = sum(step["status"] != "done" for step in lock["steps"])
    if left:
        yield f"{left} of {len(lock['steps'])} steps were not done when this was locked; the tables say which cells have holes"


def _versions(lock: Mapping[str, Any]) -> Iterator[str]:
    here = package_versions() | {"python": platform.python_version()}
    pythons = {one["python"] for one in lock["environments"]}
    then = [*lock["packages"], *({"python": python} for python in sorted(pythons))]
    changed = {
        f"{name} {version} then, {here.get(name) or 'absent'} here": None
        for packages in then
        for name, version in packages.items()
        if here.get(name) != version
    }
    if changed:
        rest = f"; and {len(changed) - MOST} more" if len(changed) > MOST else ""
        yield f"other versions: {'; '.join(list(changed)[:MOST])}{rest}"
    commits = dict.fromkeys(str(one["commit"]) for one in lock["environments"])
    now = str(git_commit())
    if list(commits) != [now]:
        yield f"made by the program at {', '.join(commits)}; here {now}"
