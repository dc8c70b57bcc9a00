"""How small a difference a plan can see, before it is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from neft_lab.budget.texts import read_texts
from neft_lab.budget.work import BENCHMARKS
from neft_lab.claims.labels import unit_of
from neft_lab.claims.pilot import items_of, pilot_variation
from neft_lab.claims.results import CellResult
from neft_lab.config import RunConfig
from neft_lab.plan import Cell, Plan
from neft_lab.plan.tries import SPLIT
from neft_lab.statistics import PUBLISHED_PAIR, SmallestDifference, smallest_difference

UNSEEN = "not known before a pilot: no pair of arms has a {metric} yet"


def foresee_difference(plan: Plan, rows: Sequence[CellResult]) -> SmallestDifference | str | None:
    """The smallest difference of the primary metric, or why it is not known; None where nothing is compared.

    ``rows``: what is there already, which tells how much arms vary; else the published pair does, for win rates.
    """
    arms = _compared_arms(plan)
    items = _count_items(plan)
    if not arms or not items:
        return None
    metric = plan.sweep.primary
    unit, items_are = unit_of(metric), items_of(metric)
    variation = pilot_variation(rows, plan.sweep)
    if variation is None and metric != "win_rate":
        return UNSEEN.format(metric=metric)
    return smallest_difference(
        items=items, seeds=min(arms.values()), variation=variation or PUBLISHED_PAIR, comparisons=_family(plan, arms),
        unit=unit, items_are=items_are,
    )  # fmt: skip


def _compared_arms(plan: Plan) -> Mapping[str, int]:
    """Seeds of every arm that is compared with a baseline."""
    arms: dict[str, int] = {}
    for cell in plan.cells:
        for name in _arm_names(cell, plan):
            arms[name] = arms.get(name, 0) + 1
    return arms


def _arm_names(cell: Cell, plan: Plan) -> list[str]:
    select = plan.sweep.select
    if select is None:
        return [] if cell.baseline is None or cell.control else [_without(cell.axes, {"seed"})]
    base = select.baseline or next(iter(select.arms))
    first = {name: {key: values[0] for key, values in axes.items()} for name, axes in select.arms.items()}
    tries = {SPLIT, "seed", *(key for axes in select.arms.values() for key in axes)}
    return [
        f"{arm} {_without(cell.axes, tries)}"
        for arm in cell.arms
        if arm != base
        and cell.axes.get(SPLIT) != "validation"
        and all(cell.axes[key] == value for key, value in first[arm].items())
    ]


def _without(axes: Mapping[str, object], names: set[str]) -> str:
    return repr({name: value for name, value in axes.items() if name not in names})


def _family(plan: Plan, arms: Mapping[str, int]) -> int:
    """Comparisons of one family: all, or those that share the axes outside ``sweep.family``."""
    family = plan.sweep.family
    if not family or plan.sweep.select is not None:
        return len(arms)
    outside: dict[str, set[str]] = {}
    for cell in plan.cells:
        if cell.baseline is not None:
            outside.setdefault(_without(cell.axes, {*family, "seed"}), set()).add(
                _without(cell.axes, {"seed"})
            )
    return max(map(len, outside.values()))


def _count_items(plan: Plan) -> int:
    """Instructions, rows or documents that the primary metric is measured on, in the smallest cell."""
    counts = {id(cell.config.generation): _items_of(cell, plan) for cell in plan.cells
              if cell.axes.get(SPLIT) != "validation"}  # fmt: skip
    return min(counts.values(), default=0)


def _items_of(cell: Cell, plan: Plan) -> int:
    config, metric = cell.config, plan.sweep.primary
    if metric in ("held_out_loss", "train_rows_loss"):
        return config.analysis.rows
    if metric in BENCHMARKS:
        return _documents(config, metric)
    step = plan.steps.get((cell.keys or {}).get("generate", ""))
    source = None if step is None else next(iter(step.sources.values()), None)
    texts = None if source is None else read_texts(source)
    limit = config.generation.limit
    return limit or 0 if texts is None else min(texts.rows, limit or texts.rows)


def _documents(config: RunConfig, metric: str) -> int:
    known = BENCHMARKS[metric]
    for asked in config.leaderboard.tasks:
        if asked.task == metric:
            groups = len(asked.subsets) if asked.subsets else known.groups
            whole = known.documents * groups // known.groups
            return min(whole, (asked.limit or whole) * groups)
    return 0
