"""The estimate in words, a line each."""

from __future__ import annotations

from collections.abc import Iterator

from neft_lab.budget.estimate import HOUR, Budget, StepCost, total
from neft_lab.config import BudgetConfig
from neft_lab.statistics import SmallestDifference

DAY = 24 * HOUR


def budget_lines(
    budget: Budget, limits: BudgetConfig, foreseen: SmallestDifference | str | None
) -> Iterator[str]:
    """GPU hours, wall time, disk, verdicts and the smallest difference, with what each rests on."""
    yield f"GPU hours: {_hours(budget)}"
    yield f"wall time: {_wall(budget)} on engine {budget.engine} ({_told(budget, gpu=False)}; {budget.device})"
    yield f"disk: {budget.disk}"
    yield from _judging(budget)
    for reason in budget.unknown:
        yield f"not in these numbers: {reason}"
    if foreseen is not None:
        yield f"smallest difference: {foreseen}"
    for name, limit, needed in (
        ("max_gpu_hours", limits.max_gpu_hours, budget.gpu_hours),
        ("max_usd", limits.max_usd, budget.judging.usd),
    ):
        if limit is not None and needed > limit:
            yield f"budget.{name}={limit:g} will refuse to start this"


def _hours(budget: Budget) -> str:
    parts = {
        stage: sum(cost.gpu_seconds or 0.0 for cost in costs) / HOUR for stage, costs in budget.costs.items()
    }
    shown = ", ".join(f"{stage} {_amount(hours)}" for stage, hours in parts.items() if hours)
    sizes = f"; {'; '.join(budget.sizes)}" if budget.sizes else ""
    least = "at least " if budget.unknown else ""
    return f"{least}{_amount(budget.gpu_hours)}{f' ({shown})' if shown else ''}, {_told(budget, gpu=True)}; {budget.gpu}{sizes}"


def _wall(budget: Budget) -> str:
    return f"{'at least ' if budget.unknown else ''}{_clock(budget.wall)}"


def _amount(hours: float) -> str:
    """Two digits, never as a power of ten."""
    return f"{hours:.2g}" if hours < 100 else f"{hours:,.0f}"


def _told(budget: Budget, *, gpu: bool) -> str:
    words = {"measured": "measured here", "FLOPs": "from FLOPs", "unknown": "not known"}
    told = budget.told(gpu=gpu)
    return ", ".join(f"{', '.join(stages)} {words[how]}" for how, stages in told.items()) or "no model runs"


def _judging(budget: Budget) -> Iterator[str]:
    if not budget.judging.forecasts:
        yield "judge: no calls, $0"
    for forecast in budget.judging.forecasts:
        yield str(forecast)
    if budget.judging.over is not None:
        yield budget.judging.over


def stage_seconds(costs: list[StepCost]) -> str:
    """Wall seconds of a stage's missing steps, one after the other."""
    unknown = sum(cost.seconds is None for cost in costs)
    if unknown == len(costs):
        return "not known"
    return f"{'at least ' if unknown else ''}{_clock(total(costs, gpu=False))}"


def _clock(seconds: float) -> str:
    for unit, name in ((365 * DAY, "years"), (DAY, "days"), (HOUR, "h"), (60.0, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.0f} s"
