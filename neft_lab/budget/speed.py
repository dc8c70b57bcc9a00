"""How fast a device is at a kind of work: as measured by finished steps, else from its floating-point peak."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from neft_lab.config import Gpu


class Kind(StrEnum):
    """What a pass does; it decides how much of the peak is reached."""

    TRAIN = "train"
    SCORE = "score"
    DECODE = "decode"


@dataclass(frozen=True)
class Speed:
    """Floating-point operations per second, by kind of work, and in words where that comes from."""

    flops: Mapping[Kind, float]
    words: str

    def seconds(self, work: Mapping[Kind, float]) -> float:
        """Seconds for so many operations of each kind."""
        return sum(operations / self.flops[kind] for kind, operations in work.items())


PEAKS = {
    Gpu.v100: 125e12,
    Gpu.a100: 312e12,
    Gpu.l40s: 362e12,
    Gpu.rtx_4090: 165e12,
    Gpu.h100: 989e12,
    Gpu.h200: 989e12,
}
"""Dense 16-bit matrix products per second, of the makers' data sheets."""
SHARES = {Kind.TRAIN: 0.35, Kind.SCORE: 0.35, Kind.DECODE: 0.01}
"""Shares of the peak: 46 % is published for training 7B models on H100s; decoding a few rows waits for memory."""
PER_CORE = {Kind.TRAIN: 70e9, Kind.SCORE: 70e9, Kind.DECODE: 23e9}
"""Of one server core in float32: SmolLM2-135M trained at 175, scored at 515 and decoded at 175 tokens/s on two."""


def gpu_speed(gpu: Gpu) -> Speed:
    """What one GPU reaches."""
    words = f"{SHARES[Kind.TRAIN]:.0%} of {PEAKS[gpu] / 1e12:.0f} TFLOP/s ({SHARES[Kind.DECODE]:.0%} when decoding)"
    return Speed({kind: share * PEAKS[gpu] for kind, share in SHARES.items()}, words)


def cpu_speed() -> Speed:
    """What this machine's cores reach."""
    cores = usable_cores()
    words = f"{PER_CORE[Kind.TRAIN] / 1e9:.0f} GFLOP/s for each of {cores} cores"
    return Speed({kind: cores * each for kind, each in PER_CORE.items()}, words)


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def planned_device(asked: str) -> str:
    """``auto`` to cuda where this machine has an NVIDIA driver, without asking torch."""
    if asked != "auto":
        return asked
    return "cuda" if Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") else "cpu"
