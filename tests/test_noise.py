"""The noise rule: the paper's formula, whatever the layout of the batch, and its rivals."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neft_lab.config import NoiseLength, NoisePlace, NoiseSchedule, NoiseStrength
from neft_lab.noise import sample_noise
from tests.noise_cases import GAUSSIAN, PAPER, RADEMACHER, full_rows, generators, right_padded


def unit_draw(example_id, tokens, width, **stream):
    """The paper's u for one example, as float64 numpy: what sample_noise must scale."""
    u = torch.empty(tokens, width).uniform_(-1, 1, generator=generators([example_id], **stream)[0])
    return u.numpy().astype(np.float64)


def test_noise_is_the_papers_formula_in_padded_rows():
    lengths, width = [7, 12, 1], 16
    mask = right_padded(lengths, row_length=15)
    embeddings = torch.zeros(3, 15, width, dtype=torch.float64)
    noise = sample_noise(embeddings, mask, PAPER, generators=generators([10, 11, 12])).numpy()
    for row, (example_id, tokens) in enumerate(zip([10, 11, 12], lengths, strict=True)):
        expected = 5.0 / np.sqrt(tokens * width) * unit_draw(example_id, tokens, width)
        np.testing.assert_allclose(noise[row, :tokens], expected, rtol=1e-12, atol=0)
        assert not noise[row, tokens:].any()


@pytest.mark.parametrize("order", list(permutations([0, 1, 2])))
def test_noise_is_the_papers_formula_in_packed_rows_of_every_order(order):
    lengths, width = np.array([7, 12, 4])[list(order)], 16
    segments = torch.zeros(1, 26, dtype=torch.long)
    segments[0, : lengths.sum()] = torch.arange(1, 4).repeat_interleave(torch.tensor(lengths))
    embeddings = torch.zeros(1, 26, width, dtype=torch.float64)
    noise = sample_noise(
        embeddings, torch.ones(1, 26), PAPER, generators=generators(order), segment_ids=segments
    ).numpy()
    start = 0
    for example_id, tokens in zip(order, lengths, strict=True):
        expected = 5.0 / np.sqrt(tokens * width) * unit_draw(example_id, tokens, width)
        np.testing.assert_allclose(noise[0, start : start + tokens], expected, rtol=1e-12, atol=0)
        start += tokens
    assert not noise[0, start:].any()


