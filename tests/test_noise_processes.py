"""Noise on several processes: the same for the same examples, and one dose for all of them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, replace

import pytest
import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing import start_processes
from torch.nn.parallel import DistributedDataParallel

from neft_lab.interventions import Interventions
from neft_lab.interventions.noise import EmbeddingNoise
from neft_lab.interventions.regularizers import token_losses
from tests.noise_cases import PAPER, llama, padded_batch
from tests.test_regularizers import PLAIN

STACK = replace(PLAIN, kl=0.5, entropy=0.1, embedding_dropout=0.2, freelb_steps=2, freelb_start=3.0,
                freelb_step_size=0.5)  # fmt: skip

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


def train_stacked(wrapped, model, examples, *, processes):
    """Gradients of one step with noise and its rivals together, each example a micro-batch, and the doses."""
    ids, mask = padded_batch()
    targets = int((mask.sum(dim=1) - 1).sum())
    interventions = Interventions(model, PAPER, STACK, seed=0)
    with interventions:
        with torch.no_grad():
            next(model.parameters()).mul_(1.5)  # away from the untouched model
        for example in examples:
            row, real = ids[[example], : mask[example].sum()], mask[[example], : mask[example].sum()]
            with interventions.untouched.lent() as base:
                base_logits = base(row, attention_mask=real).logits[0, :-1]
            for number in interventions.passes(real, [example], epoch=0):
                last = example == examples[-1] and number == interventions.steps - 1
                with nullcontext() if last or processes == 1 else wrapped.no_sync():
                    logits = wrapped(input_ids=row, attention_mask=real).logits[0, :-1]
                    losses = token_losses(logits, row[0, 1:], STACK, base_logits=base_logits)
                    (losses.sum() * processes / targets / interventions.steps).backward()
    interventions.check(len(examples))
    return [parameter.grad for parameter in model.parameters()], interventions.doses()


def work(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = llama(attention_dropout=0.0)
    told = train_stacked(DistributedDataParallel(model), model, SHARES[rank], processes=2)
    torch.save(told, folder / f"stack-{rank}.pt")
    for kind in ("ddp", "fsdp2"):
        torch.save(train_once(kind, SHARES[rank]), folder / f"{kind}-{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_see_the_noise_and_the_gradients_and_report_the_dose_of_one(tmp_path):
    start_processes(work, args=(tmp_path,), nprocs=2, start_method="forkserver")
    alone, dose = train_once("alone", [0, 1, 2])
    for kind in ("ddp", "fsdp2"):
        for rank, examples in enumerate(SHARES):
            rows, shared_dose = torch.load(tmp_path / f"{kind}-{rank}.pt")
            assert shared_dose == pytest.approx(dose, rel=1e-6)
            for example in examples:
                assert torch.equal(rows[example], alone[example])
    model = llama(attention_dropout=0.0)
    gradients, doses = train_stacked(model, model, [0, 1, 2], processes=1)
    for rank in range(2):
        shared, shared_doses = torch.load(tmp_path / f"stack-{rank}.pt")
        for one, both in zip(gradients, shared, strict=True):
            torch.testing.assert_close(both, one, rtol=1e-4, atol=1e-6)
        assert shared_doses["equivalent_alpha"] == pytest.approx(doses["equivalent_alpha"], rel=1e-6)
        assert shared_doses["mean_perturbation_norm"] == pytest.approx(
            doses["mean_perturbation_norm"], rel=1e-4
        )
