"""What one run can be: the typed schema behind ``conf/``, and its registration with Hydra.

Values live in YAML, types and rules live here. Every field says how it takes part in the key of the steps
that read it: ``key()`` for what decides an artifact's content, ``neutral()`` for what does not (paths,
devices, worker counts). A file or model that a neutral path names enters the key by its digest.
"""

from neft_lab.config.analysis import AnalysisConfig
from neft_lab.config.budget import BudgetConfig, Gpu
from neft_lab.config.dataset import (
    Cleaning,
    DatasetConfig,
    DatasetSource,
    EmptyTexts,
    LeakedRows,
    Responses,
)
from neft_lab.config.engine import Device, EngineConfig, EngineKind
from neft_lab.config.finetune import (
    FinetuneConfig,
    FrozenPart,
    Layout,
    LossAverage,
    Method,
    Optimizer,
    TrainingPrecision,
)
from neft_lab.config.generation import GenerationConfig, GenerationSource
from neft_lab.config.judge import JudgeConfig, JudgeKind
from neft_lab.config.leaderboard import LeaderboardConfig, TaskConfig, TaskSource
from neft_lab.config.model import ARCHITECTURES, ModelConfig, ModelSource
from neft_lab.config.noise import (
    SILENT,
    NoiseConfig,
    NoiseKind,
    NoiseLength,
    NoisePlace,
    NoiseScale,
    NoiseSchedule,
    NoiseStrength,
)
from neft_lab.config.paper import PaperConfig, Scale
from neft_lab.config.precision import Precision
from neft_lab.config.regularizer import RegularizerConfig
from neft_lab.config.rules import UserError, identity, key, nearest, neutral, plain, require, role
from neft_lab.config.run import RunConfig, StageName
from neft_lab.config.sweep import ControlConfig, SelectConfig, SweepConfig, TableConfig
from neft_lab.config.tracker import TrackerConfig, TrackerKind, TrackerMode

__all__ = [
    "ARCHITECTURES",
    "SILENT",
    "AnalysisConfig",
    "BudgetConfig",
    "Cleaning",
    "ControlConfig",
    "DatasetConfig",
    "DatasetSource",
    "Device",
    "EmptyTexts",
    "EngineConfig",
    "EngineKind",
    "FinetuneConfig",
    "FrozenPart",
    "GenerationConfig",
    "GenerationSource",
    "Gpu",
    "JudgeConfig",
    "JudgeKind",
    "Layout",
    "LeaderboardConfig",
    "LeakedRows",
    "LossAverage",
    "Method",
    "ModelConfig",
    "ModelSource",
    "NoiseConfig",
    "NoiseKind",
    "NoiseLength",
    "NoisePlace",
    "NoiseScale",
    "NoiseSchedule",
    "NoiseStrength",
    "Optimizer",
    "PaperConfig",
    "Precision",
    "RegularizerConfig",
    "Responses",
    "RunConfig",
    "Scale",
    "SelectConfig",
    "StageName",
    "SweepConfig",
    "TableConfig",
    "TaskConfig",
    "TaskSource",
    "TrackerConfig",
    "TrackerKind",
    "TrackerMode",
    "TrainingPrecision",
    "UserError",
    "identity",
    "key",
    "nearest",
    "neutral",
    "plain",
    "require",
    "role",
]
