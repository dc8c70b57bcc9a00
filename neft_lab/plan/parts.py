"""Typed configurations from a composition, of which a swept value rebuilds only the part that it touches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from neft_lab.config import RunConfig, SweepConfig, UserError
from neft_lab.plan.compose import one_line


def sweep_of(config: DictConfig) -> SweepConfig | None:
    """The sweep a composition asks for, as an object."""
    if config.sweep is None:
        return None
    sweep: SweepConfig = _to_object(config.sweep)
    return sweep


def has_interpolation(config: DictConfig) -> bool:
    """Whether a value refers to another, so that parts cannot be rebuilt alone."""
    return "${" in json.dumps(OmegaConf.to_container(config, resolve=False, enum_to_str=True), default=str)


class Parts:
    """Typed parts of one composition; a part is built once per set of values that touch it."""

    def __init__(self, config: DictConfig) -> None:
        self._config = config
        self._scalars = OmegaConf.structured(RunConfig)
        self._built: dict[tuple[str, str], Any] = {}

    def run_config(self, values: Mapping[str, Any]) -> RunConfig:
        """The run configuration with dotted keys set to values."""
        touched: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            top, _, rest = name.partition(".")
            touched.setdefault(top, {})[rest] = value
        names = [item.name for item in fields(RunConfig)]
        return RunConfig(**{name: self._part(name, touched.get(name, {})) for name in names})

    def _part(self, name: str, values: dict[str, Any]) -> Any:
        if name == "sweep":
            return None
        cached = (name, repr(values))
        if cached not in self._built:
            self._built[cached] = self._build(name, values)
        return self._built[cached]

    def _build(self, name: str, values: dict[str, Any]) -> Any:
        full = f"{name}.{next(iter(values), '')}".rstrip(".")
        try:
            if "" in values:
                self._scalars[name] = values[""]
                value = self._scalars[name]
            else:
                value = self._config[name]
                if values:
                    value = value.copy()
                    for inner, item in values.items():
                        full = f"{name}.{inner}"
                        OmegaConf.update(value, inner, item)
        except OmegaConfBaseException as error:
            raise UserError(f"{full}: {str(error).splitlines()[0]}") from None
        return _to_object(value)


def _to_object(value: Any) -> Any:
    if not OmegaConf.is_config(value):
        return value
    try:
        return OmegaConf.to_object(value)
    except OmegaConfBaseException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise UserError(one_line(error)) from None
