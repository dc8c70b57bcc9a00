"""Whether several processes can share a training here, and whether they do: ways that share nothing end without error."""

from __future__ import annotations

from typing import Any

from neft_lab.config import FinetuneConfig, Method, UserError

SLACK = 1.5
"""By how much a process's share of the weights may be above its part; rows do not always divide."""


def check_machine(config: FinetuneConfig, *, device: str, keeps_copy: bool) -> None:
    """Raise UserError where this machine, or the method, cannot do what ``processes`` and ``sharded`` ask.

    keeps_copy: whether the untouched model is kept whole beside the one that trains.
    """
    processes = config.processes
    if config.sharded and device != "cuda":
        raise UserError(
            f"finetune.sharded=true needs GPUs, and this step runs on the {device}; use finetune.sharded=false, "
            "with which several processes train on a CPU too"
        )
    if config.sharded and config.method is Method.qlora:
        raise UserError(
            "finetune.sharded=true cannot split the 4-bit weights of qlora; use finetune.sharded=false"
        )
    if config.sharded and keeps_copy:
        raise UserError(
            "finetune.sharded=true with regularizer.kl would keep a whole copy of the model in every process; "
            "use finetune=lora, which needs none, or finetune.sharded=false"
        )
    if device == "cuda" and processes > 1:
        import torch

        found = torch.cuda.device_count()
        if found < processes:
            raise UserError(
                f"finetune.processes={processes} needs as many GPUs, and this machine has {found}; "
                f"use finetune.processes={found}"
            )


def check_sharing(model: Any, config: FinetuneConfig, *, processes: int, sharded: bool) -> None:
    """Raise RuntimeError unless a model about to train is shared as asked.

    model: as it was wrapped. processes, sharded: what the trainer says of itself.
    """
    from torch.nn.parallel import DistributedDataParallel

    if processes != config.processes:
        raise RuntimeError(f"finetune.processes is {config.processes}, but {processes} train together")
    if sharded != config.sharded:
        raise RuntimeError(f"finetune.sharded is {config.sharded}, but the trainer shards: {sharded}")
    if sharded:
        _check_shards(model, processes)
    elif processes > 1 and not isinstance(model, DistributedDataParallel):
        raise RuntimeError(f"finetune.processes is {processes}, but their gradients are not averaged")


def _check_shards(model: Any, processes: int) -> None:
    from torch.distributed.tensor import DTensor

    weights = dict(model.named_parameters())
    whole = [name for name, weight in weights.items() if not isinstance(weight, DTensor)]
    if whole:
        raise RuntimeError(f"finetune.sharded is True, but {whole[0]} is whole in every process")
    held = sum(weight.to_local().numel() for weight in weights.values())
    total = sum(weight.numel() for weight in weights.values())
    if held > SLACK * total / processes:
        raise RuntimeError(
            f"finetune.sharded is True, but one of {processes} processes holds {held} of {total} weights"
        )


def gather_weights(trainer: Any) -> dict[str, Any] | None:
    """All weights on the host of the first process, where they are sharded; None where it has them already.

    A weight with two names comes once. A collective call: make it on every process.
    """
    if not trainer.is_fsdp_enabled:
        return None
    weights: dict[str, Any] = trainer.accelerator.get_state_dict(trainer.model)
    return {name: weight for name, weight in weights.items() if name not in _tied(trainer.model)}


def _tied(model: Any) -> set[str]:
    """Weights that are another's under a second name, and are not written twice."""
    return set(getattr(model, "all_tied_weights_keys", None) or {})
