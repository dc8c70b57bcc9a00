"""What the missing part of a plan will take: GPU hours, wall time, disk, verdicts, and what it can show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from neft_lab.budget.disk import Disk, measure_disk
from neft_lab.budget.engines import running_at_once, wall_seconds
from neft_lab.budget.measured import Rate, make_task, measure_rates, model_name
from neft_lab.budget.speed import Speed, cpu_speed, gpu_speed, planned_device
from neft_lab.budget.work import Task, Work, plan_work
from neft_lab.config import BudgetConfig, UserError
from neft_lab.execute import Status
from neft_lab.judging.forecast import JudgingBudget, forecast_judging
from neft_lab.plan import Plan, Step
from neft_lab.store import Store

HOUR = 3600.0
STEP_SECONDS = 5.0
"""Loading a model and writing results, where the step's like has not been measured."""
LIGHT_SECONDS = 1.0
"""A step that runs no model."""
CALL_SECONDS = 3.0
"""A verdict over HTTP."""


@dataclass(frozen=True)
class StepCost:
    """What one step takes: on a GPU, and where it will run. None: not known."""

    gpu_seconds: float | None
    seconds: float | None
    told: str
    """measured, FLOPs, or unknown; empty where no model runs."""
    gpu_told: str


@dataclass(frozen=True)
class Budget:
    """The estimate for all missing steps, by stage in the order of the plan."""

    costs: Mapping[str, list[StepCost]]
    gpu: str
    device: str
    engine: str
    wall: float
    """Seconds of everything whose cost is known."""
    disk: Disk
    judging: JudgingBudget
    sizes: list[str]
    """Which models are how large, and where that is known from."""
    unknown: list[str] = field(default_factory=list)
    """Why some of it cannot be estimated."""

    @property
    def gpu_hours(self) -> float:
        """GPU hours of everything whose cost is known."""
        return sum(cost.gpu_seconds or 0.0 for costs in self.costs.values() for cost in costs) / HOUR

    def told(self, *, gpu: bool) -> dict[str, list[str]]:
        """Stages by where their cost is known from."""
        found: dict[str, list[str]] = {}
        for stage, costs in self.costs.items():
            for told in dict.fromkeys(cost.gpu_told if gpu else cost.told for cost in costs):
                if told:
                    found.setdefault(told, []).append(stage)
        return found


def estimate_budget(plan: Plan, status: Status, store: Store) -> Budget:
    """Estimate what is missing of a plan. Reads records and local files, asks neither torch nor the network."""
    settings = plan.settings
    device = planned_device(settings.engine.device.name)
    gpu = gpu_speed(settings.budget.gpu)
    here = gpu if device == "cuda" else cpu_speed()
    estimator = _Estimator(plan, measure_rates(store) if status.missing else {}, gpu, here, device)
    judging = forecast_judging(status.missing, plan.steps, store)
    costs: dict[str, list[StepCost]] = {}
    seconds: dict[str, float] = {}
    trainings: list[tuple[Task, Work]] = []
    for step in status.missing:
        task, work = estimator.work(step)
        cost = estimator.cost(step, task, work)
        costs.setdefault(step.stage, []).append(cost)
        seconds[step.key] = cost.seconds or 0.0
        if step.stage == "train":
            trainings.append((task, work))
    asked = sum(forecast.calls for forecast in judging.forecasts) * CALL_SECONDS / settings.judge.concurrency
    wall = wall_seconds(status.missing, seconds, settings.engine, asked)
    if asked:
        costs["judge"] = [_with_calls(cost, asked / len(costs["judge"])) for cost in costs["judge"]]
    return Budget(
        costs=costs, gpu=f"{settings.budget.gpu.name}, {gpu.words}", device=f"{device}, {here.words}",
        engine=settings.engine.kind.name, wall=wall,
        disk=measure_disk(trainings, at_once=running_at_once(settings.engine, len(trainings)), folder=store.root),
        judging=judging, sizes=estimator.sizes, unknown=estimator.unknown,
    )  # fmt: skip


def _with_calls(cost: StepCost, asked: float) -> StepCost:
    return replace(cost, seconds=None if cost.seconds is None else cost.seconds + asked)


