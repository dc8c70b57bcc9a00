"""4-bit weights (QLoRA, arXiv 2305.14314): NF4 with double quantisation, computed in bfloat16."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from neft_lab.config import UserError
from neft_lab.models.loading import LoadedModel, load_folder
from neft_lab.models.places import source_folder
from neft_lab.models.precision import DTYPES, resolve_precision
from neft_lab.sources import Source


def load_quantized(
    source: Source,
    *,
    device: str,
    trust_remote_code: bool = False,
    dtype: torch.dtype = torch.float32,
    norm_dtype: torch.dtype = torch.float32,
) -> LoadedModel:
    """A model whose linear layers, all but the head, are 4-bit; none of its weights is trained.

    dtype is that of embeddings and head, norm_dtype of every other weight that is left (norms and biases).
    The recipe has bfloat16 and float32, and needs autocast. Raises UserError without bitsandbytes.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("finetune=qlora needs the package bitsandbytes; install neft-lab[qlora]")
    from transformers import BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    name = next(name for name, known in DTYPES.items() if known is dtype)
    loaded = load_folder(
        source_folder(source), name, device, trust_remote_code,
        quantization_config=quantization, device_map={"": device},
    )  # fmt: skip
    model = loaded.model
    tables = {id(layer.weight) for layer in (model.get_input_embeddings(), model.get_output_embeddings())}
    _keep_differentiable(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        if parameter.is_floating_point() and id(parameter) not in tables:
            parameter.data = parameter.data.to(norm_dtype)
    return loaded


def _keep_differentiable(model: Any) -> None:
    """On a CPU with AVX-512 bfloat16, a pass in eval mode would pack the weights for a kernel without gradient.

    Training after it would go on, with no gradient below the last 4-bit layer.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def load_dequantized(
    source: Source, *, precision: str, device: str, trust_remote_code: bool = False
) -> LoadedModel:
    """A model of plain weights that are those of ``load_quantized``: rounded to 4 bits, stored in full."""
    dtype = DTYPES[resolve_precision(precision, device)]
    loaded = load_quantized(source, device=device, trust_remote_code=trust_remote_code, dtype=dtype)
    return LoadedModel(loaded.model.dequantize(dtype=dtype).to(dtype), loaded.tokenizer)
