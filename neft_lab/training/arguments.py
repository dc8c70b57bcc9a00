"""A fine-tuning's configuration as transformers' TrainingArguments."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from neft_lab.config import FinetuneConfig, Optimizer, TrainingPrecision


def training_arguments(
    config: FinetuneConfig, folder: Path, *, rows: int, seed: int, device: str
) -> TrainingArguments:
    """Arguments for a Trainer whose batch is a whole optimizer step; checkpoints go to ``folder``."""
    total = config.max_steps or math.ceil(config.epochs * math.ceil(rows / config.batch))
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch,
        gradient_accumulation_steps=1,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=int(config.warmup_ratio * total),
        weight_decay=config.weight_decay,
        max_grad_norm=config.clip,
        optim=optimizer_name(config, device),
        bf16=computes_in_bf16(config, device),
        activation_checkpointing=config.gradient_checkpointing and not config.sharded,
        torch_compile=config.compile,
        ddp_find_unused_parameters=False,
        save_strategy="steps",
        save_steps=config.checkpoint_every,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=device == "cpu",
        seed=seed,
        data_seed=seed,
        **(_sharding(config) if config.sharded else {}),
    )
    # else one process would split its batches over all GPUs that it sees
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _sharding(config: FinetuneConfig) -> dict[str, Any]:
    """FSDP2: every decoder layer a unit, whose checkpointing is FSDP's own; checkpoints stay in shards."""
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "state_dict_type": "SHARDED_STATE_DICT",
            "activation_checkpointing": config.gradient_checkpointing,
        },
    }


def optimizer_name(config: FinetuneConfig, device: str) -> str:
    """Transformers' name of the optimizer; paging needs a GPU, and without one the plain one has the same states."""
    paged = config.optimizer is Optimizer.paged_adamw and device == "cuda"
    return "paged_adamw_32bit" if paged else "adamw_torch_fused"


def computes_in_bf16(config: FinetuneConfig, device: str) -> bool:
    """Whether weights kept in float32 are computed with in bfloat16."""
    automatic = config.precision is TrainingPrecision.auto and device == "cuda"
    return automatic or config.precision is TrainingPrecision.bf16
