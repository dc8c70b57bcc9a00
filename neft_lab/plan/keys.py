"""Which groups, options and keys a configuration has; a name that is none of them is told the nearest."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from neft_lab.config import RunConfig, UserError, nearest
from neft_lab.paths import CONF_DIR, SWEEPS_DIR


def options(group: str, config_dir: Path | None = None) -> list[str]:
    """Names of the options of one group of ``conf/`` (or of ``sweeps/``), the user's own included."""
    folders = [SWEEPS_DIR if group == "sweep" else CONF_DIR / group]
    if config_dir is not None:
        folders.append(config_dir / group)
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def groups() -> list[str]:
    return sorted(folder.name for folder in CONF_DIR.iterdir() if folder.is_dir())


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
