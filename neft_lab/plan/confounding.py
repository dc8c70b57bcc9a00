"""What changes together with the noise, so that a difference would have two causes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from neft_lab.config import (
    FinetuneConfig,
    Layout,
    NoiseConfig,
    NoiseLength,
    NoiseScale,
    NoiseStrength,
    RunConfig,
    identity,
)

TRAINED = ("model", "dataset", "regularizer", "finetune", "seed")
"""Parts beside the noise that decide a training."""
NAMES = ("name",)
"""Fields that only name an option."""


class Planned(Protocol):
    """A cell of a plan, or its row of results."""

    @property
    def axes(self) -> Mapping[str, Any]: ...
    @property
    def config(self) -> RunConfig: ...
    @property
    def baseline(self) -> Mapping[str, Any] | None: ...
    @property
    def control(self) -> str: ...


def find_confounding(cells: Sequence[Planned]) -> list[str]:
    """One line for each way in which a comparison of these cells mixes the dose of noise with something else."""
    cells = [cell for cell in cells if not cell.control]
    found = [*_changed_with_noise(cells), *_length_laws(cells), *_models(cells), *_kinds(cells)]
    return list(dict.fromkeys(found))


def _changed_with_noise(cells: Sequence[Planned]) -> Iterator[str]:
    """Cells that differ from their baseline in the noise and in something else of the training."""
    at = {repr(dict(cell.axes)): cell for cell in cells}
    for cell in cells:
        base = at.get(repr(dict(cell.baseline))) if cell.baseline is not None else None
        if base is None or _noise(cell.config) == _noise(base.config):
            continue
        others = list(_differing(cell.config, base.config))
        if others:
            yield f"{', '.join(others)} changes together with the noise: a difference from the baseline has two causes"


def _noise(config: RunConfig) -> Any:
    return None if config.noise.silent else identity(config.noise)


def _differing(config: RunConfig, other: RunConfig) -> Iterator[str]:
    for part in TRAINED:
        one, two = getattr(config, part), getattr(other, part)
        if one is two or identity(one) == identity(two):
            continue
        inner = identity(one)
        if part in ("model", "dataset") or not isinstance(inner, dict):
            yield part
            continue
        yield from (
            f"{part}.{name}"
            for name, value in inner.items()
            if name not in NAMES and value != identity(two)[name]
        )


def _length_laws(cells: Sequence[Planned]) -> Iterator[str]:
    """Settings that change the dose because the noise scales with the length of a padded or packed row."""
    noisy = [cell.config for cell in cells if not cell.config.noise.silent]
    for law in (NoiseLength.padded, NoiseLength.packed_row):
        configs = [config for config in noisy if config.noise.length is law and _by_alpha(config.noise)]
        rows = dict.fromkeys(_row_length(config.finetune) for config in configs)
        changed = [name for name, *values in zip(ROW_KEYS, *rows, strict=True) if len(set(values)) > 1]
        if changed:
            yield (f"noise.length={law.name} scales the noise by the row, so {', '.join(changed)} changes the dose at "
                   "equal noise.alpha; noise.length=sample does not")  # fmt: skip
        if len({config.dataset.name for config in configs}) > 1:
            yield (f"noise.length={law.name} scales the noise by the row, so data sets of other lengths get another dose "
                   "at equal noise.alpha")  # fmt: skip


ROW_KEYS = (
    "finetune.layout",
    "finetune.max_length",
    "finetune.token_budget",
    "finetune.batch",
    "finetune.micro_batch",
)


def _row_length(finetune: FinetuneConfig) -> tuple[str | int, ...]:
    """What decides how long a row is, in the order of ROW_KEYS; settings that the layout does not read are zero."""
    if finetune.layout is Layout.packed:
        return (finetune.layout.name, finetune.max_length, finetune.token_budget, finetune.batch, 0)
    return (finetune.layout.name, finetune.max_length, 0, 0, finetune.micro_batch)


def _by_alpha(noise: NoiseConfig) -> bool:
    return noise.strength is NoiseStrength.alpha


def _models(cells: Sequence[Planned]) -> Iterator[str]:
    configs = [cell.config for cell in cells]
    noisy = {
        config.model.name for config in configs if not config.noise.silent and _relative_unknown(config.noise)
    }
    if len(noisy) > 1:
        yield (f"{', '.join(sorted(noisy))}: embeddings of models differ in size several-fold, so equal noise.alpha is no "
               "equal dose; compare noise RMS / embedding RMS, or use noise.strength=proportional")  # fmt: skip


def _relative_unknown(noise: NoiseConfig) -> bool:
    return noise.strength is not NoiseStrength.proportional


def _kinds(cells: Sequence[Planned]) -> Iterator[str]:
    noisy = [cell.config.noise for cell in cells if not cell.config.noise.silent]
    raw = {noise.kind.name for noise in noisy if noise.scale is NoiseScale.raw and _by_alpha(noise)}
    if len(raw) > 1:
        yield (f"{', '.join(sorted(raw))} noise with noise.scale=raw: at equal noise.alpha the normal and the sign noise are "
               "sqrt(3) times the uniform one; noise.scale=matched makes them equal")  # fmt: skip
