"""What a step will do, before it does it: tokens and floating-point operations, from its inputs alone.

Operations per token: 6 N for training (4 N where only adapters learn, 2 N more where activations are computed
again), 2 N for reading and writing, N parameters; attention comes on top. Inputs may be a step's own or those of a
record, read as attributes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from neft_lab.budget.size import ModelSize, size_of
from neft_lab.budget.speed import Kind
from neft_lab.budget.texts import CHARACTERS_PER_TOKEN, Texts, characters_per_token, read_texts
from neft_lab.sources import Source

TEMPLATE_TOKENS = 45
"""The Alpaca prompt around an instruction."""
JUDGE_TEMPLATE_TOKENS = 60


@dataclass(frozen=True)
class Work:
    """Tokens that pass through a model, operations by kind, or why they are not known."""

    tokens: float = 0.0
    operations: Mapping[Kind, float] = field(default_factory=dict)
    size: ModelSize | None = None
    unknown: str | None = None


@dataclass(frozen=True)
class Task:
    """A stage's inputs with those of the steps behind it: ``config`` by stage, ``sources`` by stage and name."""

    stage: str
    config: Mapping[str, Any]
    sources: Mapping[str, Mapping[str, Source]]

    def part(self, name: str) -> Any:
        return getattr(self.config[self.stage], name)

    def source(self, name: str) -> Source | None:
        return self.sources[self.stage].get(name)

    @property
    def model(self) -> tuple[Any, Source] | None:
        """The trained model's configuration and source."""
        if "train" not in self.config:
            return None
        return self.config["train"].model, self.sources["train"]["model"]


def plain_name(value: Any) -> str:
    """The name of an enum's value, which a record holds as text."""
    return str(getattr(value, "name", value))


def find_size(config: Any, source: Source) -> ModelSize | None:
    """The size of a configured model."""
    names = (config.hub_id, config.package_file, config.path, config.name)
    return size_of(source, *(str(name) for name in names if name))


def plan_work(task: Task) -> Work:
    """Tokens and operations of a step."""
    return WORK[task.stage](task)


def _unsized(name: str) -> Work:
    return Work(unknown=f"the size of model {name} is not known")


def _rows(source: Source | None, limit: int | None) -> tuple[int, Texts] | None:
    texts = None if source is None else read_texts(source)
    return None if texts is None else (min(texts.rows, limit or texts.rows), texts)


def _train(task: Task) -> Work:
    finetune, dataset = task.part("finetune"), task.part("dataset")
    if plain_name(finetune.method) == "none" or dataset is None:
        return Work()
    config, source = task.part("model"), task.sources["train"]["model"]
    size = find_size(config, source)
    if size is None:
        return _unsized(config.name)
    found = _training_rows(dataset, task.source("dataset"), source, finetune.max_length)
    if found is None and not finetune.max_steps:
        return Work(size=size, unknown=_uncounted(dataset.name))
    rows, length = found or (0, float(finetune.max_length))
    examples = finetune.max_steps * finetune.batch if finetune.max_steps else rows * finetune.epochs
    twice = finetune.doubled_batch or (task.part("noise") is not None and task.part("noise").symmetric)
    tokens = examples * length * (2 if twice else 1)
    return Work(tokens, {Kind.TRAIN: tokens * _training_operations(task, size, length)}, size)


def _uncounted(name: str) -> str:
    return (f"the rows of data set {name} are not known before it is here; dataset={name} dataset.published_rows=N "
            "counts N")  # fmt: skip


def _training_operations(task: Task, size: ModelSize, length: float) -> float:
    """Operations per token of training."""
    finetune, regularizer = task.part("finetune"), task.part("regularizer")
    passes = (6 if plain_name(finetune.method) == "full" else 4) + (
        2 if finetune.gradient_checkpointing else 0
    )
    each: float = passes * size.parameters + passes / 2 * size.attention * length / 2
    if regularizer is None:
        return each
    extra = 2 * size.parameters if regularizer.kl else 0.0
    return float(max(1, regularizer.freelb_steps)) * each + extra


def _training_rows(
    dataset: Any, source: Source | None, model: Source, longest: int
) -> tuple[int, float] | None:
    """Rows, and mean tokens of a row with its template, cut at ``longest``."""
    found = _rows(source, dataset.max_rows)
    if found is None:
        published, characters = dataset.published_rows, dataset.published_characters
        if published is None:
            return None
        rows = min(published, dataset.max_rows or published, dataset.longest or published)
        return rows, min(longest, (characters or 800.0) / CHARACTERS_PER_TOKEN + 1.5 * TEMPLATE_TOKENS)
    rows, texts = found
    each = texts.characters / characters_per_token(model, texts.sample) + TEMPLATE_TOKENS
    return min(rows, dataset.longest or rows), min(longest, each)


