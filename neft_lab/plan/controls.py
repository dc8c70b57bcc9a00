"""Controls of a sweep: comparisons whose answer is known before they are made, as points of its grid."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from neft_lab.config import ControlConfig, SweepConfig, UserError, nearest
from neft_lab.plan.keys import check_key, check_option, groups

EXPECTED = ("same", "higher", "lower")
SEED = "seed"


def control_pairs(
    baselines: Sequence[Mapping[str, Any]], sweep: SweepConfig, given: Collection[str]
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name of the control, its axis values, and those of the baseline it is compared with.

    A seed that the baseline has too is compared with itself, other seeds with the baseline's in their order.
    given: keys of the command line; a control that changes one of them is left out.
    """
    for name, control in sweep.controls.items():
        if {*control.change, *([SEED] if control.seeds else [])} & set(given):
            continue
        for context, own in _contexts(baselines):
            for place, seed in enumerate(control.seeds or own):
                base = seed if seed in own else own[place]
                yield name, {**context, **control.change, SEED: seed}, {**context, SEED: base}


def _contexts(baselines: Sequence[Mapping[str, Any]]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """What baselines share beside their seeds, and these."""
    found: dict[str, tuple[dict[str, Any], list[Any]]] = {}
    for axes in baselines:
        rest = {name: value for name, value in axes.items() if name != SEED}
        found.setdefault(repr(rest), (rest, []))[1].append(axes[SEED])
    yield from found.values()


def check_controls(sweep: SweepConfig) -> None:
    """Raise UserError unless every control can be told from the baseline and compared with it."""
    if not sweep.controls:
        return
    if sweep.select is not None or not sweep.baseline:
        raise UserError("sweep.controls are compared with sweep.baseline; name one, and tune no arms")
    seeds = sweep.axes.get(SEED)
    if not seeds:
        raise UserError("sweep.controls need the axis 'seed'; add it to sweep.axes")
    for name, control in sweep.controls.items():
        _check_control(f"sweep.controls.{name}", control, seeds)


def _check_control(name: str, control: ControlConfig, seeds: Sequence[Any]) -> None:
    if control.expect not in EXPECTED:
        raise UserError(f"{name}.expect '{control.expect}' is unknown; {nearest(control.expect, EXPECTED)}")
    if not control.change and not control.seeds:
        raise UserError(f"{name} is the baseline itself; give it 'change' or other 'seeds'")
    for key, value in control.change.items():
        check_option(key, value) if key in groups() else check_key(key)
    others = [seed for seed in control.seeds if seed not in seeds]
    if others and (len(others) < len(control.seeds) or len(others) > len(seeds)):
        raise UserError(
            f"{name}.seeds must all be among the sweep's seeds {seeds}, or all be others and no more than these"
        )
