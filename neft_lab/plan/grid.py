"""A sweep's axes to the points of its grid: products, pairs, narrowing, and the baseline always in."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from neft_lab.config import SweepConfig, UserError, nearest
from neft_lab.plan.controls import check_controls, control_pairs
from neft_lab.plan.keys import check_key, check_option, groups
from neft_lab.plan.tries import check_select, select_points


@dataclass(frozen=True)
class Point:
    """One point of the grid. ``baseline`` is the point it is compared with, None for a baseline itself."""

    axes: dict[str, Any]
    baseline: dict[str, Any] | None
    added: bool = False
    """Not asked for; there because other points are compared with it."""
    arms: tuple[str, ...] = ()
    """The tuned arms of which this is a try."""
    control: str = ""
    """The control (``sweep.controls``) that this is a cell of."""


def points(
    sweep: SweepConfig,
    *,
    fixed: Mapping[str, Any],
    extra: Mapping[str, Sequence[Any]],
    splits: Sequence[str] = (),
) -> list[Point]:
    """All points of a sweep; keys the command line fixed are not swept, keys it sweeps replace the file's values.

    ``splits``: the sets of instructions that every try of a tuned arm answers.
    """
    axes = {name: list(values) for name, values in {**sweep.axes, **extra}.items()}
    _check_axes(axes, sweep, fixed)
    axes = {name: [fixed[name]] if name in fixed else values for name, values in axes.items()}
    rows = _zip_rows(sweep, {**{name: [value] for name, value in fixed.items()}, **extra})
    asked = [dict(zip(axes, values, strict=True)) | row for values in product(*axes.values()) for row in rows]
    if sweep.select is None:
        grid = list(_with_baselines(asked, sweep.baseline))
        return grid + _control_points(grid, sweep, {*fixed, *extra})
    check_select(sweep, sweep.select, {*fixed, *extra})
    tried: dict[str, Point] = {}
    for values, arm in select_points(asked, sweep.select, splits):
        point = tried.setdefault(signature(values), Point(values, None))
        tried[signature(values)] = replace(point, arms=tuple(dict.fromkeys((*point.arms, arm))))
    return list(tried.values())


def signature(axes: Mapping[str, Any]) -> str:
    """One text for equal axis values (0 and 0.0 are equal)."""
    return json.dumps(
        {name: float(value) if type(value) is int else value for name, value in axes.items()},
        sort_keys=True,
        default=str,
    )


def _control_points(grid: Sequence[Point], sweep: SweepConfig, given: Collection[str]) -> list[Point]:
    check_controls(sweep)
    pairs = control_pairs([one.axes for one in grid if one.baseline is None], sweep, given)
    return [Point(axes, base, control=name) for name, axes, base in pairs]


def _check_axes(axes: Mapping[str, list[Any]], sweep: SweepConfig, fixed: Mapping[str, Any]) -> None:
    if not axes and not sweep.zip and sweep.select is None:
        raise UserError(f"sweep.axes of '{sweep.name}' is empty; give at least one axis")
    tuned = [] if sweep.select is None else [one for arm in sweep.select.arms.values() for one in arm.items()]
    for name, values in [*axes.items(), *sweep.zip.items(), *tuned]:
        _check_axis(name, values, repeats=name in sweep.zip)
    both = set(sweep.axes) & set(sweep.zip)
    if both:
        raise UserError(f"sweep.axes and sweep.zip both name {sorted(both)[0]}; keep it in one")
    swept = {**axes, **sweep.zip}
    known = [*swept, *(["arm"] if sweep.select is not None else [])]
    for name in sweep.family:
        if name not in known:
            raise UserError(f"sweep.family names '{name}', which is no axis; {nearest(name, known)}")
    swept_groups = {name for name in swept if name in groups() and name not in fixed and len(swept[name]) > 1}
    for name in fixed:
        top = name.split(".")[0]
        if name not in axes and "." in name and top in swept_groups:
            raise UserError(
                f"{name} lies below the swept group '{top}' and would override every option; fix {top}=..."
            )


def _check_axis(name: str, values: Any, *, repeats: bool) -> None:
    if not isinstance(values, list) or not values:
        raise UserError(f"sweep axis {name} must be a list with at least one value, got {values!r}")
    if name in groups():
        for option in values:
            check_option(name, option)
    else:
        check_key(name)
    seen = [signature({"value": value}) for value in values]
    if len(set(seen)) < len(seen) and not repeats:
        twice = next(value for value, text in zip(values, seen, strict=True) if seen.count(text) > 1)
        raise UserError(f"sweep axis {name} has {twice!r} twice; each value once")


def _zip_rows(sweep: SweepConfig, narrowed: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    if not sweep.zip:
        return [{}]
    lengths = {name: len(values) for name, values in sweep.zip.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"sweep.zip pairs lists of equal length, got {lengths}")
    rows = [dict(zip(sweep.zip, values, strict=True)) for values in zip(*sweep.zip.values(), strict=True)]
    for name in sweep.zip:
        if name in narrowed:
            kept = [row for row in rows if row[name] in narrowed[name]]
            rows = kept or [row | {name: value} for row in rows for value in narrowed[name]]
    unique = {signature(row): row for row in rows}
    return list(unique.values())


def _with_baselines(asked: Sequence[dict[str, Any]], baseline: Mapping[str, Any]) -> Iterator[Point]:
    seen = {signature(axes) for axes in asked}
    for axes in asked:
        reference = {**axes, **baseline} if baseline else axes
        yield Point(axes, None if signature(reference) == signature(axes) else reference)
    for axes in asked:
        reference = {**axes, **baseline} if baseline else axes
        if signature(reference) not in seen:
            seen.add(signature(reference))
            yield Point(reference, None, added=True)
