"""Noise on several processes: the same for the same examples, and one dose for all of them."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing import start_processes
from torch.nn.parallel import DistributedDataParallel

from neft_lab.noise_hook import EmbeddingNoise
from tests.noise_cases import PAPER, llama, padded_batch

SHARES = [[0, 1], [2]]
"""The examples of each process; alone, example 2 has another padding and other mates."""


def wrap(model, kind):
    if kind == "ddp":
        return DistributedDataParallel(model)
    if kind == "fsdp2":
        for layer in model.model.layers:
            fully_shard(layer)
        return fully_shard(model)
    return model


def train_once(kind, examples):
    """Noisy embeddings of each example after one training pass, and the dose."""
    model = llama()
    ids, mask = padded_batch()
    tokens = mask.sum(dim=1).tolist()
    longest = max(tokens[example] for example in examples)
    ids, mask = ids[examples, :longest], mask[examples, :longest]
    wrapped, seen = wrap(model, kind), []
    with EmbeddingNoise(wrapped, PAPER, seed=0) as noise:
        model.get_input_embeddings().register_forward_hook(
            lambda *args: seen.append(args[2].detach().clone())
        )
        noise.arm(mask, examples, epoch=0)
        wrapped(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
    noise.check(1)
    rows = {example: seen[0][row, : tokens[example]] for row, example in enumerate(examples)}
    return rows, asdict(noise.dose())


def work(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for kind in ("ddp", "fsdp2"):
        torch.save(train_once(kind, SHARES[rank]), folder / f"{kind}-{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_see_the_noise_and_report_the_dose_of_one(tmp_path):
    start_processes(work, args=(tmp_path,), nprocs=2, start_method="forkserver")
    alone, dose = train_once("alone", [0, 1, 2])
    for kind in ("ddp", "fsdp2"):
        for rank, examples in enumerate(SHARES):
            rows, shared_dose = torch.load(tmp_path / f"{kind}-{rank}.pt")
            assert shared_dose == pytest.approx(dose, rel=1e-6)
            for example in examples:
                assert torch.equal(rows[example], alone[example])
