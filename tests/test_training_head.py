"""Output layer and loss in one: the losses, the gradients and the memory, against the logits computed whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from neft_lab.interventions import Interventions
from neft_lab.training.head import fused_losses, is_worth_it, settle_head
from neft_lab.training.losses import Losses
from neft_lab.training.packing import MicroBatch, pack, pad
from tests.noise_cases import PAPER
from tests.test_packing import EXACT, example, gemma2, llama, weigh
from tests.test_regularizers import PLAIN

MANY = [example(0, 30, 4), example(1, 25, 3), example(2, 17, 9)]
"""More targets, 56, than the tiny models are wide, 32."""


def summed(
    model: Any, micro: MicroBatch, *, fuse: bool, **rivals: Any
) -> tuple[float, dict[str, torch.Tensor], Losses]:
    """Weighted loss of a micro-batch under noise, and its gradient."""
    model.zero_grad()
    interventions = Interventions(model, replace(PAPER, alpha=5.0), replace(PLAIN, **rivals), seed=3)
    packed = micro.position_ids is not None
    losses = Losses(
        model, interventions, packed=packed, autocast=False, device=torch.device("cpu"), fuse=fuse
    )
    model.train()
    with interventions:
        for _ in interventions.passes(
            micro.attention_mask, micro.example_ids, epoch=0, segment_ids=micro.segment_ids
        ):
            loss = losses.sum(model, micro, None)
            loss.backward()
    gradients = {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}
    return loss.item(), gradients, losses


@pytest.mark.parametrize("make", EXACT, ids=lambda make: make.__name__)
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_fused_loss_and_gradient_are_those_of_the_logits(make: Callable[[], Any], layout: str) -> None:
    torch.manual_seed(0)
    model = make().double()
    micro = pack(MANY, weigh) if layout == "packed" else pad(MANY, weigh, pad_id=0)
    micro = replace(micro, weights=torch.rand(len(micro.weights)))
    whole, wanted, plain = summed(model, micro, fuse=False)
    fused, found, pieces = summed(model, micro, fuse=True)
    assert not plain.fused and pieces.fused
    # losses are summed in float32
    assert fused == pytest.approx(whole, rel=1e-6)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-6, msg=name)


def test_a_micro_batch_of_few_targets_and_any_other_loss_keep_their_logits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from neft_lab.training import losses

    called: list[int] = []
    monkeypatch.setattr(
        losses, "fused_losses", lambda *told: called.append(len(told[1])) or fused_losses(*told)
    )
    model = llama()
    summed(model, pack(MANY[:1], weigh), fuse=True)
    assert not called, "26 targets, and a width of 32"
    for rival in ({"label_smoothing": 0.1}, {"entropy": 0.1}):
        *_, told = summed(model, pack(MANY, weigh), fuse=True, **rival)
        assert not told.fused and not called
    summed(model, pack(MANY, weigh), fuse=True)
    assert called == [56]


def test_logits_that_are_capped_after_the_output_layer_are_not_fused() -> None:
    torch.manual_seed(0)
    model = gemma2()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(100)
    assert model.config.final_logit_softcapping == 30
    assert settle_head(model, autocast=False) is None
    assert "forward" not in vars(model.get_output_embeddings())


def test_under_autocast_it_is_computed_in_bfloat16_and_the_weights_learn_in_float32() -> None:
    torch.manual_seed(0)
    model = llama()
    head = settle_head(model, autocast=True)
    assert head is not None
    ids = torch.arange(3, 53)[None]
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids, use_cache=False).logits
        with fused_losses(head, ids[0], None):
            fused = model(ids, use_cache=False).logits[:, 0]
    assert logits.dtype == fused.dtype == torch.bfloat16
    plain = torch.nn.functional.cross_entropy(logits[0].float(), ids[0], reduction="none")
    torch.testing.assert_close(fused.float(), plain, rtol=2e-2, atol=2e-2)
    fused.float().sum().backward()
    assert head.weight.grad is not None and head.weight.grad.dtype == torch.float32


def test_it_is_worth_it_where_torch_says_so() -> None:
    head = torch.nn.Linear(8, 20)
    assert [is_worth_it(head, n) for n in (7, 8)] == [False, True]
    assert not is_worth_it(torch.nn.Linear(20, 8), 100)


def largest_allocation(work: Callable[[], Any]) -> int:
    """Bytes of the largest block of memory that is asked for."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        work()
    assert told.profiler is not None and told.profiler.kineto_results is not None
    events = told.profiler.kineto_results.events()
    return max(event.nbytes() for event in events if event.name() == "[memory]")


def test_the_logits_of_many_targets_are_never_whole_in_memory() -> None:
    """4,096 targets among 2,048 words are 32 MiB of logits in float32."""
    head = torch.nn.Linear(32, 2048, bias=False)
    hidden = torch.randn(1, 4096, 32, requires_grad=True)
    targets = torch.arange(4096) % 2048

    def in_pieces() -> None:
        with fused_losses(head, targets, None):
            head(hidden).sum().backward()

    def whole() -> None:
        torch.nn.functional.cross_entropy(head(hidden)[0], targets).backward()

    assert largest_allocation(whole) == 2**25
    assert largest_allocation(in_pieces) <= 2**21