class _Estimator:
    """Work and cost of steps; steps that differ in seed or noise alone are worked out once."""

    def __init__(self, plan: Plan, rates: Mapping[Rate, float], gpu: Speed, here: Speed, device: str) -> None:
        self._plan, self._rates, self._gpu, self._here, self._device = plan, rates, gpu, here, device
        self._tasks: dict[str, Task] = {}
        self._works: dict[tuple[Any, ...], Work] = {}
        self.sizes: list[str] = []
        self.unknown: list[str] = []

    def work(self, step: Step) -> tuple[Task, Work]:
        task = self._task(step)
        same = (step.stage, *(id(part) for config in task.config.values() for part in vars(config).values()))
        if same not in self._works:
            work = self._works[same] = plan_work(task)
            if work.unknown is not None and work.unknown not in self.unknown:
                self.unknown.append(work.unknown)
            self._note_size(task, work)
        return task, self._works[same]

    def _task(self, step: Step) -> Task:
        if step.key not in self._tasks:
            needs = [self._task(self._plan.steps[key]) for key in step.needs.values()]
            self._tasks[step.key] = make_task(
                step.stage, config=step.inputs, sources=step.sources, needs=needs
            )
        return self._tasks[step.key]

    def _note_size(self, task: Task, work: Work) -> None:
        if work.size is not None and task.model is not None:
            line = f"{work.size.parameters:.3g} parameters from {work.size.source}"
            if line not in self.sizes:
                self.sizes.append(line)

    def cost(self, step: Step, task: Task, work: Work) -> StepCost:
        if work.unknown is not None:
            return StepCost(None, None, "unknown", "unknown")
        if not work.tokens:
            return StepCost(0.0, LIGHT_SECONDS, "", "")
        gpu_seconds, gpu_told = self._seconds(task, work, "cuda", self._gpu)
        seconds, told = self._seconds(task, work, self._device, self._here)
        return StepCost(gpu_seconds, seconds, told, gpu_told)

    def _seconds(self, task: Task, work: Work, device: str, speed: Speed) -> tuple[float, str]:
        rate = self._rates.get((task.stage, model_name(task), device))
        if rate is not None:
            return work.tokens / rate, "measured"
        return STEP_SECONDS + speed.seconds(work.operations), "FLOPs"


def check_budget(plan: Plan, status: Status, store: Store) -> None:
    """Refuse to start what is expected to cost more than ``budget.*`` allows. Raises UserError with the remedy."""
    limits: BudgetConfig = plan.settings.budget
    if (limits.max_gpu_hours is None and limits.max_usd is None) or not status.missing:
        return
    budget = estimate_budget(plan, status, store)
    if limits.max_gpu_hours is not None:
        if budget.unknown:
            raise UserError(f"budget.max_gpu_hours={limits.max_gpu_hours:g} cannot be kept: {budget.unknown[0]}; "
                            "budget.max_gpu_hours=null runs all the same")  # fmt: skip
        if budget.gpu_hours > limits.max_gpu_hours:
            raise UserError(f"budget.max_gpu_hours={limits.max_gpu_hours:g} is too little: what is missing is expected to "
                            f"take {budget.gpu_hours:.2g} GPU hours ({budget.gpu}); raise it, or narrow the sweep")  # fmt: skip
    if limits.max_usd is not None:
        _check_dollars(budget.judging, limits.max_usd)


def _check_dollars(judging: JudgingBudget, limit: float) -> None:
    unpriced = [forecast.refusal for forecast in judging.forecasts if forecast.usd is None]
    if unpriced:
        raise UserError(f"budget.max_usd={limit:g} cannot be kept: {unpriced[0]}")
    if judging.usd > limit:
        raise UserError(f"budget.max_usd={limit:g} is too little: the missing verdicts are expected to cost "
                        f"${judging.usd:.2f}; raise it, or judge fewer answers (generation.limit)")  # fmt: skip


def total(costs: Sequence[StepCost], *, gpu: bool) -> float:
    """Seconds of those steps whose cost is known."""
    return math.fsum((cost.gpu_seconds if gpu else cost.seconds) or 0.0 for cost in costs)
