"""scale=tiny: a composed run on a tiny random model of its architecture, with a few rows of everything.

What an artifact of the paper varies (epochs, frozen parts, noise, decoding, judge) stays, and so do the names of
model and data set; what costs time shrinks. Prompts have about three times a real tokenizer's tokens here.
"""

from __future__ import annotations

from dataclasses import replace

from neft_lab.config import (
    AnalysisConfig,
    DatasetConfig,
    DatasetSource,
    FinetuneConfig,
    GenerationConfig,
    GenerationSource,
    JudgeConfig,
    JudgeKind,
    LeaderboardConfig,
    Method,
    ModelConfig,
    ModelSource,
    RunConfig,
    Scale,
    TaskConfig,
    TaskSource,
)

ROWS, INSTRUCTIONS, NEW_TOKENS, DOCUMENTS = 4, 6, 12, 2
WORDS = 5
"""Of an answer over which its repetition is counted; the answers have few."""

LONGEST = 1024
"""Positions of a tiny model."""


def scaled(config: RunConfig) -> RunConfig:
    """The run at its scale: itself at full scale."""
    if config.scale is Scale.full:
        return config
    return replace(
        config,
        model=_tiny_model(config.model),
        dataset=_few_rows(config.dataset),
        finetune=_few_steps(config.finetune),
        generation=_few_answers(config.generation),
        judge=_few_verdicts(config.judge),
        leaderboard=_few_documents(config.leaderboard),
        analysis=_few_measures(config.analysis),
    )


def scaled_name(name: str, scale: Scale) -> str:
    """The folder of a sweep: tiny runs leave the tables of real ones alone."""
    return name if scale is Scale.full else f"{name}-{scale.name}"


def _tiny_model(config: ModelConfig) -> ModelConfig:
    return replace(config, source=ModelSource.random)


def _few_rows(config: DatasetConfig) -> DatasetConfig:
    """Rows of the starter set under the data set's name and template."""
    return replace(
        config, source=DatasetSource.package, path=None, split="train", files=None, format="alpaca", longest=None,
        max_rows=min(config.max_rows or ROWS, ROWS),
    )  # fmt: skip


def _few_steps(config: FinetuneConfig) -> FinetuneConfig:
    """All epochs, a step each; adapters stay on full weights, since 4-bit ones need a GPU."""
    return replace(
        config, method=Method.lora if config.method is Method.qlora else config.method, batch=min(config.batch, 4),
        micro_batch=min(config.micro_batch, 2), max_length=min(config.max_length * 3 // 4, LONGEST),
        lora_rank=min(config.lora_rank, 4), gradient_checkpointing=False, processes=1, sharded=False, compile=False,
        checkpoint_every=1000,
    )  # fmt: skip


def _few_answers(config: GenerationConfig) -> GenerationConfig:
    if config.source is GenerationSource.file:
        return config
    new = max(min(config.max_new_tokens, NEW_TOKENS), config.min_new_tokens)
    return replace(
        config, instructions="starter", limit=min(config.limit or INSTRUCTIONS, INSTRUCTIONS), max_new_tokens=new,
        max_prompt_tokens=LONGEST - new - 1, max_total_tokens=None, token_budget=8192,
    )  # fmt: skip


def _few_verdicts(config: JudgeConfig) -> JudgeConfig:
    """The sweep's own judge, asked about little."""
    if config.kind is JudgeKind.file:
        return config
    return replace(
        config, reference="starter", model=None if config.model is None else _tiny_model(config.model),
        audit_pairs=min(config.audit_pairs, 2), canaries=0,
    )  # fmt: skip


def _few_documents(config: LeaderboardConfig) -> LeaderboardConfig:
    source = TaskSource.auto if config.source is TaskSource.hub else config.source
    return replace(
        config,
        tasks=[_few_of(task) for task in config.tasks],
        source=source,
        token_budget=8192,
        max_length=LONGEST,
    )


def _few_of(task: TaskConfig) -> TaskConfig:
    subsets = ["anatomy", "marketing"] if task.task == "mmlu" and not task.subsets else task.subsets
    return replace(
        task, shots=min(task.shots, 1), limit=min(task.limit or DOCUMENTS, DOCUMENTS), subsets=subsets
    )


def _few_measures(config: AnalysisConfig) -> AnalysisConfig:
    return replace(
        config, rows=min(config.rows, 4), answers=min(config.answers, 2), answer_tokens=min(config.answer_tokens, 8),
        flip_tokens=min(config.flip_tokens, 32), flip_alphas=config.flip_alphas[:2],
        chunks=dict.fromkeys(config.chunks, WORDS),
    )  # fmt: skip