def _generate(task: Task) -> Work:
    config = task.part("generation")
    if plain_name(config.source) == "file" or task.model is None:
        return Work()
    model, source = task.model
    size, found = find_size(model, source), _rows(task.source("instructions"), config.limit)
    if size is None:
        return _unsized(model.name)
    if found is None:
        return Work(size=size, unknown=f"the rows of '{config.instructions}' are not known before it is here")
    rows, texts = found
    ratio = characters_per_token(source, texts.sample)
    prompt = min(config.max_prompt_tokens, texts.prompt_characters / ratio + TEMPLATE_TOKENS)
    read, written = rows * prompt, rows * config.max_new_tokens
    return Work(read + written, {Kind.SCORE: _reading(size, read, prompt),
                                 Kind.DECODE: _reading(size, written, prompt + config.max_new_tokens)}, size)  # fmt: skip


def _reading(size: ModelSize, tokens: float, length: float) -> float:
    return tokens * (2 * size.parameters + size.attention * length / 2)


def _judge(task: Task) -> Work:
    config = task.part("judge")
    if plain_name(config.kind) != "local" or config.model is None:
        return Work()
    size = find_size(config.model, task.sources["judge"]["judge_model"])
    if size is None:
        return _unsized(config.model.name)
    generation = task.config["generate"].generation
    found = _rows(task.sources["generate"].get("instructions") or task.source("reference"), generation.limit)
    if found is None:
        return Work(size=size, unknown="the number of answers to judge is not known")
    rows, texts = found
    reference = texts.characters - texts.prompt_characters
    answers = reference / CHARACTERS_PER_TOKEN + 0.75 * generation.max_new_tokens
    length = min(
        config.max_prompt_tokens,
        texts.prompt_characters / CHARACTERS_PER_TOKEN + answers + JUDGE_TEMPLATE_TOKENS,
    )
    pairs = rows + (config.stored_pairs if task.source("stored") else 0)
    tokens = 2 * pairs * length
    return Work(tokens, {Kind.SCORE: _reading(size, tokens, length)}, size)


@dataclass(frozen=True)
class Benchmark:
    """Documents, the groups they come in, answers per document, and tokens of a question with its answers."""

    documents: int
    groups: int
    answers: int
    tokens: float


BENCHMARKS = {
    "mmlu": Benchmark(14_042, 57, 4, 90.0),
    "arc_challenge": Benchmark(1_172, 1, 4, 45.0),
    "hellaswag": Benchmark(10_042, 1, 4, 100.0),
    "truthfulqa_mc2": Benchmark(817, 1, 7, 450.0),
}
"""Sizes of the test splits; token counts are rough. A shared prompt is read once, MMLU's shots once per subject."""


def _leaderboard(task: Task) -> Work:
    if task.model is None:
        return Work()
    model, source = task.model
    size = find_size(model, source)
    if size is None:
        return _unsized(model.name)
    tokens = 0.0
    for asked in task.part("leaderboard").tasks:
        known = BENCHMARKS.get(_get(asked, "task"), Benchmark(1_000, 1, 4, 100.0))
        subsets = _get(asked, "subsets")
        groups = len(subsets) if subsets else known.groups
        documents = min(known.documents * groups / known.groups, (_get(asked, "limit") or math.inf) * groups)
        shots = _get(asked, "shots") * known.tokens
        tokens += documents * known.tokens + (groups if known.groups > 1 else documents) * shots
    return Work(tokens, {Kind.SCORE: _reading(size, tokens, 500.0)}, size)


def _get(value: Any, name: str) -> Any:
    return value[name] if isinstance(value, dict) else getattr(value, name)


def _analyze(task: Task) -> Work:
    if task.model is None:
        return Work()
    (model, source), config = task.model, task.part("analysis")
    size = find_size(model, source)
    if size is None:
        return _unsized(model.name)
    found = _training_rows(task.part("dataset"), task.source("dataset"), source, config.max_length or 512)
    length = found[1] if found is not None else 256.0
    rows = 2 * config.rows * length
    read, written = rows + config.answers * length / 2, config.answers * config.answer_tokens
    return Work(read + written, {Kind.SCORE: _reading(size, read, length),
                                 Kind.DECODE: _reading(size, written, length)}, size)  # fmt: skip


WORK: dict[str, Callable[[Task], Work]] = {
    "train": _train,
    "generate": _generate,
    "describe": lambda task: Work(),
    "judge": _judge,
    "leaderboard": _leaderboard,
    "analyze": _analyze,
}
