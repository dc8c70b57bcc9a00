"""Overrides to cells to steps: everything composed, validated and keyed before anything runs; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from neft_lab.config import RunConfig, SweepConfig, UserError, identity, plain
from neft_lab.plan.compose import compose_config, hydra_session
from neft_lab.plan.grid import Point, points, signature
from neft_lab.plan.keys import groups
from neft_lab.plan.parts import Parts, has_interpolation, sweep_of
from neft_lab.plan.published import with_published
from neft_lab.plan.request import Request, override_text, read_request
from neft_lab.plan.scale import scaled, scaled_name
from neft_lab.plan.template import with_trained_template
from neft_lab.plan.tries import validation_splits
from neft_lab.sources import Source
from neft_lab.stages import STAGES, Stage
from neft_lab.store import SCHEMA, make_key

__all__ = ["Cell", "Plan", "Step", "expand", "make_plan", "steps"]


@dataclass(frozen=True)
class Step:
    """One stage of one run, with its key and all that decides its content."""

    stage: str
    key: str
    name: str
    version: int
    inputs: Any
    needs: Mapping[str, str]
    sources: Mapping[str, Source]
    device: str

    def as_json(self) -> dict[str, Any]:
        """The frozen step.json: all that ``python -m neft_lab.step`` reads."""
        return {
            "schema": SCHEMA,
            "stage": self.stage,
            "key": self.key,
            "name": self.name,
            "version": self.version,
            "config": {item.name: plain(getattr(self.inputs, item.name)) for item in fields(self.inputs)},
            "needs": dict(self.needs),
            "sources": {name: source.as_dict() for name, source in self.sources.items()},
            "device": self.device,
        }


@dataclass(frozen=True)
class Cell:
    """One point of the grid: its axis values, its frozen run config, and the keys of its steps by stage."""

    axes: dict[str, Any]
    config: RunConfig
    baseline: dict[str, Any] | None = None
    """Axis values of the cell this one is compared with; None for a baseline."""
    added: bool = False
    keys: Mapping[str, str] | None = None
    arms: tuple[str, ...] = ()
    """The tuned arms (``sweep.select``) of which this is a try."""
    control: str = ""
    """The control (``sweep.controls``) that this is a cell of."""


@dataclass(frozen=True)
class Plan:
    name: str
    sweep: SweepConfig
    cells: list[Cell]
    steps: dict[str, Step]
    settings: RunConfig
    """The configuration the plan runs under: results folder, engine, tracker, dry run."""
    overrides: tuple[str, ...] = ()
    """What was asked on the command line, word by word."""


def expand(overrides: Sequence[str]) -> list[Cell]:
    """Every cell of a run or sweep, composed and validated. Raises UserError on the user's mistakes."""
    return make_plan(overrides).cells


def make_plan(overrides: Sequence[str], *, config_dir: Path | None = None) -> Plan:
    """Compose, expand and key everything the overrides ask for; touches neither the network nor the results."""
    request = read_request(overrides, config_dir=config_dir)
    with hydra_session():
        composed = compose_config(request.overrides, config_dir=config_dir)
        sweep = sweep_of(composed)
        if sweep is None and not request.axes:
            settings = Parts(composed).run_config({})
            cells = [Cell({}, settings)]
        else:
            sweep = sweep or SweepConfig(table=SweepConfig().table)
            splits = validation_splits(sweep.select, composed) if sweep.select is not None else ()
            grid = points(sweep, fixed=request.fixed, extra=request.axes, splits=splits)
            cells = _compose_cells(grid, request)
            settings = cells[0].config
    keyed, planned = _keyed(
        replace(cell, config=with_trained_template(with_published(scaled(cell.config)))) for cell in cells
    )
    name = sweep.name if sweep is not None and sweep.name else f"run-{make_key({'cells': sorted(planned)})}"
    name = scaled_name(name, settings.scale)
    return Plan(name, sweep or SweepConfig(), keyed, planned, settings, tuple(overrides))


