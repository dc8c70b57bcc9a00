"""One run written with wandb: whole, closed, and with nothing in it but what its content says."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neft_lab.config import TrackerConfig
from neft_lab.tracking.account import Mode
from neft_lab.tracking.content import RunContent
from neft_lab.tracking.curves import read_curves
from neft_lab.tracking.redaction import Redactor

SETTINGS = {
    "console": "off", "silent": True, "show_errors": False, "show_warnings": False, "symlink": False,
    "x_disable_meta": True, "x_disable_stats": True, "x_disable_machine_info": True, "x_save_requirements": False,
    "save_code": False, "disable_code": True, "disable_git": True, "disable_job_creation": True,
    "label_disable": True, "sagemaker_disable": True, "allow_offline_artifacts": False,
    "init_timeout": 15.0, "finish_timeout": 30.0, "finish_timeout_raises": True,
}  # fmt: skip
"""Nothing about the machine on which a replay happens (records say on what a step ran), and no endless waiting.
Tables are shown from the run's own folder, which can be synced from another machine."""
ENVIRONMENT = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
FOREIGN = ("WANDB_RESUME", "WANDB_RUN_ID", "WANDB_SWEEP_ID")
"""Would turn one of our runs into another."""
FOLDER_NAME = re.compile(r"(?:offline-)?run-\d{8}_\d{6}-(?P<id>.+)")


def write_run(run: RunContent, *, config: TrackerConfig, folder: Path, mode: Mode, redactor: Redactor) -> str:
    """Write one run in place of an earlier one of its id; the address of its project, empty when offline.

    Args:
        run: what to write.
        config: the project and its owner.
        folder: the results folder; wandb's files go to its ``wandb/``.
        mode: ``online`` or ``offline``.
        redactor: what cuts secrets out of figures.

    Raises:
        Exception: whatever wandb raises when its server refuses, is silent, or goes away.
    """
    staged = folder / "wandb" / "staged" / run.id
    for older in (staged, *run_folders(folder, run.id)):
        shutil.rmtree(older, ignore_errors=True)
    staged.mkdir(parents=True, exist_ok=True)  # where that fails, wandb would quietly go elsewhere
    with _surroundings(staged), _opened(run, config=config, folder=folder, mode=mode) as opened:
        summary = dict(run.summary)
        if run.events is not None:
            summary |= _log_curves(opened, run.events)
        if media := _media(run, redactor):
            opened.log(media)
        opened.summary.update(summary)
        address = str(opened.settings.project_url)
    if mode == "online" or not any(staged.iterdir()):
        shutil.rmtree(staged, ignore_errors=True)
    return address if mode == "online" else ""


def abandon_session() -> None:
    """Let wandb forget what it has under way; after a failure it would refuse to open the same run offline."""
    import wandb

    wandb.teardown()


@contextmanager
def _opened(run: RunContent, *, config: TrackerConfig, folder: Path, mode: Mode) -> Iterator[Any]:
    """A wandb run of its own, closed at the end whatever happens; wandb's own context prints tracebacks."""
    import wandb

    known = {name: value for name, value in SETTINGS.items() if name in wandb.Settings.model_fields}
    opened = wandb.init(
        project=config.project, entity=config.entity, dir=str(folder), mode=mode, id=run.id, name=run.name,
        group=run.group, job_type=run.job_type, config=run.config, notes=run.notes, tags=run.tags,
        reinit="create_new", settings=wandb.Settings(**known),
    )  # fmt: skip
    try:
        yield opened
    except BaseException:
        opened.finish(exit_code=1)
        raise
    opened.finish()


def run_folders(folder: Path, run: str) -> list[Path]:
    """The folders that wandb made for a run below the results folder."""
    found = (folder / "wandb").glob(f"*run-*-{run}")
    return [path for path in found if (name := FOLDER_NAME.fullmatch(path.name)) and name["id"] == run]


def _log_curves(opened: Any, step: Path) -> dict[str, Any]:
    """Send a step's curves, each kind against its own step; what belongs in the summary."""
    curves = read_curves(step)
    for kind, points in curves.points.items():
        opened.define_metric(f"{kind}/step", hidden=True)
        opened.define_metric(f"{kind}/*", step_metric=f"{kind}/step")
        for point in points:
            opened.log(point)
    told = {"events_not_finite": ", ".join(curves.not_finite)} if curves.not_finite else {}
    return curves.facts | told


def _media(run: RunContent, redactor: Redactor) -> dict[str, Any]:
    import wandb

    tables = {name: wandb.Table(columns=table.header, data=table.rows) for name, table in run.tables.items()}
    return tables | {name: _figure(path, redactor) for name, path in run.figures.items()}


def _figure(path: Path, redactor: Redactor) -> Any:
    import wandb

    if path.suffix not in (".svg", ".html"):
        return wandb.Image(str(path))
    text = redactor.text(path.read_text(encoding="utf-8"))
    if path.suffix == ".svg":  # within HTML an XML declaration has no place
        text = text[max(text.find("<svg"), 0) :]
    return wandb.Html(text, inject=False)


@contextmanager
def _surroundings(staged: Path) -> Iterator[None]:
    """The environment that wandb finds: quiet, no reports to its makers, copies of tables in ``staged``."""
    changes = ENVIRONMENT | {
        "WANDB_DATA_DIR": str(staged),
        "WANDB_CACHE_DIR": str(staged.parents[1] / "cache"),
    }
    before = {name: os.environ.get(name) for name in (*changes, *FOREIGN)}
    os.environ |= changes
    for name in FOREIGN:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
