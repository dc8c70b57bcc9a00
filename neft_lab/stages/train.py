"""The train stage: an untouched model in, a fine-tuned one out."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Any

from transformers import set_seed

from neft_lab.config import SILENT, FinetuneConfig, Method
from neft_lab.datasets import Prepared, load_instructions, prepare_examples
from neft_lab.interventions import Interventions
from neft_lab.interventions.regularizers import require_ends
from neft_lab.models import LoadedModel, load_adapted, load_source, load_tokenizer
from neft_lab.noise.dose import sample_changed_tokens
from neft_lab.processes import check_machine, gather_weights, launch
from neft_lab.progress import Progress, read_events
from neft_lab.stages import Inputs, Metrics, TrainInputs
from neft_lab.store import read_json, write_json
from neft_lab.training.arguments import computes_in_bf16, optimizer_name, training_arguments
from neft_lab.training.rows import Rows
from neft_lab.training.trainer import NoisyTrainer


def train(config: TrainInputs, inputs: Inputs, output: Path, progress: Progress) -> Metrics:
    """Fine-tune, and leave ``model/`` (or ``adapter/`` with ``base.json``); ``model.json`` for an untouched model.

    Metrics: mean training loss over all steps and over the last quarter (nats per weighted token, noise on), counts,
    and the dose of noise that was given.
    """
    if config.finetune.method is Method.none or config.dataset is None:
        load_source(inputs.sources["model"], precision="auto", device="cpu",
                    trust_remote_code=config.model.trust_remote_code)  # fmt: skip
        write_json(output / "model.json", _pointer(config, inputs))
        return {}
    finished = output / "finished.json"
    if not finished.is_file():
        write_json(finished, _fine_tune_shared(config, inputs, output, progress))
    shutil.rmtree(output / "checkpoints", ignore_errors=True)
    told = read_json(finished)
    progress.resolved.update(told["resolved"])
    metrics: Metrics = told["metrics"]
    return metrics


def _fine_tune_shared(
    config: TrainInputs, inputs: Inputs, output: Path, progress: Progress
) -> dict[str, Any]:
    """Train in this process, or in as many as ``finetune.processes`` says."""
    finetune = config.finetune
    copied = finetune.method is Method.full and config.regularizer is not None and config.regularizer.kl > 0
    check_machine(finetune, device=inputs.device, keeps_copy=copied)
    if finetune.processes == 1 and not finetune.sharded:
        return fine_tune(config, inputs, output, progress)
    _prepare(config, inputs)  # a mistake in the data is told before anything is started
    return launch(fine_tune, config, inputs, output, progress, processes=finetune.processes)


def fine_tune(config: TrainInputs, inputs: Inputs, output: Path, progress: Progress) -> dict[str, Any]:
    """Train in this process, alone or as one of several; metrics and what was resolved. The first process writes."""
    source, trust = inputs.sources["model"], config.model.trust_remote_code
    assert config.regularizer is not None
    prepared = _prepare(config, inputs)
    # what is to be sharded is loaded on the host: whole, it may fit no GPU
    place = "cpu" if config.finetune.sharded else inputs.device
    set_seed(config.seed)  # adapters begin at random
    loaded = load_adapted(source, config.finetune, device=place, trust_remote_code=trust)
    noise_config = config.noise or SILENT
    require_ends(prepared.examples, config.regularizer, eos_id=loaded.tokenizer.eos_token_id)
    interventions = Interventions(loaded.model, noise_config, config.regularizer, seed=config.seed)
    trainer = NoisyTrainer(
        model=loaded.model,
        args=training_arguments(config.finetune, output / "checkpoints", rows=len(prepared.examples),
                                seed=config.seed, device=inputs.device),
        train_dataset=Rows(prepared.examples),
        config=config.finetune,
        interventions=interventions,
        tokenizer=loaded.tokenizer,
        progress=progress,
    )  # fmt: skip
    first = trainer.first_micro_batch()
    changed = sample_changed_tokens(loaded.model, first, noise_config, seed=config.seed,
                                    place_mask=first["place_mask"])  # fmt: skip
    trainer.train_or_resume()
    dose = interventions.doses() | {
        "changed_token_share": 100 * changed.share,
        "changed_token_share_n": changed.tokens,
    }
    progress.event(kind="dose", **dose)
    weights = gather_weights(trainer)
    if trainer.is_world_process_zero():
        _save(loaded, config, output, _pointer(config, inputs), weights)
    counts = {"train_rows": len(prepared.examples), **trainer.counts(),
              "truncated_share": 100 * prepared.truncated / len(prepared.examples)}  # fmt: skip
    return {
        "metrics": _curve_metrics(output) | counts | dose,
        "resolved": prepared.facts | _circumstances(loaded, trainer, config.finetune, inputs.device),
    }


def _prepare(config: TrainInputs, inputs: Inputs) -> Prepared:
    """The examples; tokenised once, by whichever process comes first."""
    assert config.dataset is not None
    asked = load_instructions(inputs.sources["evaluation"]) if "evaluation" in inputs.sources else []
    tokenizer = load_tokenizer(inputs.sources["model"], trust_remote_code=config.model.trust_remote_code)
    return prepare_examples(
        inputs.sources["dataset"], config.dataset, tokenizer,
        max_length=config.finetune.max_length, evaluation=[one.instruction for one in asked],
    )  # fmt: skip


def _circumstances(
    loaded: LoadedModel, trainer: NoisyTrainer, config: FinetuneConfig, device: str
) -> dict[str, Any]:
    """What was decided on this machine."""
    learned = next(weight for weight in loaded.model.parameters() if weight.requires_grad)
    weights = str(learned.dtype).removeprefix("torch.")
    return {
        "weights": weights,
        "precision": "bfloat16" if computes_in_bf16(config, device) else weights,
        "optimizer": optimizer_name(config, device),
        "attention": trainer.losses.attention,
        "fused_loss": trainer.losses.fused,
        "processes": trainer.args.world_size,
        "sharded": trainer.is_fsdp_enabled,
        "tokens_per_second": round(trainer.tokens_per_second, 1),
    }


def _pointer(config: TrainInputs, inputs: Inputs) -> dict[str, Any]:
    return {
        "source": inputs.sources["model"].as_dict(),
        "trust_remote_code": config.model.trust_remote_code,
        "quantized": config.finetune.method is Method.qlora,
    }


def _save(
    loaded: LoadedModel,
    config: TrainInputs,
    output: Path,
    pointer: dict[str, Any],
    weights: dict[str, Any] | None,
) -> None:
    name = "model" if config.finetune.method is Method.full else "adapter"
    partial = output / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    loaded.model.save_pretrained(partial, state_dict=weights)
    loaded.tokenizer.save_pretrained(partial)
    write_json(output / "base.json", pointer)
    shutil.rmtree(output / name, ignore_errors=True)
    os.rename(partial, output / name)


def _curve_metrics(output: Path) -> Metrics:
    """Mean loss over all optimizer steps and over the last quarter, from the log (right after a resume too)."""
    losses = [event["loss"] for event in read_events(output) if event.get("kind") == "train"]
    last = losses[-max(1, len(losses) // 4) :]
    return {"train_loss": math.fsum(losses) / len(losses), "final_train_loss": math.fsum(last) / len(last)}
