"""How large a model is, without loading it: from its weights' headers, its config.json, or its name."""

from __future__ import annotations

import json
import math
import re
import struct
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from neft_lab.sources import Source

BILLION, MILLION = 1e9, 1e6
UNITS = {"b": BILLION, "m": MILLION}


@dataclass(frozen=True)
class ModelSize:
    """Parameters, layers and width, and where they are known from."""

    parameters: float
    layers: float
    width: float
    source: str

    @property
    def attention(self) -> float:
        """Floating-point operations of attention per token and token of its context, forward: 4 x layers x width.

        Half of the context is ahead of a token on average, so 2 x layers x width x length per token of an example.
        """
        return 4 * self.layers * self.width

    def adapter_parameters(self, rank: int) -> float:
        """Parameters of adapters of a rank on all linear layers of a LLaMA block (hidden layers 2.7 x the width)."""
        return 19 * self.width * rank * self.layers


@lru_cache
def size_of(source: Source, *names: str) -> ModelSize | None:
    """The size of a model; ``names`` (hub id, file, option) are read in turn where its files are not here."""
    if source.kind == "random":
        return ModelSize(1e5, 2, 64, "a tiny random model")
    if source.kind == "folder":
        return _size_of_folder(Path(source.location))
    for name in names:
        if (parameters := read_name(name)) is not None:
            return guess_shape(parameters, f"the name {name}")
    return None


def read_name(name: str) -> float | None:
    """Parameters that a name tells: ``Llama-2-7b-hf`` 7e9, ``SmolLM2-135M`` 135e6, ``opt-6.7b`` 6.7e9."""
    found = re.findall(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", name.lower())
    return float(found[-1][0]) * UNITS[found[-1][1]] if found else None


def guess_shape(parameters: float, source: str) -> ModelSize:
    """Layers and width of a LLaMA of that size: 12 layers x width^2 parameters, heads of 128, as many as layers."""
    layers = (parameters / (12 * 128**2)) ** (1 / 3)
    return ModelSize(parameters, layers, 128 * layers, source)


def _size_of_folder(folder: Path) -> ModelSize | None:
    config: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    layers = config.get("num_hidden_layers") or config.get("n_layer")
    width = config.get("hidden_size") or config.get("n_embd")
    parameters = sum(_count_parameters(path) for path in sorted(folder.glob("*.safetensors")))
    source = "its weights"
    if not parameters and layers and width:
        hidden = config.get("intermediate_size") or config.get("ffn_dim") or 4 * width
        tables = 1 if config.get("tie_word_embeddings", True) else 2
        parameters = (
            layers * (4 * width**2 + 3 * width * hidden) + tables * config.get("vocab_size", 0) * width
        )
        source = "its config.json"
    if not parameters:
        return None
    guessed = guess_shape(parameters, source)
    return ModelSize(parameters, layers or guessed.layers, width or guessed.width, source)


def _count_parameters(path: Path) -> int:
    """Numbers in a safetensors file, from its header alone."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
    except (OSError, ValueError, struct.error):
        return 0
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
