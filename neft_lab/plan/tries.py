"""Arms that are tuned before they are compared: their tries, equal in number, as points of the grid."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from omegaconf import DictConfig

from neft_lab.config import SelectConfig, SweepConfig, UserError, nearest

SPLIT = "generation.split"
OF_ANSWERS = ("win_rate", "length_controlled_win_rate")
"""What ranks tries by their answers, which must then be answers to validation instructions."""
OF_MODELS = ("held_out_loss", "mmlu", "arc_challenge", "hellaswag", "truthfulqa_mc2")
"""What ranks tries without their answers; claims must be about something else."""


def tuned_arms(select: SelectConfig) -> dict[str, list[dict[str, Any]]]:
    """The tries of every arm: all combinations of its values."""
    return {
        name: [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
        for name, axes in select.arms.items()
    }


def try_keys(select: SelectConfig) -> list[str]:
    """The keys in which tries differ, the same for every arm."""
    return list(next(iter(select.arms.values()), {}))


def baseline_arm(select: SelectConfig) -> str:
    """The arm that the others are compared with."""
    return select.baseline or next(iter(select.arms))


def count_tries(select: SelectConfig) -> int:
    """How many tries each arm has."""
    return len(next(iter(tuned_arms(select).values())))


def validation_splits(select: SelectConfig, config: DictConfig) -> tuple[str, ...]:
    """The splits of instructions that every try answers; none to name where one file is split by hash."""
    own_split = config.generation.source.name != "file" and config.generation.instructions == "starter"
    if select.by == "length_controlled_win_rate" and not own_split:
        raise UserError(
            f"sweep.select.by {select.by} needs a validation split, which '{config.generation.instructions}' lacks; "
            "choose by win_rate"
        )
    return ("validation", "evaluation") if select.by in OF_ANSWERS and own_split else ()


def select_points(
    contexts: Sequence[Mapping[str, Any]], select: SelectConfig, splits: Sequence[str]
) -> Iterator[tuple[dict[str, Any], str]]:
    """Axis values of every try in every context with the name of its arm, validation before held-out."""
    asked = [{SPLIT: split} for split in splits] or [{}]
    for context in contexts:
        for arm, tries in tuned_arms(select).items():
            for values in tries:
                for split in asked:
                    yield {**context, **values, **split}, arm


def check_select(sweep: SweepConfig, select: SelectConfig, given: Collection[str]) -> None:
    """Raise UserError unless the arms can be compared fairly. ``given``: keys of the command line."""
    if len(select.arms) < 2:
        raise UserError(f"sweep.select.arms needs at least two arms, got {list(select.arms)}")
    keys = try_keys(select)
    for name, axes in select.arms.items():
        if set(axes) != set(keys):
            raise UserError(f"sweep.select.arms: '{name}' names {sorted(axes)}, '{next(iter(select.arms))}' names "
                            f"{sorted(keys)}; give every arm the same keys")  # fmt: skip
    counts = {name: len(tries) for name, tries in tuned_arms(select).items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UserError(
            f"sweep.select.arms must have the same number of tries, got {told}; add or remove values"
        )
    if sweep.baseline:
        raise UserError(
            "sweep.baseline is for cells that are not tuned; name the arm in sweep.select.baseline"
        )
    if select.baseline and select.baseline not in select.arms:
        raise UserError(
            f"sweep.select.baseline '{select.baseline}' is no arm; {nearest(select.baseline, select.arms)}"
        )
    _check_chooser(sweep, select)
    _check_keys(sweep, keys, given)


def _check_chooser(sweep: SweepConfig, select: SelectConfig) -> None:
    known = (*OF_ANSWERS, *OF_MODELS)
    if select.by not in known:
        raise UserError(f"sweep.select.by '{select.by}' cannot rank tries; {nearest(select.by, known)}")
    if select.by in OF_MODELS and select.by == sweep.primary:
        raise UserError(f"sweep.select.by and sweep.primary are both {select.by}, measured on the same items; "
                        "choose by one and claim about another")  # fmt: skip


def _check_keys(sweep: SweepConfig, keys: Sequence[str], given: Collection[str]) -> None:
    for name in keys:
        if name in sweep.axes or name in sweep.zip:
            raise UserError(f"{name} is in sweep.select.arms and in the sweep's axes; keep it in one")
        if name in given:
            raise UserError(
                f"{name} is what sweep.select chooses; change it in the sweep file, not on the command line"
            )
    fixed = {"generation", "generation.instructions", "generation.source", SPLIT}
    swept = {*keys, *sweep.axes, *sweep.zip}
    for name in sorted(fixed & swept | ({SPLIT} & set(given))):
        raise UserError(
            f"{name}: sweep.select decides which instructions choose and which report; leave it out"
        )