def _compose_cells(grid: Sequence[Point], request: Request) -> list[Cell]:
    swept = {name for point in grid for name in point.axes}
    fixed = [text for text in request.overrides if text.lstrip("+").split("=", 1)[0] not in swept]
    group_names, parts, whole = set(groups()), dict[str, Parts](), False
    cells = []
    for point in grid:
        chosen = {name: value for name, value in point.axes.items() if whole or name in group_names}
        label = signature(chosen)
        if label not in parts:
            config = compose_config([*fixed, *_texts(chosen)], config_dir=request.config_dir)
            if not whole and has_interpolation(config):
                whole = True
                return _compose_whole(grid, fixed, request)
            parts[label] = Parts(config)
        values = {name: value for name, value in point.axes.items() if name not in group_names}
        cells.append(_cell(point, parts[label], values))
    return cells


def _compose_whole(grid: Sequence[Point], fixed: Sequence[str], request: Request) -> list[Cell]:
    """One composition per cell, for configurations in which values refer to each other."""
    cells = []
    for point in grid:
        config = compose_config([*fixed, *_texts(point.axes)], config_dir=request.config_dir)
        cells.append(_cell(point, Parts(config), {}))
    return cells


def _texts(chosen: Mapping[str, Any]) -> list[str]:
    return [override_text(name, value) for name, value in chosen.items()]


def _cell(point: Point, parts: Parts, values: Mapping[str, Any]) -> Cell:
    try:
        config = parts.run_config(values)
    except UserError as error:
        at = ", ".join(f"{name}={value}" for name, value in point.axes.items())
        raise UserError(f"{error} (cell {at})" if at else str(error)) from None
    return Cell(point.axes, config, point.baseline, point.added, arms=point.arms, control=point.control)


def steps(cells: Iterable[Cell]) -> dict[str, Step]:
    """The steps of some cells by key, each after those it needs; cells share equal steps."""
    return _keyed(cells)[1]


def _keyed(cells: Iterable[Cell]) -> tuple[list[Cell], dict[str, Step]]:
    keeper = _Keeper()
    keyed = [replace(cell, keys=keeper.keys(cell.config)) for cell in cells]
    return keyed, keeper.steps


class _Keeper:
    """Builds each distinct step once; configs of a grid share their parts, so parts are told apart by identity."""

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}
        self._made: dict[tuple[Any, ...], Step] = {}
        self._sources: dict[tuple[Any, ...], dict[str, Source]] = {}
        self._alive: list[RunConfig] = []

    def keys(self, config: RunConfig) -> dict[str, str]:
        self._alive.append(config)  # ids stay unique only while the objects live
        wanted = {stage.name for stage in config.stages}
        found: dict[str, str] = {}
        for stage in STAGES.values():
            if stage.name not in wanted or not stage.wanted(config):
                continue
            needs = {}
            for name in stage.needs(config):
                if name not in found:
                    raise UserError(
                        f"stages={sorted(wanted)} lacks {name}, which {stage.name} needs; add it to stages"
                    )
                needs[name] = found[name]
            step = self._step(stage, config, needs)
            found[stage.name] = step.key
        return found

    def _step(self, stage: Stage, config: RunConfig, needs: dict[str, str]) -> Step:
        parts = tuple(id(getattr(config, item.name)) for item in fields(config) if item.name in PARTS)
        memo = (
            stage.name,
            config.seed,
            id(config.noise),
            id(config.regularizer),
            tuple(needs.values()),
            parts,
        )
        if memo not in self._made:
            outside = (stage.name, parts)
            if outside not in self._sources:
                self._sources[outside] = stage.sources(config)
            step = _make_step(stage, config, needs, self._sources[outside])
            self._made[memo] = self.steps.setdefault(step.key, step)
        return self._made[memo]


PARTS = ("model", "dataset", "finetune", "generation", "judge", "leaderboard", "analysis", "engine")
"""Parts that decide a step's outside sources; noise, regularizer and seed have none."""


def _make_step(stage: Stage, config: RunConfig, needs: dict[str, str], sources: dict[str, Source]) -> Step:
    inputs = stage.project(config)
    payload = {
        "stage": stage.name,
        "version": stage.version,
        "config": identity(inputs),
        "needs": needs,
        "sources": {name: source.identity for name, source in sources.items() if source.keyed},
    }
    device = config.engine.device.name
    return Step(
        stage.name, make_key(payload), stage.title(config), stage.version, inputs, needs, sources, device
    )
