"""The train stage: an untouched model in, a fine-tuned one out."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from neft_lab.config import DatasetConfig, FinetuneConfig, Method, Optimizer, TrainingPrecision, UserError
from neft_lab.datasets import Example, load_conversations, tokenize
from neft_lab.models import LoadedModel, load_adapted, load_source
from neft_lab.noise_hook import EmbeddingNoise
from neft_lab.progress import Progress, read_events
from neft_lab.sources import Source
from neft_lab.stages import SILENT, Inputs, Metrics, TrainInputs
from neft_lab.store import read_json, write_json
from neft_lab.trainer import NoisyTrainer, Rows


def train(config: TrainInputs, inputs: Inputs, output: Path, progress: Progress) -> Metrics:
    """Fine-tune, and leave ``model/`` (or ``adapter/`` with ``base.json``); ``model.json`` for an untouched model.

    Metrics: mean training loss over all steps and over the last quarter (nats per response token, noise on),
    counts, and the dose of noise that was given.
    """
    pointer = {
        "source": inputs.sources["model"].as_dict(),
        "trust_remote_code": config.model.trust_remote_code,
    }
    if config.finetune.method is Method.none or config.dataset is None:
        load_source(inputs.sources["model"], precision="auto", device="cpu",
                    trust_remote_code=config.model.trust_remote_code)  # fmt: skip
        write_json(output / "model.json", pointer)
        return {}
    finished = output / "finished.json"
    if not finished.is_file():
        told = _train(config, inputs, output, progress, config.dataset, pointer)
        write_json(finished, told)
    shutil.rmtree(output / "checkpoints", ignore_errors=True)
    told = read_json(finished)
    progress.resolved.update(told["resolved"])
    metrics: Metrics = told["metrics"]
    return metrics


def _train(
    config: TrainInputs,
    inputs: Inputs,
    output: Path,
    progress: Progress,
    dataset: DatasetConfig,
    pointer: Any,
) -> dict[str, Any]:
    source = inputs.sources["model"]
    examples = _tokenized(inputs.sources["dataset"], source, dataset.split, dataset.format, dataset.max_rows,
                          dataset.template, config.finetune.max_length, config.model.trust_remote_code)  # fmt: skip
    read = len(load_conversations(inputs.sources["dataset"], split=dataset.split, format=dataset.format,
                                  max_rows=dataset.max_rows))  # fmt: skip
    if not examples:
        raise UserError(f"dataset {dataset.name}: no row keeps a response within finetune.max_length="
                        f"{config.finetune.max_length} tokens; raise it")  # fmt: skip
    loaded = load_adapted(
        source, config.finetune, device=inputs.device, trust_remote_code=config.model.trust_remote_code
    )
    noise_config, regularizer = config.noise or SILENT, config.regularizer
    assert regularizer is not None
    noise = EmbeddingNoise(loaded.model, noise_config, seed=config.seed)
    trainer = NoisyTrainer(
        model=loaded.model,
        args=_arguments(config.finetune, output / "checkpoints", len(examples), config.seed, inputs.device),
        train_dataset=Rows(examples),
        config=config.finetune,
        noise=noise,
        noise_config=noise_config,
        regularizer=regularizer,
        tokenizer=loaded.tokenizer,
        progress=progress,
    )
    trainer.train_or_resume()
    _save(loaded, config.finetune, output, pointer)
    metrics = _curve_metrics(output) | _counts(examples, trainer) | _dose(noise, noise_config.silent)
    progress.event(kind="dose", **_dose(noise, noise_config.silent))
    resolved = {"rows": len(examples), "rows_cut_before_the_response": read - len(examples), "truncated_rows": sum(example.truncated for example in examples),
                "precision": str(next(loaded.model.parameters()).dtype).removeprefix("torch.")}  # fmt: skip
    return {"metrics": metrics, "resolved": resolved}


@lru_cache(maxsize=2)
def _tokenized(
    dataset: Source, model: Source, split: str, format: str, max_rows: int | None, template: str, max_length: int,
    trust_remote_code: bool,
) -> list[Example]:  # fmt: skip
    """Tokenised examples, kept warm for the next cell of the grid."""
    tokenizer = load_source(
        model, precision="auto", device="cpu", trust_remote_code=trust_remote_code
    ).tokenizer
    conversations = load_conversations(dataset, split=split, format=format, max_rows=max_rows)
    examples = tokenize(conversations, tokenizer, template=template, max_length=max_length)
    return [example for example in examples if example.learned]


def _arguments(config: FinetuneConfig, folder: Path, rows: int, seed: int, device: str) -> TrainingArguments:
    total = config.max_steps or math.ceil(config.epochs * math.ceil(rows / config.batch))
    paged = config.optimizer is Optimizer.paged_adamw and device == "cuda"
    return TrainingArguments(
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
        optim="paged_adamw_32bit" if paged else "adamw_torch_fused",
        bf16=config.precision is TrainingPrecision.bf16
        or (config.precision is TrainingPrecision.auto and device == "cuda"),
        torch_compile=config.compile,
        ddp_find_unused_parameters=False,
        activation_checkpointing=config.gradient_checkpointing,
        save_strategy="steps",
        save_steps=config.checkpoint_every,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=device == "cuda",
        use_cpu=device == "cpu",
        seed=seed,
        data_seed=seed,
    )


def _save(loaded: LoadedModel, config: FinetuneConfig, output: Path, pointer: dict[str, Any]) -> None:
    name = "model" if config.method is Method.full else "adapter"
    partial = output / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    loaded.model.save_pretrained(partial)
    loaded.tokenizer.save_pretrained(partial)
    write_json(output / "base.json", pointer)
    shutil.rmtree(output / name, ignore_errors=True)
    os.rename(partial, output / name)


def _curve_metrics(output: Path) -> Metrics:
    """Mean loss over all optimizer steps and over the last quarter, from the log (right after a resume too)."""
    losses = [event["loss"] for event in read_events(output) if event.get("kind") == "train"]
    last = losses[-max(1, len(losses) // 4) :]
    return {"train_loss": math.fsum(losses) / len(losses), "final_train_loss": math.fsum(last) / len(last)}


def _counts(examples: list[Example], trainer: NoisyTrainer) -> Metrics:
    return {
        "train_rows": len(examples),
        "train_steps": trainer.state.global_step,
        "train_tokens": int(trainer.tokens),
        "micro_batches": trainer.micro_batches,
        "truncated_share": 100 * sum(example.truncated for example in examples) / len(examples),
    }


def _dose(noise: EmbeddingNoise, silent: bool) -> Metrics:
    if silent:
        return {"mean_noise_norm": 0.0, "noise_to_embedding_rms": 0.0, "equivalent_alpha": 0.0}
    return {name: value for name, value in asdict(noise.dose()).items() if name != "examples"}
