"""The model that a training changes."""

from __future__ import annotations

import torch

from neft_lab.config import FinetuneConfig, Method
from neft_lab.models.adapters import add_adapters
from neft_lab.models.frozen import freeze_parts
from neft_lab.models.loading import LoadedModel, load_for_training
from neft_lab.models.precision import DTYPES, WeightDtypes, training_dtypes
from neft_lab.models.quantized import load_quantized
from neft_lab.sources import Source


def load_adapted(
    source: Source, config: FinetuneConfig, *, device: str, trust_remote_code: bool
) -> LoadedModel:
    """All weights, adapters, or adapters on 4-bit weights, as ``config.method`` has it; frozen parts are frozen.

    Weights that learn have ``requires_grad``; dtypes are those of ``precision.training_dtypes``, and for
    precision bf16 the caller computes under autocast. Gradient checkpointing is the caller's.
    """
    dtypes = training_dtypes(config, device)
    loaded = _load_base(source, config, dtypes, device, trust_remote_code)
    if config.method is not Method.full:
        loaded = add_adapters(loaded, config, dtype=dtypes.trained)
    freeze_parts(loaded.model, config.freeze)
    return loaded


def _load_base(
    source: Source, config: FinetuneConfig, dtypes: WeightDtypes, device: str, trust_remote_code: bool
) -> LoadedModel:
    if config.method is Method.qlora:
        return load_quantized(source, device=device, trust_remote_code=trust_remote_code,
                              dtype=dtypes.base, norm_dtype=dtypes.trained)  # fmt: skip
    names: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}
    return load_for_training(
        source, precision=names[dtypes.base], device=device, trust_remote_code=trust_remote_code
    )
