"""Embedding dropout and FreeLB: the hooks against their formulas, and what they leave alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from neft_lab.interventions.dropout import STREAM, EmbeddingDropout, dropout_factors
from neft_lab.interventions.freelb import STREAM as START
from neft_lab.interventions.freelb import FreeLB, climb
from neft_lab.interventions.noise import EmbeddingNoise
from neft_lab.noise import example_generators, locate_examples, sample_noise
from tests.noise_cases import LENGTHS, PAPER, WIDTH, generators, llama, padded_batch, right_padded
from tests.test_regularizers import PLAIN


def streams(ids, stream, *, seed=0, epoch=0):
    return example_generators(ids, seed=seed, epoch=epoch, device="cpu", stream=stream)


def factors(p, mask, *, width=64, ids=None, segment_ids=None):
    examples = locate_examples(mask, segment_ids)
    ids = range(len(examples.lengths)) if ids is None else ids
    return dropout_factors(torch.zeros(*mask.shape, width), examples, p, generators=streams(ids, STREAM))


def test_dropout_drops_its_share_and_keeps_the_expectation() -> None:
    """40 x 250 x 64 numbers, p = 0.1: five standard errors of the share are 0.0019, of the mean 0.0021."""
    told = factors(0.1, torch.ones(40, 250, dtype=torch.long))
    assert told.unique().tolist() == [0.0, pytest.approx(1 / 0.9)]
    assert float((told == 0).double().mean()) == pytest.approx(0.1, abs=0.0019)
    assert float(told.double().mean()) == pytest.approx(1.0, abs=0.0021)


def test_dropout_leaves_padding_alone() -> None:
    mask = right_padded(LENGTHS, row_length=12)
    assert (factors(0.5, mask)[mask == 0] == 1).all()


def test_dropout_of_an_example_depends_on_neither_padding_nor_packing_nor_mates() -> None:
    padded = factors(0.3, right_padded(LENGTHS, row_length=12))
    segments = torch.tensor([[1] * 9 + [2] * 5 + [0] * 2, [1] * 3 + [0] * 13])
    packed = factors(0.3, (segments != 0).long(), ids=(1, 0, 2), segment_ids=segments)
    for example, part in {1: packed[0, :9], 0: packed[0, 9:14], 2: packed[1, :3]}.items():
        assert torch.equal(part, padded[example, : LENGTHS[example]])


def dropped(model, *, train=True):
    ids, mask = padded_batch()
    embedding = model.train(train).get_input_embeddings()
    with EmbeddingDropout(model, 0.25, seed=0) as dropout:
        dropout.arm(mask, [0, 1, 2], epoch=0)
        return embedding(ids), embedding.weight[ids] if embedding.training else embedding(ids)


def test_dropout_multiplies_the_embeddings_in_training_and_is_off_in_evaluation() -> None:
    mask = padded_batch()[1]
    told, plain = dropped(llama())
    expected = dropout_factors(plain, locate_examples(mask), 0.25, generators=streams(range(3), STREAM))
    assert torch.equal(told, plain * expected)
    assert (expected == 0).any()
    told, plain = dropped(llama(), train=False)
    assert torch.equal(told, plain)


def test_gradients_pass_the_numbers_that_were_kept() -> None:
    model = llama()
    ids, mask = padded_batch()
    embedding = model.get_input_embeddings()
    with EmbeddingDropout(model, 0.25, seed=0) as dropout:
        dropout.arm(mask, [0, 1, 2], epoch=0)
        embedding(ids)[0, 0].sum().backward()
    first = dropout_factors(torch.zeros(*ids.shape, WIDTH), locate_examples(mask), 0.25,
                            generators=streams(range(3), STREAM))[0, 0]  # fmt: skip
    assert torch.equal(embedding.weight.grad[ids[0, 0]], first)


@pytest.mark.parametrize("hook", ["dropout", "freelb"])
def test_a_pass_without_its_hook_fails_the_check(hook: str) -> None:
    model = llama()
    ids, mask = padded_batch()
    made = {
        "dropout": lambda: EmbeddingDropout(model, 0.1, seed=0),
        "freelb": lambda: FreeLB(model, replace(PLAIN, freelb_steps=1), seed=0),
    }[hook]()
    with made:
        made.arm(mask, [0, 1, 2], epoch=0)
        model.eval()(ids, attention_mask=mask)
    with pytest.raises(RuntimeError, match=r"regularizer\..* is .*, but of 1 training micro-batches 1 were"):
        made.check(1)


def test_hooks_without_an_active_part_are_not_placed() -> None:
    model = llama()
    with EmbeddingDropout(model, 0.0, seed=0) as dropout, FreeLB(model, PLAIN, seed=0) as adversary:
        assert not model.get_input_embeddings()._forward_hooks
        assert list(adversary.passes(torch.ones(1, 4), [0], epoch=0)) == [0]
    dropout.check(7)
    adversary.check(7)


def test_one_step_up_the_gradient_is_that_of_the_formula() -> None:
    """Two examples in one row: (3, 4) with slope (0, 2), and two tokens with slopes (3, 0) and (0, 4)."""
    start = torch.tensor([[[3.0, 4.0], [0.0, 0.0], [1.0, 1.0], [9.0, 9.0]]], dtype=torch.float64)
    slope = torch.tensor([[[0.0, 2.0], [3.0, 0.0], [0.0, 4.0], [5.0, 5.0]]], dtype=torch.float64)
    examples = locate_examples(torch.tensor([[1, 1, 1, 0]]), torch.tensor([[1, 2, 2, 0]]))
    moved = climb(start, slope, examples, step_size=0.5, max_norm=0)
    wanted = [[3, 4.5], [0.3, 0], [1, 1.4], [9, 9]]
    torch.testing.assert_close(moved[0], torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    held = climb(start, slope, examples, step_size=0.5, max_norm=2)
    shrunk = 2 / math.hypot(3, 4.5)
    wanted = [[3 * shrunk, 4.5 * shrunk], [0.3, 0], [1, 1.4], [9, 9]]
    torch.testing.assert_close(held[0], torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_an_example_without_gradient_stays_where_it_is() -> None:
    start = torch.tensor([[[1.0, 2.0]]])
    examples = locate_examples(torch.ones(1, 1))
    assert torch.equal(climb(start, torch.zeros_like(start), examples, step_size=1, max_norm=0), start)


class Bowl(nn.Module):
    """A loss of half the squared distance of every embedding from a point: its gradient is the distance."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(5, 3).double()
        self.point = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return 0.5 * (self.table(ids) - self.point).square().sum()


