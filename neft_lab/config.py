"""What one run can be: the typed schema behind ``conf/``, and its registration with Hydra.

Values live in YAML, types and rules live here. Every field says how it takes part in the key of the steps
that read it: ``key()`` for what decides an artifact's content, ``neutral()`` for what does not (paths,
devices, worker counts). A file or model that a neutral path names enters the key by its digest.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any


class UserError(Exception):
    """A mistake of the user's, told in one line: key, value, rule, remedy (exit code 2)."""


def key() -> Any:
    """A field that decides the content of what a step writes."""
    return field(metadata={"role": "key"})


def neutral() -> Any:
    """A field that does not decide content, or does so only through the digest of what it names."""
    return field(metadata={"role": "neutral"})


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, and the others."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}known: {', '.join(names)}"


def require(holds: bool, name: str, value: object, rule: str) -> None:
    """Raise a one-line UserError unless the rule holds."""
    if not holds:
        shown = value.name if isinstance(value, Enum) else repr(value)
        raise UserError(f"{name} {rule}, got {shown}")


class ModelSource(Enum):
    auto = "auto"
    embedded = "embedded"
    local = "local"
    hub = "hub"


class DatasetSource(Enum):
    auto = "auto"
    package = "package"
    local = "local"
    hub = "hub"


class Precision(Enum):
    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


class NoiseKind(Enum):
    none = "none"
    uniform = "uniform"
    gaussian = "gaussian"
    rademacher = "rademacher"


class NoiseScale(Enum):
    raw = "raw"
    matched = "matched"


class NoiseLength(Enum):
    sample = "sample"
    padded = "padded"
    packed_row = "packed_row"
    none = "none"


class NoisePlace(Enum):
    both = "both"
    prompt = "prompt"
    response = "response"
    first = "first"


class NoiseStrength(Enum):
    alpha = "alpha"
    sigma = "sigma"
    proportional = "proportional"


class NoiseSchedule(Enum):
    constant = "constant"
    linear_decay = "linear_decay"


class Method(Enum):
    none = "none"
    full = "full"
    lora = "lora"
    qlora = "qlora"


class LossAverage(Enum):
    token = "token"
    paper = "paper"


class GenerationSource(Enum):
    model = "model"
    file = "file"


class JudgeKind(Enum):
    none = "none"
    local = "local"
    longest = "longest"
    random = "random"
    file = "file"
    alpaca_eval = "alpaca_eval"
    openai_compatible = "openai_compatible"


class TaskSource(Enum):
    auto = "auto"
    embedded = "embedded"
    folder = "folder"
    hub = "hub"


class TrackerKind(Enum):
    none = "none"
    wandb = "wandb"


class TrackerMode(Enum):
    auto = "auto"
    online = "online"
    offline = "offline"


class EngineKind(Enum):
    local = "local"


