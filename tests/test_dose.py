"""The measured dose, and the tokens that noise turns into others."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.spatial.distance import cdist
from torch import nn

from neft_lab.config import NoiseLength
from neft_lab.interventions.noise import EmbeddingNoise
from neft_lab.noise import sample_noise
from neft_lab.noise.dose import count_changed_tokens, sample_changed_tokens
from tests.noise_cases import PAPER, RADEMACHER, WIDTH, generators, llama, noise_of_pass, padded_batch


def test_a_resumed_run_reports_the_dose_of_the_whole():
    model = llama()
    ids, mask = padded_batch()
    with EmbeddingNoise(model, PAPER, seed=0) as whole:
        for epoch in range(4):
            whole.arm(mask, [0, 1, 2], epoch=epoch)
            model(ids, attention_mask=mask)
            if epoch == 1:
                checkpoint = whole.state_dict()
    with EmbeddingNoise(model, PAPER, seed=0) as resumed:
        resumed.load_state_dict(checkpoint)
        for epoch in (2, 3):
            resumed.arm(mask, [0, 1, 2], epoch=epoch)
            model(ids, attention_mask=mask)
    resumed.check(4)
    assert resumed.dose() == whole.dose()


def test_the_dose_is_that_of_the_formula():
    dose = noise_of_pass(RADEMACHER)[1]
    row = llama().get_input_embeddings().weight[4].detach()
    # Norm alpha for each of 3 examples; squared noise 3 * 25, squared embeddings 17 tokens * |row|^2.
    assert dose.examples == 3
    assert dose.mean_noise_norm == pytest.approx(5.0, rel=1e-5)
    assert dose.equivalent_alpha == pytest.approx(5.0 * math.sqrt(3), rel=1e-5)
    assert dose.noise_to_embedding_rms == pytest.approx(
        math.sqrt(75 / (17 * row.square().sum().item())), rel=1e-5
    )


def test_the_dose_of_the_papers_noise_is_its_alpha():
    model = llama(hidden_size=512, num_attention_heads=8)
    mask = torch.ones(16, 60)
    with EmbeddingNoise(model, replace(PAPER, alpha=15.0), seed=0) as noise:
        for epoch in range(2):
            noise.arm(mask, list(range(16)), epoch=epoch)
            model.get_input_embeddings()(torch.full(mask.shape, 4))
    # Relative spread of a norm: sqrt(1/5 - 1/9) / (2/3) / sqrt(n d) = 0.447 / sqrt(30720), over 32 examples.
    assert noise.dose().equivalent_alpha == pytest.approx(15.0, rel=5 * 0.447 / math.sqrt(30720 * 32))


def test_the_dose_counts_what_rounding_left_of_the_noise():
    model = llama().to(torch.bfloat16)
    embedding = model.get_input_embeddings()
    with torch.no_grad():
        embedding.weight.fill_(1.0)
    tokens = torch.full((1, 50), 4)
    with EmbeddingNoise(model, replace(PAPER, alpha=0.01), seed=0) as noise:
        noise.arm(torch.ones(1, 50), [0], epoch=0)
        added = embedding(tokens) - 1.0
    assert not added.any()
    assert noise.dose().equivalent_alpha == 0.0


def test_padding_and_batch_size_change_the_dose_of_the_padded_law_only():
    mask = torch.zeros(1, 128)
    mask[0, :16] = 1
    # The library rule on 16 tokens of 128: 5 / sqrt(3) * sqrt(16 / 128) = 1.021 instead of 2.887.
    padded = noise_of_pass(replace(PAPER, length=NoiseLength.padded), ids=(0,), mask=mask)[1]
    sample = noise_of_pass(PAPER, ids=(0,), mask=mask)[1]
    assert padded.mean_noise_norm == pytest.approx(1.021, rel=5 * 0.447 / math.sqrt(16 * WIDTH))
    assert sample.mean_noise_norm == pytest.approx(padded.mean_noise_norm * math.sqrt(8), rel=1e-5)


def test_changed_tokens_are_those_a_brute_force_search_finds():
    torch.manual_seed(3)
    embedding = nn.Embedding(9000, 8)
    ids = torch.randint(0, 9000, (4, 20))
    mask = (torch.arange(20) < torch.tensor([20, 11, 5, 17])[:, None]).long()
    counts = []
    for alpha in (0.1, 3.0, 12.0, 500.0):
        config = replace(PAPER, alpha=alpha)
        found = count_changed_tokens(embedding, ids, mask, config, generators=generators(range(4)))
        noise = sample_noise(embedding(ids), mask, config, generators=generators(range(4)))
        noisy = (embedding(ids) + noise)[mask.bool()].detach()
        nearest = cdist(noisy.double(), embedding.weight.detach().double()).argmin(axis=1)
        assert found.tokens == 53
        assert found.changed == (nearest != ids[mask.bool()].numpy()).sum()
        counts.append(found.changed)
    assert counts[0] == 0 and counts == sorted(counts) and counts[-1] > 50


def test_a_twin_row_does_not_count_as_another_token():
    embedding = nn.Embedding(6, 4)
    with torch.no_grad():
        embedding.weight.copy_(torch.eye(6, 4) * 3)
        embedding.weight[5] = embedding.weight[0]
    found = count_changed_tokens(
        embedding,
        torch.tensor([[5, 0, 5, 1]]),
        torch.ones(1, 4),
        replace(PAPER, alpha=0.5),
        generators=generators([0]),
    )
    assert (found.changed, found.tokens, found.share) == (0, 4, 0.0)


def test_a_sample_counts_the_first_tokens_of_the_batch_under_its_first_noise():
    model = llama()
    ids, mask = padded_batch()
    batch = {"input_ids": ids, "attention_mask": mask, "example_ids": [7, 8, 9]}
    config = replace(PAPER, alpha=40.0)
    whole = count_changed_tokens(
        model.get_input_embeddings(), ids, mask, config, generators=generators([7, 8, 9])
    )
    assert sample_changed_tokens(model, batch, config, seed=0) == whole
    part = sample_changed_tokens(model, batch, config, seed=0, limit=10)
    assert part.tokens == 10 and part.changed <= whole.changed
    assert whole.changed > 0


def test_a_sample_without_noise_changes_nothing():
    ids, mask = padded_batch()
    batch = {"input_ids": ids, "attention_mask": mask, "example_ids": [0, 1, 2]}
    found = sample_changed_tokens(llama(), batch, replace(PAPER, alpha=0.0), seed=0, limit=10)
    assert (found.changed, found.tokens) == (0, 10)
