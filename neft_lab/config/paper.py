"""What of the paper's own is on this machine, and at what size its protocols are run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from neft_lab.config.rules import neutral


class Scale(Enum):
    full = "full"
    tiny = "tiny"
    """Every cell on a tiny random model of the same architecture, a few rows, instructions, tokens and documents: to
    see a protocol run through within seconds. It says nothing of the protocol's result."""


@dataclass
class PaperConfig:
    published: str | None = neutral()
    """Folder with AlpacaEval's public outputs and verdicts, for ``generation.outputs: published``."""
