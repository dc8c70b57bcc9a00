"""Overrides to typed configurations: the only user of Hydra's compose.

Composing costs about 0.1 s, so it is done once per combination of group options; a swept value rebuilds only
the part of the configuration that it touches.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from neft_lab.config import RunConfig, SweepConfig, UserError, nearest
from neft_lab.paths import CONF_DIR, SWEEPS_DIR


@dataclass(frozen=True)
class Request:
    """What the command line asks: plain overrides, and the keys it sweeps (``key=a,b``)."""

    overrides: list[str] = field(default_factory=list)
    fixed: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, list[Any]] = field(default_factory=dict)
    config_dir: Path | None = None


def register(sweeps: Iterable[str] | None = None) -> None:
    """Make the schema known to Hydra, and files of ``sweeps/``: all, or only those of some names (parsing is slow)."""
    store = ConfigStore.instance()
    store.store(name="schema", node=RunConfig)
    for name in options("sweep") if sweeps is None else sweeps:
        path = SWEEPS_DIR / f"{name}.yaml"
        if path.is_file():
            store.store(group="sweep", name=name, node=_read_sweep(path), package="_global_")


@lru_cache
def _read_sweep(path: Path) -> Any:
    return OmegaConf.load(path)


def options(group: str, config_dir: Path | None = None) -> list[str]:
    """Names of the options of one group of ``conf/`` (or of ``sweeps/``), the user's own included."""
    folders = [SWEEPS_DIR if group == "sweep" else CONF_DIR / group]
    if config_dir is not None:
        folders.append(config_dir / group)
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def groups() -> list[str]:
    return sorted(folder.name for folder in CONF_DIR.iterdir() if folder.is_dir())


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


def check_option(group: str, option: Any, config_dir: Path | None = None) -> None:
    """Raise UserError unless ``conf/`` has the option."""
    known = options(group, config_dir)
    if option not in known:
        raise UserError(f"{group}={option}: no such {group}; {nearest(str(option), known)}")


def check_key(name: str) -> None:
    """Raise UserError unless the schema has the dotted key, whatever plus sign stands before it."""
    owner: Any = RunConfig
    walked: list[str] = []
    for part in name.split("."):
        if owner in (None, Any) or (isinstance(owner, type) and not is_dataclass(owner)):
            raise UserError(f"{name}: '{'.'.join(walked)}' is a value and has no key '{part}'")
        if not is_dataclass(owner):  # a mapping inside a sweep: any key
            return
        known = [item.name for item in fields(owner)]
        if part not in known:
            near = nearest(part, [*known, *groups()] if owner is RunConfig else known)
            raise UserError(f"{name}: no such key; {near}")
        owner = _field_type(owner, part)
        walked.append(part)


def _field_type(owner: Any, name: str) -> Any:
    kind = get_type_hints(owner)[name]
    inner = [item for item in get_args(kind) if is_dataclass(item)]
    return inner[0] if inner and type(None) in get_args(kind) else kind


@contextmanager
def hydra_session() -> Iterator[None]:
    """Hydra initialised on ``conf/``, and left as it was found."""
    register(sweeps=())
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(CONF_DIR), version_base="1.3", job_name="neft_lab"):
        yield


def compose_config(overrides: Sequence[str], *, config_dir: Path | None = None) -> DictConfig:
    """One composition, checked for keys that nobody reads. Hydra's own messages become one line."""
    register(text.partition("=")[2] for text in overrides if text.lstrip("+").startswith("sweep="))
    extra = [] if config_dir is None else [f"hydra.searchpath=[file://{config_dir.resolve()}]"]
    try:
        config = compose("config", [*overrides, *extra])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_one_line(error)) from None
    stray = list(_unknown(config))
    if stray:
        raise UserError(
            f"{stray[0]}: no such key; check it against the schema (python -m neft_lab.run --help)"
        )
    return config


def _one_line(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    name = getattr(cause, "full_key", None)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    message = lines[0] if lines else type(cause).__name__
    if message.endswith("raised while composing config:") and len(lines) > 1:
        message = f"{message.split(':')[0]}: {lines[1]}" + "".join(f"; {line}" for line in lines[2:3])
    return f"{name}: {message}" if name and name not in message else message


def _unknown(node: Any, path: str = "") -> Iterator[str]:
    kind = OmegaConf.get_type(node) if isinstance(node, DictConfig) else None
    if kind is None or not is_dataclass(kind):
        return
    known = {item.name for item in fields(kind)}
    for name in node:
        if name not in known:
            yield f"{path}{name}"
        elif not OmegaConf.is_missing(node, name) and not OmegaConf.is_interpolation(node, name):
            yield from _unknown(node._get_node(name), f"{path}{name}.")


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
        raise UserError(_one_line(error)) from None


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