class Device(Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class StageName(Enum):
    train = "train"
    generate = "generate"
    judge = "judge"
    leaderboard = "leaderboard"
    analyze = "analyze"


@dataclass
class ModelConfig:
    name: str = key()
    source: ModelSource = neutral()
    hub_id: str | None = neutral()
    revision: str | None = neutral()
    path: str | None = neutral()
    package: str | None = neutral()
    package_file: str | None = neutral()
    trust_remote_code: bool = key()

    def __post_init__(self) -> None:
        where = {"hub": self.hub_id, "local": self.path, "embedded": self.package}
        if self.source is ModelSource.auto:
            require(
                any(where.values()),
                "model",
                self.name,
                "needs one of model.path, model.package, model.hub_id",
            )
        else:
            named = {"hub": "model.hub_id", "local": "model.path", "embedded": "model.package"}[
                self.source.name
            ]
            require(bool(where[self.source.name]), named, where[self.source.name],
                    f"must be given when model.source is {self.source.name}")  # fmt: skip


@dataclass
class DatasetConfig:
    name: str = key()
    source: DatasetSource = neutral()
    hub_id: str | None = neutral()
    revision: str | None = neutral()
    path: str | None = neutral()
    split: str = key()
    format: str = key()
    """alpaca, sharegpt, messages, or auto: told from the columns."""
    template: str = key()
    max_rows: int | None = key()

    def __post_init__(self) -> None:
        require(
            self.max_rows is None or self.max_rows > 0,
            "dataset.max_rows",
            self.max_rows,
            "must be > 0 or null",
        )
        formats = ("auto", "alpaca", "sharegpt", "messages")
        require(self.format in formats, "dataset.format", self.format, f"must be one of {', '.join(formats)}")
        if self.source is DatasetSource.local:
            require(
                bool(self.path), "dataset.path", self.path, "must name a file when dataset.source is local"
            )


@dataclass
class NoiseConfig:
    name: str = key()
    kind: NoiseKind = key()
    alpha: float = key()
    """alpha / sqrt(L d) scales the unit draw; the paper's values are 5, 10 and 15."""
    scale: NoiseScale = key()
    length: NoiseLength = key()
    place: NoisePlace = key()
    strength: NoiseStrength = key()
    frozen: bool = key()
    schedule: NoiseSchedule = key()
    symmetric: bool = key()

    def __post_init__(self) -> None:
        require(self.alpha >= 0, "noise.alpha", self.alpha, "must be >= 0")
        if self.kind is NoiseKind.none:
            require(
                self.alpha == 0,
                "noise.alpha",
                self.alpha,
                "must be 0 with noise=none (or choose noise=uniform)",
            )

    @property
    def silent(self) -> bool:
        """No noise at all, however that is spelled."""
        return self.kind is NoiseKind.none or self.alpha == 0


@dataclass
class FinetuneConfig:
    name: str = key()
    method: Method = key()
    epochs: float = key()
    max_steps: int | None = key()
    batch: int = key()
    """Examples per optimizer step."""
    micro_batch: int = key()
    """Examples per forward pass on one device; batch is a multiple of it."""
    max_length: int = key()
    """Tokens; longer examples are cut on the right, as in the paper's code."""
    learning_rate: float = key()
    schedule: str = key()
    warmup_ratio: float = key()
    weight_decay: float = key()
    clip: float = key()
    loss_average: LossAverage = key()
    precision: Precision = key()
    gradient_checkpointing: bool = key()
    lora_rank: int = key()
    lora_alpha: int = key()
    lora_dropout: float = key()
    checkpoint_every: int = neutral()
    """Optimizer steps between checkpoints; a resumed run gives the same weights."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "micro_batch", "max_length", "checkpoint_every", "lora_rank"):
            require(getattr(self, name) > 0, f"finetune.{name}", getattr(self, name), "must be > 0")
        require(self.learning_rate > 0, "finetune.learning_rate", self.learning_rate, "must be > 0")
        require(
            self.max_steps is None or self.max_steps > 0,
            "finetune.max_steps",
            self.max_steps,
            "must be > 0 or null",
        )
        require(self.batch % self.micro_batch == 0, "finetune.batch", self.batch,
                f"must be a multiple of finetune.micro_batch ({self.micro_batch})")  # fmt: skip
        schedules = ("cosine", "linear", "constant", "constant_with_warmup")
        require(
            self.schedule in schedules,
            "finetune.schedule",
            self.schedule,
            f"must be one of {', '.join(schedules)}",
        )


@dataclass
class GenerationConfig:
    name: str = key()
    source: GenerationSource = key()
    outputs: str | None = neutral()
    """AlpacaEval outputs file, for source: file."""
    instructions: str = neutral()
    """starter, alpaca_eval, or a JSON file of AlpacaEval rows; its digest enters the key."""
    split: str = key()
    limit: int | None = key()
    template: str = key()
    prompt_suffix: str = key()
    """What follows the template; the paper generates with a newline that training did not have."""
    max_new_tokens: int = key()
    max_prompt_tokens: int = key()
    repetition_penalty: float = key()
    temperature: float = key()
    """0 is greedy."""
    top_p: float = key()
    token_budget: int = key()
    """Prompt and answer tokens of one batch, padding included."""
    precision: Precision = key()

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "max_prompt_tokens", "token_budget", "repetition_penalty"):
            require(getattr(self, name) > 0, f"generation.{name}", getattr(self, name), "must be > 0")
        require(self.limit is None or self.limit > 0, "generation.limit", self.limit, "must be > 0 or null")
        require(self.temperature >= 0, "generation.temperature", self.temperature, "must be >= 0")
        require(0 < self.top_p <= 1, "generation.top_p", self.top_p, "must be in (0, 1]")
        splits = ("evaluation", "validation")
        require(self.split in splits, "generation.split", self.split, f"must be one of {', '.join(splits)}")
        if self.source is GenerationSource.file:
            require(
                bool(self.outputs),
                "generation.outputs",
                self.outputs,
                "must name a file with generation=file",
            )


@dataclass
class JudgeConfig:
    name: str = key()
    kind: JudgeKind = key()
    evaluator: str | None = key()
    """Name of an evaluator configuration that alpaca-eval ships: prompt, decoding, parser."""
    reference: str = neutral()
    """starter, or a JSON file of AlpacaEval rows; its digest enters the key."""
    annotations: str | None = neutral()
    """AlpacaEval annotations file, for kind: file."""
    reparse: bool = key()
    """kind: file reads the verdicts anew from the stored raw completions, with the evaluator's parser."""
    stored: str | None = neutral()
    """AlpacaEval annotations by people or a trusted judge that this judge is measured against; their digest
    enters the key."""
    stored_pairs: int = key()
    """How many of the stored pairs this judge is asked about; a fixed sample where there are more."""
    seed: int = key()
    """Which answer is shown first (AlpacaEval's is 0), and the coin of kind: random."""
    model: ModelConfig | None = key()
    """The causal LM behind the local judge."""
    token_budget: int = key()
    """Tokens of one batch of the local judge, padding included."""
    max_prompt_tokens: int = key()
    """Tokens of one question to the local judge; longer texts are cut, both answers alike."""
    precision: Precision = key()
    served_model: str | None = key()
    """Model asked for over HTTP; null: the one that the evaluator names."""
    base_url: str | None = key()
    """Address of an OpenAI-compatible service, up to /v1; null: the evaluator's own."""
    reasks: int = key()
    """How often an answer without a verdict in it is asked for again."""
    audit_pairs: int = key()
    """Pairs asked a second time, and as many asked in the other order."""
    canaries: int = key()
    """Answered pairs asked again on a later day, to see the judge drift."""
    concurrency: int = neutral()
    requests_per_minute: float | None = neutral()
    timeout: float = neutral()
    """Seconds that one request may take."""
    attempts: int = neutral()
    """Tries of one request when the service fails, before the pair is given up for this run."""
    usd_per_million_tokens: list[float] | None = neutral()
    """[input, output]; null: the price table conf/prices.yaml."""
    max_usd: float | None = neutral()
    """What all judging in this results folder may ever cost together."""

    def __post_init__(self) -> None:
        if self.kind is JudgeKind.file:
            require(
                bool(self.annotations),
                "judge.annotations",
                self.annotations,
                "must name a file with judge=file",
            )
        if self.kind is JudgeKind.local:
            require(self.model is not None, "judge.model", self.model, "must be given with judge=local")
        if self.kind in (JudgeKind.alpaca_eval, JudgeKind.openai_compatible):
            require(
                bool(self.evaluator),
                "judge.evaluator",
                self.evaluator,
                "must name an alpaca-eval configuration",
            )
        if self.kind is JudgeKind.openai_compatible:
            require(
                bool(self.base_url),
                "judge.base_url",
                self.base_url,
                "must be the service's address, up to /v1",
            )
            require(
                bool(self.served_model),
                "judge.served_model",
                self.served_model,
                "must name the model that answers",
            )
        for name in ("token_budget", "max_prompt_tokens", "concurrency", "timeout", "attempts"):
            require(getattr(self, name) > 0, f"judge.{name}", getattr(self, name), "must be > 0")
        for name in ("reasks", "audit_pairs", "canaries", "stored_pairs"):
            require(getattr(self, name) >= 0, f"judge.{name}", getattr(self, name), "must be >= 0")
        require(self.requests_per_minute is None or self.requests_per_minute > 0, "judge.requests_per_minute",
                self.requests_per_minute, "must be > 0 or null")  # fmt: skip
        require(
            self.max_usd is None or self.max_usd >= 0, "judge.max_usd", self.max_usd, "must be >= 0 or null"
        )
        prices = self.usd_per_million_tokens
        require(prices is None or (len(prices) == 2 and min(prices) >= 0), "judge.usd_per_million_tokens", prices,
                "must be [input, output] in dollars, or null")  # fmt: skip


@dataclass
class TaskConfig:
    task: str = key()
    shots: int = key()
    metric: str = key()
    limit: int | None = key()
    """Documents per task (per subject for a group)."""
    subsets: list[str] | None = key()

    def __post_init__(self) -> None:
        where = f"leaderboard.tasks: {self.task}"
        require(self.shots >= 0, f"{where}: shots", self.shots, "must be >= 0")
        require(self.limit is None or self.limit > 0, f"{where}: limit", self.limit, "must be > 0 or null")


@dataclass
class LeaderboardConfig:
    name: str = key()
    tasks: list[TaskConfig] = key()
    source: TaskSource = neutral()
    folder: str | None = neutral()
    token_budget: int = key()
    max_length: int | None = key()
    precision: Precision = key()

    def __post_init__(self) -> None:
        require(self.token_budget > 0, "leaderboard.token_budget", self.token_budget, "must be > 0")
        if self.source is TaskSource.folder:
            require(
                bool(self.folder), "leaderboard.folder", self.folder, "must name a folder with source=folder"
            )
        looked_at = self.source in (TaskSource.folder, TaskSource.auto) or not self.folder
        rule = f"is not looked at with leaderboard.source={self.source.name}; use folder or auto"
        require(looked_at, "leaderboard.folder", self.folder, rule)
        names = [asked.task for asked in self.tasks]
        require(len(set(names)) == len(names), "leaderboard.tasks", names, "must name each task once")


@dataclass
class AnalysisConfig:
    name: str = key()
    rows: int = key()
    """Training rows and held-out rows whose response loss is measured, each; 0 measures nothing."""
    token_budget: int = key()
    precision: Precision = key()

    def __post_init__(self) -> None:
        require(self.rows >= 0, "analysis.rows", self.rows, "must be >= 0")


@dataclass
class TrackerConfig:
    name: str = neutral()
    kind: TrackerKind = neutral()
    project: str = neutral()
    entity: str | None = neutral()
    mode: TrackerMode = neutral()
    """auto: online when logged in, else offline."""


@dataclass
class EngineConfig:
    name: str = neutral()
    kind: EngineKind = neutral()
    device: Device = neutral()


@dataclass
class TableConfig:
    rows: str = ""
    columns: str | None = None
    values: list[str] = field(default_factory=list)


@dataclass
class SweepConfig:
    """Which runs are made together, for one question; see ``sweeps/``."""

    name: str = ""
    question: str = ""
    axes: dict[str, list[Any]] = field(default_factory=dict)
    zip: dict[str, list[Any]] = field(default_factory=dict)
    baseline: dict[str, Any] = field(default_factory=dict)
    primary: str = "win_rate"
    margin: dict[str, float] = field(default_factory=dict)
    table: TableConfig = field(default_factory=TableConfig)


@dataclass
class RunConfig:
    """One run, whole: what ``conf/config.yaml`` composes to."""

    model: ModelConfig = key()
    dataset: DatasetConfig = key()
    noise: NoiseConfig = key()
    finetune: FinetuneConfig = key()
    generation: GenerationConfig = key()
    judge: JudgeConfig = key()
    leaderboard: LeaderboardConfig = key()
    analysis: AnalysisConfig = key()
    tracker: TrackerConfig = neutral()
    engine: EngineConfig = neutral()
    seed: int = key()
    stages: list[StageName] = neutral()
    results_dir: str = neutral()
    dry_run: bool = neutral()
    explain: bool = neutral()
    sweep: SweepConfig | None = field(default=None, metadata={"role": "neutral"})

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "must be >= 0")
        require(bool(self.stages), "stages", self.stages, "must name at least one stage")


def role(owner: type, name: str) -> str | None:
    """How a field takes part in keys: ``key``, ``neutral``, or None where nobody has said."""
    for item in fields(owner):
        if item.name == name:
            return item.metadata.get("role")
    raise KeyError(name)


def identity(value: Any) -> Any:
    """The plain, canonical form of a config value with its neutral fields left out."""
    if is_dataclass(value) and not isinstance(value, type):
        kept = [item.name for item in fields(value) if item.metadata.get("role") != "neutral"]
        return {name: identity(getattr(value, name)) for name in kept}
    return plain(value)


def plain(value: Any) -> Any:
    """A config value as JSON types: dataclasses to dicts, enums to their names."""
    if isinstance(value, Enum):
        return value.name
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
