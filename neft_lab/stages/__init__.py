"""The table of stages: what each reads, what it needs, which outside inputs it has, and which function runs it.

A stage's function has the signature ``(config, inputs, output, progress) -> Metrics``. It is handed only the part
of the configuration that is in its key (plus fields declared neutral); asking for another part raises.
Metrics are flat numbers, named as the columns of ``leaderboard.csv``: ``win_rate``, and where there is an
interval ``win_rate_low``, ``win_rate_high``, ``win_rate_n``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from neft_lab.config import (
    SILENT,
    AnalysisConfig,
    DatasetConfig,
    FinetuneConfig,
    GenerationConfig,
    GenerationSource,
    JudgeConfig,
    JudgeKind,
    LeaderboardConfig,
    LeakedRows,
    Method,
    ModelConfig,
    NoiseConfig,
    RegularizerConfig,
    RunConfig,
    StageName,
)
from neft_lab.judging.evaluators import evaluator_source
from neft_lab.judging.prompts import prompt_source
from neft_lab.judging.references import reference_source
from neft_lab.sources import (
    Source,
    dataset_source,
    file_source,
    instructions_source,
    model_source,
    tasks_source,
)

Metrics = dict[str, float]


@dataclass(frozen=True)
class Inputs:
    """What a step finds on this machine: folders of the steps before it, outside sources, the device."""

    device: str
    train: Path | None = None
    generate: Path | None = None
    sources: Mapping[str, Source] = field(default_factory=dict)


class Projection:
    """The part of a run's configuration that is in one stage's key."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        stage = type(self).__name__.removesuffix("Inputs").lower()
        raise AttributeError(
            f"stage {stage} reads '{name}', which is not in its key; declare it in stages/__init__.py"
        )


@dataclass
class TrainInputs(Projection):
    model: ModelConfig
    finetune: FinetuneConfig
    dataset: DatasetConfig | None
    noise: NoiseConfig | None
    regularizer: RegularizerConfig | None
    seed: int


@dataclass
class GenerateInputs(Projection):
    generation: GenerationConfig


@dataclass
class DescribeInputs(Projection):
    chunk: int
    """Tokens of an output over which its repetition is counted."""


@dataclass
class JudgeInputs(Projection):
    judge: JudgeConfig


@dataclass
class LeaderboardInputs(Projection):
    leaderboard: LeaderboardConfig


@dataclass
class AnalyzeInputs(Projection):
    analysis: AnalysisConfig
    dataset: DatasetConfig


@dataclass(frozen=True)
class Stage:
    """One row of the table. A change of ``version`` makes every earlier result of the stage stale."""

    name: str
    version: int
    inputs: type
    project: Callable[[RunConfig], Any]
    needs: Callable[[RunConfig], tuple[str, ...]]
    sources: Callable[[RunConfig], dict[str, Source]]
    wanted: Callable[[RunConfig], bool]
    title: Callable[[RunConfig], str]
    function: str
    """``module:function``, imported when a step runs."""
    together: str | None = None
    """``module:function`` for what is better done for several steps at once, before each of them is run: it is handed
    their (config, inputs, output) and a listener, and says for each why it cannot be run now, or None."""


def _project_train(config: RunConfig) -> TrainInputs:
    if config.finetune.method is Method.none:
        return TrainInputs(config.model, config.finetune, dataset=None, noise=None, regularizer=None, seed=0)
    noise = SILENT if config.noise.silent else config.noise
    return TrainInputs(config.model, config.finetune, config.dataset, noise, config.regularizer, config.seed)


def _train_sources(config: RunConfig) -> dict[str, Source]:
    found = {"model": model_source(config.model)}
    if config.finetune.method is not Method.none:
        found["dataset"] = dataset_source(config.dataset)
        generation, dropping = config.generation, config.dataset.leaked_rows is LeakedRows.drop
        answers = StageName.generate in config.stages and generation.source is GenerationSource.model
        if dropping or answers:
            where = instructions_source(
                generation.instructions, generation.split, name="generation.instructions"
            )
            found["evaluation"] = replace(where, keyed=dropping)
    return found


def _generate_sources(config: RunConfig) -> dict[str, Source]:
    generation = config.generation
    if generation.source is GenerationSource.file:
        return {"outputs": file_source(generation.outputs, name="generation.outputs")}
    where = instructions_source(generation.instructions, generation.split, name="generation.instructions")
    return {"instructions": where}


