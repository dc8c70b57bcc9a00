"""One run, whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from neft_lab.config.analysis import AnalysisConfig
from neft_lab.config.budget import BudgetConfig
from neft_lab.config.dataset import DatasetConfig
from neft_lab.config.engine import EngineConfig
from neft_lab.config.finetune import FinetuneConfig, Layout
from neft_lab.config.generation import GenerationConfig
from neft_lab.config.judge import JudgeConfig
from neft_lab.config.leaderboard import LeaderboardConfig
from neft_lab.config.model import ModelConfig
from neft_lab.config.noise import NoiseConfig, NoiseLength
from neft_lab.config.paper import PaperConfig, Scale
from neft_lab.config.regularizer import RegularizerConfig
from neft_lab.config.rules import key, neutral, require
from neft_lab.config.sweep import SweepConfig
from neft_lab.config.tracker import TrackerConfig


class StageName(Enum):
    train = "train"
    generate = "generate"
    describe = "describe"
    judge = "judge"
    leaderboard = "leaderboard"
    analyze = "analyze"


@dataclass
class RunConfig:
    """One run, whole: what ``conf/config.yaml`` composes to."""

    model: ModelConfig = key()
    dataset: DatasetConfig = key()
    noise: NoiseConfig = key()
    regularizer: RegularizerConfig = key()
    finetune: FinetuneConfig = key()
    generation: GenerationConfig = key()
    judge: JudgeConfig = key()
    leaderboard: LeaderboardConfig = key()
    analysis: AnalysisConfig = key()
    tracker: TrackerConfig = neutral()
    engine: EngineConfig = neutral()
    budget: BudgetConfig = neutral()
    paper: PaperConfig = neutral()
    seed: int = key()
    scale: Scale = neutral()
    """Enters keys through what it changes."""
    stages: list[StageName] = neutral()
    results_dir: str = neutral()
    dry_run: bool = neutral()
    explain: bool = neutral()
    sweep: SweepConfig | None = field(default=None, metadata={"role": "neutral"})

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "must be >= 0")
        require(bool(self.stages), "stages", self.stages, "must name at least one stage")
        filled_up = self.noise.length is NoiseLength.padded and not self.noise.silent
        require(
            not filled_up or self.finetune.layout is Layout.padded,
            "finetune.layout", self.finetune.layout,
            "must be padded with noise.length=padded: packed rows have no padding to count",
        )  # fmt: skip
