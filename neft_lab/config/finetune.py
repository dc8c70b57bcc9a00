"""How a model is fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from neft_lab.config.rules import key, neutral, require


class Method(Enum):
    none = "none"
    full = "full"
    lora = "lora"
    qlora = "qlora"


class LossAverage(Enum):
    token = "token"
    paper = "paper"


class Layout(Enum):
    packed = "packed"
    padded = "padded"


class TrainingPrecision(Enum):
    auto = "auto"
    """bf16 on a GPU, fp32 on a CPU."""
    fp32 = "fp32"
    bf16 = "bf16"
    """Computed in bfloat16; weights and optimizer states kept in float32."""
    bf16_pure = "bf16_pure"
    """Weights, gradients and optimizer states all bfloat16, as in the paper's commands."""


class Optimizer(Enum):
    adamw = "adamw"
    paged_adamw = "paged_adamw"
    """bitsandbytes' AdamW whose states move to the host when a GPU is full; float32 states (QLoRA)."""


class FrozenPart(Enum):
    embeddings = "embeddings"
    lm_head = "lm_head"
    attention = "attention"


@dataclass
class FinetuneConfig:
    name: str = key()
    method: Method = key()
    epochs: float = key()
    max_steps: int | None = key()
    batch: int = key()
    """Examples per optimizer step."""
    doubled_batch: bool = key()
    """Every example twice in its step: the control for SymNoise, which does so with noise of both signs."""
    layout: Layout = key()
    """packed: whole examples side by side in one row, no attention between them, as many as the token budget
    takes. padded: ``micro_batch`` examples a pass, filled up to the longest."""
    token_budget: int = key()
    """Tokens of one forward pass, layout packed."""
    micro_batch: int = key()
    """Examples of one forward pass, layout padded; batch is a multiple of it."""
    max_length: int = key()
    """Tokens; longer examples are cut on the right, as in the paper's code."""
    learning_rate: float = key()
    schedule: str = key()
    warmup_ratio: float = key()
    weight_decay: float = key()
    clip: float = key()
    loss_average: LossAverage = key()
    precision: TrainingPrecision = key()
    optimizer: Optimizer = key()
    freeze: list[FrozenPart] = key()
    """Parts of the model that are not trained (paper, table 11)."""
    gradient_checkpointing: bool = key()
    lora_rank: int = key()
    lora_alpha: int = key()
    lora_dropout: float = key()
    checkpoint_every: int = neutral()
    """Optimizer steps between checkpoints; a resumed run gives the same weights."""
    processes: int = neutral()
    """Processes that share one training, on as many GPUs or on the CPU; the losses are those of one process."""
    sharded: bool = neutral()
    """Weights, gradients and optimizer states split over the processes (FSDP2); needs GPUs."""
    compile: bool = neutral()

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "batch",
            "micro_batch",
            "token_budget",
            "max_length",
            "checkpoint_every",
            "lora_rank",
            "processes",
        ):
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
        require(
            self.loss_average is LossAverage.token or self.layout is Layout.padded,
            "finetune.layout", self.layout,
            "must be padded with finetune.loss_average=paper, which depends on what shares a micro-batch",
        )  # fmt: skip
        schedules = ("cosine", "linear", "constant", "constant_with_warmup")
        require(
            self.schedule in schedules,
            "finetune.schedule",
            self.schedule,
            f"must be one of {', '.join(schedules)}",
        )