def _judge_sources(config: RunConfig) -> dict[str, Source]:
    judge = config.judge
    found: dict[str, Source] = {}
    if judge.stored:
        found["stored"] = file_source(judge.stored, name="judge.stored")
    if judge.kind.over_http or (judge.reparse and judge.evaluator):
        found["evaluator"] = evaluator_source(str(judge.evaluator))
    elif judge.kind is JudgeKind.local:
        found["evaluator"] = prompt_source()
    if judge.kind is JudgeKind.file:
        return found | {"annotations": file_source(judge.annotations, name="judge.annotations")}
    found["reference"] = reference_source(judge.reference, config.generation.split)
    if judge.model is not None:
        found["judge_model"] = model_source(judge.model, name="judge.model")
    return found


def _project_describe(config: RunConfig) -> DescribeInputs:
    return DescribeInputs(config.analysis.chunk_of(config.dataset.name))


def _project_analyze(config: RunConfig) -> AnalyzeInputs:
    analysis, trained = config.analysis, config.finetune.max_length
    return AnalyzeInputs(
        replace(analysis, max_length=analysis.max_length or trained), replace(config.dataset)
    )


def _analyze_sources(config: RunConfig) -> dict[str, Source]:
    train = dataset_source(config.dataset)
    held_out = instructions_source("starter", "validation", name="dataset")
    return {"dataset": train, "held_out": held_out}


def _model_title(config: RunConfig) -> str:
    if config.finetune.method is Method.none:
        return f"{config.model.name}-base"
    noise = "plain" if config.noise.silent else f"{config.noise.name}{config.noise.alpha:g}"
    rival = "" if config.regularizer.name == "none" else f"-{config.regularizer.name}"
    return f"{config.model.name}-{config.dataset.name}-{noise}{rival}-seed{config.seed}"


def _outputs_title(config: RunConfig) -> str:
    if config.generation.source is GenerationSource.file:
        return config.generation.name
    return f"{_model_title(config)}-{config.generation.name}"


def _from_model(config: RunConfig) -> tuple[str, ...]:
    return () if config.generation.source is GenerationSource.file else ("train",)


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="train", version=1, inputs=TrainInputs, project=_project_train, needs=lambda config: (),
            sources=_train_sources, wanted=lambda config: True, title=_model_title,
            function="neft_lab.stages.train:train",
        ),
        Stage(
            name="generate", version=1, inputs=GenerateInputs,
            project=lambda config: GenerateInputs(config.generation), needs=_from_model, sources=_generate_sources,
            wanted=lambda config: True, title=_outputs_title, function="neft_lab.stages.generate:generate",
        ),
        Stage(
            name="describe", version=1, inputs=DescribeInputs, project=_project_describe,
            needs=lambda config: ("generate",),
            sources=lambda config: {} if config.generation.source is GenerationSource.file else _generate_sources(config),
            wanted=lambda config: True, title=_outputs_title, function="neft_lab.stages.describe:describe",
        ),
        Stage(
            name="judge", version=1, inputs=JudgeInputs, project=lambda config: JudgeInputs(config.judge),
            needs=lambda config: ("generate",), sources=_judge_sources,
            wanted=lambda config: config.judge.kind is not JudgeKind.none,
            title=lambda config: f"{_outputs_title(config)}-{config.judge.name}",
            function="neft_lab.stages.judge:judge", together="neft_lab.stages.judge:judge_together",
        ),
        Stage(
            name="leaderboard", version=1, inputs=LeaderboardInputs,
            project=lambda config: LeaderboardInputs(config.leaderboard), needs=lambda config: ("train",),
            sources=lambda config: {"tasks": tasks_source(config.leaderboard)},
            wanted=lambda config: bool(config.leaderboard.tasks),
            title=lambda config: f"{_model_title(config)}-{config.leaderboard.name}",
            function="neft_lab.stages.leaderboard:leaderboard",
        ),
        Stage(
            name="analyze", version=2, inputs=AnalyzeInputs,
            project=_project_analyze, needs=lambda config: ("train",), sources=_analyze_sources,
            wanted=lambda config: max(config.analysis.rows, config.analysis.answers, config.analysis.flip_tokens) > 0,
            title=lambda config: f"{_model_title(config)}-{config.analysis.name}",
            function="neft_lab.stages.analyze:analyze",
        ),
    )
}  # fmt: skip