@st.composite
def layouts(draw):
    """Examples of some lengths, dealt in some order into rows with segments and padding at both ends."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    order = draw(st.permutations(range(len(lengths))))
    cuts = sorted(draw(st.sets(st.integers(1, len(lengths)), max_size=3)) | {0, len(lengths)})
    rows = [order[start:end] for start, end in pairwise(cuts)]
    longest = max(sum(lengths[example] for example in row) for row in rows)
    width = longest + draw(st.integers(0, 4))
    segments = torch.zeros(len(rows), width, dtype=torch.long)
    for row, members in enumerate(rows):
        ids = [place for place, example in enumerate(members, 1) for _ in range(lengths[example])]
        start = draw(st.integers(0, width - len(ids)))
        segments[row, start : start + len(ids)] = torch.tensor(ids)
    return lengths, [example for row in rows for example in row], segments


@settings(max_examples=60, deadline=None)
@given(layout=layouts(), config=st.sampled_from([PAPER, GAUSSIAN, RADEMACHER]))
def test_noise_of_an_example_does_not_depend_on_packing_padding_mates_or_order(layout, config):
    lengths, order, segments = layout
    embeddings = torch.zeros(*segments.shape, 6)
    mask = (segments != 0).long()
    noise = sample_noise(embeddings, mask, config, generators=generators(order), segment_ids=segments)
    assert torch.equal(noise[segments == 0], torch.zeros_like(noise[segments == 0]))
    parts = noise[segments != 0].split([lengths[example] for example in order])
    for example, part in zip(order, parts, strict=True):
        alone = sample_noise(
            torch.zeros(1, lengths[example], 6),
            torch.ones(1, lengths[example]),
            config,
            generators=generators([example]),
        )
        assert torch.equal(part, alone[0])


def test_proportional_noise_does_not_depend_on_batch_mates():
    config = replace(PAPER, strength=NoiseStrength.proportional, alpha=0.25)
    embeddings = torch.randn(3, 40, 24, generator=torch.Generator().manual_seed(1))
    mask = right_padded([40, 17, 29], row_length=40)
    together = sample_noise(embeddings, mask, config, generators=generators([0, 1, 2]))
    for row, tokens in enumerate([40, 17, 29]):
        part = embeddings[row : row + 1, :tokens]
        alone = sample_noise(part, torch.ones(1, tokens), config, generators=generators([row]))
        assert torch.equal(together[row, :tokens], alone[0])


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (NoiseLength.sample, [6, 10]),
        (NoiseLength.padded, [24, 24]),
        (NoiseLength.packed_row, [16, 16]),
        (NoiseLength.none, [1, 1]),
    ],
)
def test_each_length_law_divides_by_its_own_length(length, expected):
    signs = replace(RADEMACHER, length=length)
    mask = right_padded([6, 10], row_length=24)
    noise = sample_noise(
        torch.zeros(2, 24, 9, dtype=torch.float64), mask, signs, generators=generators([0, 1])
    )
    for row, tokens in enumerate([6, 10]):
        assert noise[row, :tokens].abs().unique().item() == pytest.approx(
            5 / math.sqrt(expected[row] * 9), rel=1e-12
        )
        assert not noise[row, tokens:].any()


def test_packed_row_law_counts_every_real_token_of_the_packed_row():
    # TRL 1.16, packing, 8 examples of 61 tokens in one flattened row of 488: 5 / sqrt(488 d) (measured there).
    segments = torch.arange(1, 9).repeat_interleave(61)[None]
    signs = replace(RADEMACHER, length=NoiseLength.packed_row)
    noise = sample_noise(
        torch.zeros(1, 488, 64),
        torch.ones(1, 488),
        signs,
        generators=generators(range(8)),
        segment_ids=segments,
    )
    assert noise.abs().unique().item() == pytest.approx(5 / math.sqrt(488 * 64), rel=1e-6)


def test_fixed_sigma_follows_no_length_law():
    signs = replace(RADEMACHER, strength=NoiseStrength.sigma, alpha=0.02)
    noise = sample_noise(
        torch.zeros(2, 9, 4), right_padded([3, 9], row_length=9), signs, generators=generators([0, 1])
    )
    assert noise[0, :3].abs().unique().tolist() == noise[1].abs().unique().tolist() == pytest.approx([0.02])


def test_proportional_noise_is_a_share_of_the_examples_own_rms():
    # Real tokens of row 0: all 3.0, RMS 3; of row 1: half 1.0, half 7.0, RMS 5. Padding holds 100.
    signs = replace(RADEMACHER, strength=NoiseStrength.proportional, alpha=0.1)
    embeddings = torch.full((2, 6, 4), 100.0)
    embeddings[0, :2] = 3.0
    embeddings[1, 0:2], embeddings[1, 2:4] = 1.0, 7.0
    noise = sample_noise(embeddings, right_padded([2, 4], row_length=6), signs, generators=generators([0, 1]))
    assert noise[0, :2].abs().unique().item() == pytest.approx(0.3, rel=1e-6)
    assert noise[1, :4].abs().unique().item() == pytest.approx(0.5, rel=1e-6)
    assert not noise[0, 2:].any() and not noise[1, 4:].any()


def test_a_place_keeps_the_noise_of_its_tokens_and_silences_the_others():
    mask = right_padded([6, 9], row_length=10)
    prompt = right_padded([2, 4], row_length=10).bool()
    embeddings = torch.zeros(2, 10, 8)
    both = sample_noise(embeddings, mask, PAPER, generators=generators([0, 1]))
    for place, kept in ((NoisePlace.prompt, prompt), (NoisePlace.response, ~prompt)):
        config = replace(PAPER, place=place)
        noise = sample_noise(embeddings, mask, config, generators=generators([0, 1]), place_mask=kept)
        assert torch.equal(noise, both * kept[..., None])


def test_first_place_is_the_first_real_token_of_every_segment():
    segments = torch.tensor([[0, 1, 1, 1, 2, 2], [1, 1, 0, 0, 0, 0]])
    first = torch.tensor([[0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0]])
    args = torch.zeros(2, 6, 8), (segments != 0).long()
    both = sample_noise(*args, PAPER, generators=generators([0, 1, 2]), segment_ids=segments)
    config = replace(PAPER, place=NoisePlace.first)
    noise = sample_noise(*args, config, generators=generators([0, 1, 2]), segment_ids=segments)
    assert torch.equal(noise, both * first[..., None])


def test_linear_decay_falls_to_zero_with_progress():
    decay = replace(PAPER, schedule=NoiseSchedule.linear_decay)
    args = torch.zeros(1, 5, 8, dtype=torch.float64), torch.ones(1, 5)
    start = sample_noise(*args, decay, generators=generators([0]), progress=0.0)
    later = sample_noise(*args, decay, generators=generators([0]), progress=0.75)
    end = sample_noise(*args, decay, generators=generators([0]), progress=1.0)
    constant = sample_noise(*args, PAPER, generators=generators([0]), progress=0.75)
    assert torch.equal(start, constant)
    torch.testing.assert_close(later, start / 4, rtol=1e-12, atol=0)
    assert not end.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_noise_is_the_float32_noise_rounded_once(dtype):
    exact = full_rows(3, 37, 64, PAPER, dtype=torch.float32)
    assert torch.equal(full_rows(3, 37, 64, PAPER, dtype=dtype), exact.to(dtype))


def test_noise_carries_no_gradient_and_leaves_its_arguments_alone():
    embeddings = torch.randn(1, 4, 8, requires_grad=True)
    mask, segments = torch.ones(1, 4, dtype=torch.bool), torch.tensor([[1, 1, 2, 0]])
    before = embeddings.detach().clone()
    noise = sample_noise(embeddings, mask, PAPER, generators=generators([0, 1]), segment_ids=segments)
    assert not noise.requires_grad
    assert mask.all() and torch.equal(embeddings, before)


@pytest.mark.parametrize("config", [replace(PAPER, alpha=0.0), PAPER, GAUSSIAN, RADEMACHER])
def test_no_noise_moves_the_global_random_state(config):
    before = torch.get_rng_state()
    full_rows(2, 5, 8, config)
    assert torch.equal(torch.get_rng_state(), before)


def test_alpha_zero_is_exactly_zero():
    assert not full_rows(2, 5, 8, replace(PAPER, alpha=0.0)).any()


def test_a_row_of_padding_is_an_example_without_noise():
    for config in (PAPER, replace(PAPER, strength=NoiseStrength.proportional)):
        mask = right_padded([0, 3], row_length=4)
        noise = sample_noise(torch.ones(2, 4, 8), mask, config, generators=generators([0, 1]))
        assert not noise[0].any() and noise[1, :3].all() and noise.isfinite().all()
    empty = torch.zeros(1, 4)
    assert not sample_noise(torch.ones(1, 4, 8), empty, PAPER, generators=[], segment_ids=empty).any()


def test_streams_are_the_same_in_every_process_and_version():
    # printf '[3, 7, 2, 1]' | sha256sum, its first 16 digits as an integer, halved. If these move, a resumed
    # training changes its noise.
    seeds = [generator.initial_seed() for generator in generators([7, "alpaca-7"], seed=3, epoch=2, draw=1)]
    assert seeds == [4331314128715709957, 4996702707549455400]


def test_integer_ids_of_numpy_and_torch_are_plain_integers():
    ids = [[5], np.array([5]), torch.tensor([5])]
    assert len({generators(each)[0].initial_seed() for each in ids}) == 1


def test_wrong_numbers_of_generators_are_told():
    with pytest.raises(ValueError, match="got 1 for 2 examples: give one per row"):
        sample_noise(torch.zeros(2, 4, 8), torch.ones(2, 4), PAPER, generators=generators([0]))
    segments = torch.tensor([[1, 1, 2, 1]])
    with pytest.raises(ValueError, match="got 2 for 3 examples"):
        sample_noise(
            torch.zeros(1, 4, 8), torch.ones(1, 4), PAPER, generators=generators([0, 1]), segment_ids=segments
        )


def test_a_mask_of_another_shape_is_told():
    with pytest.raises(ValueError, match=r"got \(2, 4, 8\) and \(2, 5\)"):
        sample_noise(torch.zeros(2, 4, 8), torch.ones(2, 5), PAPER, generators=generators([0, 1]))


def test_a_place_without_its_mask_is_told():
    config = replace(PAPER, place=NoisePlace.response)
    with pytest.raises(ValueError, match=r"noise\.place is response: pass place_mask"):
        sample_noise(torch.zeros(1, 4, 8), torch.ones(1, 4), config, generators=generators([0]))
