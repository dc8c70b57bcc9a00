"""The command line's overrides, parsed by Hydra's grammar and checked before anything is composed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from neft_lab.config import UserError
from neft_lab.plan.keys import check_key, check_option, groups


@dataclass(frozen=True)
class Request:
    """What the command line asks: plain overrides, and the keys it sweeps (``key=a,b``)."""

    overrides: list[str] = field(default_factory=list)
    fixed: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, list[Any]] = field(default_factory=dict)
    config_dir: Path | None = None


def read_request(arguments: Sequence[str], *, config_dir: Path | None = None) -> Request:
    """Parse and check command-line overrides. Raises UserError on whatever Hydra would take in silence."""
    request = Request(config_dir=config_dir)
    for argument in arguments:
        try:
            override = OverridesParser.create().parse_override(argument)
        except HydraException as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"'{argument}' is not of the form key=value ({reason}); quote values with spaces"
            ) from None
        _check_override(override, argument, config_dir)
        name = str(override.key_or_group)
        if override.is_sweep_override():
            request.axes[name] = list(override.sweep_iterator())
            continue
        request.overrides.append(argument)
        if name != "sweep" and not name.startswith("sweep."):
            request.fixed[name] = override.value()
    return request


def _check_override(override: Override, argument: str, config_dir: Path | None) -> None:
    name = str(override.key_or_group)
    if override.is_delete():
        raise UserError(f"'{argument}' deletes a key; every key is needed, give it another value")
    if name == "sweep":
        _check_sweep(override, argument, config_dir)
    elif name in groups():
        chosen = list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]
        for option in chosen:
            check_option(name, option, config_dir)
    else:
        check_key(name)


def _check_sweep(override: Override, argument: str, config_dir: Path | None) -> None:
    value = override.value()
    if not override.is_add() and not override.is_force_add():
        raise UserError(f"'{argument}' needs a plus: +{argument}")
    if override.is_sweep_override() or isinstance(value, list | dict):
        raise UserError(f"'{argument}' names several sweeps; run one sweep at a time")
    check_option("sweep", value, config_dir)


def override_text(name: str, value: Any) -> str:
    """``key=value`` in Hydra's grammar for a value of a sweep file."""
    return f"{name}={_quoted(value)}"


def _quoted(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list):
        return "[" + ",".join(_quoted(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_quoted(item)}" for name, item in value.items()) + "}"
    return str(value)