def test_three_passes_leave_the_mean_gradient_of_three_perturbations() -> None:
    """Worked by hand for two examples of one token: distance e + delta - c, delta <- delta + distance / |distance|."""
    model, ids, mask = Bowl(), torch.tensor([[1], [4]]), torch.ones(2, 1, dtype=torch.long)
    config = replace(PLAIN, freelb_steps=3, freelb_start=2.0, freelb_step_size=0.25)
    with FreeLB(model, config, seed=7) as adversary:
        for number in adversary.passes(mask, [10, 11], epoch=2):
            assert number < 3
            (model(ids) / adversary.steps).backward()
    adversary.check(3)
    assert adversary.fired == 3
    for row, token in enumerate((1, 4)):
        units = torch.empty(1, 3)
        units.uniform_(-1, 1, generator=streams([10 + row], START, seed=7, epoch=2)[0])
        delta = units[0].double() * 2 / math.sqrt(1 * 3)
        total = torch.zeros(3, dtype=torch.float64)
        for _ in range(3):
            distance = model.table.weight[token].detach() + delta - model.point
            total += distance / 3
            delta = delta + 0.25 * distance / math.sqrt(sum(float(one) ** 2 for one in distance))
        torch.testing.assert_close(model.table.weight.grad[token], total, rtol=1e-12, atol=1e-12)


def test_one_pass_is_the_papers_noise() -> None:
    """FreeLB with one step is NEFTune: the same tokens, the same size, a stream of its own."""
    model, config = llama(), replace(PLAIN, freelb_steps=1, freelb_start=5.0)
    ids, mask = padded_batch()
    with FreeLB(model, config, seed=0) as adversary:
        for _ in adversary.passes(mask, [0, 1, 2], epoch=0):
            added = model.get_input_embeddings()(ids) - model.get_input_embeddings().weight[ids]
    zeros = torch.zeros(*mask.shape, WIDTH)
    wanted = sample_noise(zeros, mask, PAPER, generators=streams(range(3), START))
    torch.testing.assert_close(added, wanted, rtol=0, atol=1e-6)
    assert adversary.dose().equivalent_alpha == pytest.approx(5, rel=0.1)
    assert not torch.allclose(wanted, sample_noise(zeros, mask, PAPER, generators=generators(range(3))))


