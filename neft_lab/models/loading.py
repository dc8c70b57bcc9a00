"""Reading models: untouched ones from their source, trained ones from the folder of their train step."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from neft_lab.config import UserError
from neft_lab.models.padding import settle_padding, settle_tokenizer
from neft_lab.models.places import source_folder
from neft_lab.models.precision import DTYPES, resolve_precision
from neft_lab.models.tokenizers import read_tokenizer
from neft_lab.quiet import quiet_transformers
from neft_lab.sources import Source
from neft_lab.store import read_json

quiet_transformers()

WARM_BYTES = 2 << 30
"""Weights up to this size stay in memory for the next cell of a grid."""


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model and its tokenizer, whose pad token is not its end token."""

    model: Any
    tokenizer: Any


def load_source(
    source: Source, *, precision: str, device: str, trust_remote_code: bool = False
) -> LoadedModel:
    """An untouched model in eval mode; a small one stays warm, so callers must not change its weights."""
    folder = source_folder(source)
    load = _load_warm if _is_small(folder) else load_folder
    return load(folder, resolve_precision(precision, device), device, trust_remote_code)


def load_for_training(
    source: Source, *, precision: str, device: str, trust_remote_code: bool = False
) -> LoadedModel:
    """An untouched model that may be changed."""
    folder, precision = source_folder(source), resolve_precision(precision, device)
    if not _is_small(folder):
        return load_folder(folder, precision, device, trust_remote_code)
    warm = _load_warm(folder, precision, device, trust_remote_code)
    return LoadedModel(copy.deepcopy(warm.model), warm.tokenizer)


def load_tokenizer(source: Source, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer alone, settled as it is beside its model, at no cost of weights."""
    with told_as_users_mistake(source_folder(source)) as folder:
        tokenizer = read_tokenizer(folder, trust_remote_code=trust_remote_code)
    settle_tokenizer(tokenizer)
    return tokenizer


def load_trained(folder: Path, *, precision: str, device: str) -> LoadedModel:
    """The model of a finished train step, in eval mode; an untouched one comes from its source.

    Adapters are merged into the weights they were trained on: after QLoRA into the 4-bit ones, made plain again.
    """
    pointer = folder / "model.json"
    if pointer.is_file():
        told = read_json(pointer)
        source = Source(**told["source"])
        return load_source(
            source, precision=precision, device=device, trust_remote_code=told["trust_remote_code"]
        )
    return _load_trained(folder, resolve_precision(precision, device), device)


def _is_small(folder: Path) -> bool:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) <= WARM_BYTES


@lru_cache(maxsize=1)
def _load_warm(folder: Path, precision: str, device: str, trust_remote_code: bool) -> LoadedModel:
    return load_folder(folder, precision, device, trust_remote_code)


@lru_cache(maxsize=1)
def _load_trained(folder: Path, precision: str, device: str) -> LoadedModel:
    if not (folder / "adapter").is_dir():
        return load_folder(folder / "model", precision, device, trust_remote_code=False)
    from neft_lab.models.adapters import merge_adapters
    from neft_lab.models.quantized import load_dequantized

    told = read_json(folder / "base.json")
    load = load_dequantized if told.get("quantized") else load_for_training
    base = load(
        Source(**told["source"]),
        precision=precision,
        device=device,
        trust_remote_code=told["trust_remote_code"],
    )
    return merge_adapters(base, folder / "adapter")


def load_folder(
    folder: Path, precision: str, device: str, trust_remote_code: bool, **options: Any
) -> LoadedModel:
    """A model and its tokenizer from safetensors, in eval mode. options go to ``from_pretrained``.

    Raises UserError where the folder cannot be read as a model.
    """
    with told_as_users_mistake(folder):
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=DTYPES[precision], use_safetensors=True, trust_remote_code=trust_remote_code,
            local_files_only=True, **options,
        )  # fmt: skip
        tokenizer = read_tokenizer(folder, trust_remote_code=trust_remote_code)
    settle_padding(model, tokenizer)
    return LoadedModel(model.eval() if "device_map" in options else model.to(device).eval(), tokenizer)


@contextmanager
def told_as_users_mistake(folder: Path) -> Iterator[Path]:
    """The folder; what the libraries raise on one that is torn or no model becomes one line."""
    try:
        yield folder
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"model folder '{folder}' cannot be loaded: {str(error).splitlines()[0]}") from None
