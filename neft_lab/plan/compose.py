"""Overrides to a composed configuration: the only user of Hydra's compose.

Composing costs about 0.1 s, so it is done once per combination of group options.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from neft_lab.config import RunConfig, UserError
from neft_lab.paths import CONF_DIR, SWEEPS_DIR
from neft_lab.plan.keys import options


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
        raise UserError(one_line(error)) from None
    stray = list(_unknown(config))
    if stray:
        raise UserError(
            f"{stray[0]}: no such key; check it against the schema (python -m neft_lab.run --help)"
        )
    return config


def one_line(error: Exception) -> str:
    """Hydra's or OmegaConf's message with the key it is about."""
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