def adversarial_gradients(model, mask, ids, names, *, segment_ids=None, positions=None):
    config = replace(PLAIN, freelb_steps=3, freelb_start=5.0, freelb_step_size=1.0, freelb_max_norm=3.2)
    seen = []
    watch = model.get_input_embeddings()
    with FreeLB(model, config, seed=0) as adversary:
        handle = watch.register_forward_hook(lambda *told: seen.append(told[2].detach().clone()))
        for _ in adversary.passes(mask, names, epoch=0, segment_ids=segment_ids):
            labels = ids.masked_fill(mask == 0, -100)
            (model(ids, attention_mask=mask, labels=labels).loss / 3).backward()
        handle.remove()
    return seen


def test_every_example_climbs_on_its_own() -> None:
    """An example's perturbation does not depend on its mates: gradients are scaled to length per example."""
    ids, mask = padded_batch()
    together = adversarial_gradients(llama(attention_dropout=0.0), mask, ids, [0, 1, 2])
    for example in range(3):
        model, long = llama(attention_dropout=0.0), LENGTHS[example]
        alone = adversarial_gradients(model, mask[example, :long][None], ids[example, :long][None], [example])
        for one, all_of_them in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_of_them[example, :long], rtol=0, atol=2e-5)
    norms = [(one - together[0]).norm().item() for one in together]
    assert norms[0] == 0 < norms[1] < norms[2]


def test_the_passes_see_one_dropout_and_leave_the_random_state_of_one_pass() -> None:
    ids, mask = padded_batch()
    config = replace(PLAIN, freelb_steps=3, freelb_start=0.0, freelb_step_size=0.0)
    states, gradients = [], []
    for part in (PLAIN, config):
        model = llama()
        torch.manual_seed(3)
        with FreeLB(model, part, seed=0) as adversary:
            for _ in adversary.passes(mask, [0, 1, 2], epoch=0):
                (model(ids, attention_mask=mask, labels=ids).loss / adversary.steps).backward()
        states.append(torch.get_rng_state())
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert torch.equal(*states)
    for one, three in zip(*gradients, strict=True):
        torch.testing.assert_close(three, one, rtol=1e-4, atol=1e-7)


def test_a_pass_without_backward_is_told() -> None:
    model = llama()
    ids, mask = padded_batch()
    with (
        FreeLB(model, replace(PLAIN, freelb_steps=2, freelb_step_size=0.1), seed=0) as adversary,
        pytest.raises(RuntimeError, match="call backward in between"),
    ):
        for _ in adversary.passes(mask, [0, 1, 2], epoch=0):
            model(ids, attention_mask=mask)


def test_hooks_stack_and_noise_keeps_its_dose() -> None:
    """Dropout, noise and FreeLB at once: what reaches the model is E * factors + noise + perturbation."""
    model = llama()
    ids, mask = padded_batch()
    config = replace(PLAIN, freelb_steps=1, freelb_start=3.0)
    with (
        EmbeddingDropout(model, 0.25, seed=0) as dropout,
        EmbeddingNoise(model, PAPER, seed=0) as noise,
        FreeLB(model, config, seed=0) as adversary,
    ):
        for _ in adversary.passes(mask, [0, 1, 2], epoch=0):
            for hook in (dropout, noise):
                hook.arm(mask, [0, 1, 2], epoch=0)
            told = model.get_input_embeddings()(ids)
    plain, zeros = model.get_input_embeddings().weight[ids], torch.zeros(*mask.shape, WIDTH)
    kept = dropout_factors(plain, locate_examples(mask), 0.25, generators=streams(range(3), STREAM))
    added = sample_noise(zeros, mask, PAPER, generators=generators(range(3)))
    start = sample_noise(zeros, mask, replace(PAPER, alpha=3.0), generators=streams(range(3), START))
    torch.testing.assert_close(told, plain * kept + added + start, rtol=0, atol=1e-6)
    alone = sample_noise(zeros, mask, PAPER, generators=generators(range(3)))
    assert noise.dose().mean_noise_norm == pytest.approx(float(alone.flatten(1).norm(dim=1).mean()), rel=1e-5)
