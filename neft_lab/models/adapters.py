"""Adapters of low rank (LoRA, arXiv 2106.09685): put on, and merged into what they were trained on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from neft_lab.config import FinetuneConfig
from neft_lab.models.loading import LoadedModel


def add_adapters(
    loaded: LoadedModel, config: FinetuneConfig, *, dtype: torch.dtype = torch.float32
) -> LoadedModel:
    """The model with adapters on all its linear layers but the head; nothing else of it is trained."""
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout,
        target_modules="all-linear", bias="none", task_type="CAUSAL_LM",
    )  # fmt: skip
    with _renamed_properties():
        model = get_peft_model(loaded.model, adapters, autocast_adapter_dtype=False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    # base.json says where the base is; with a path here peft would save a table that has a row for padding too
    model.peft_config["default"].base_model_name_or_path = loaded.model.name_or_path = None
    loaded.model.config.name_or_path = ""
    return LoadedModel(model, loaded.tokenizer)


def merge_adapters(base: LoadedModel, folder: Path) -> LoadedModel:
    """The base with saved adapters added into its weights, in eval mode."""
    from peft import PeftModel

    with _renamed_properties():
        model = PeftModel.from_pretrained(base.model, str(folder)).merge_and_unload()
    return LoadedModel(model.eval(), base.tokenizer)


@contextmanager
def _renamed_properties() -> Iterator[None]:
    """Silence transformers where peft still reads a property by its older name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
