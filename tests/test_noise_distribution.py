"""Mean, variance, norm and independence of the noise, with the power of each test."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from neft_lab.config import NoiseKind, NoiseScale, NoiseStrength
from neft_lab.noise import sample_noise
from tests.noise_cases import GAUSSIAN, PAPER, RADEMACHER, full_rows, generators


@pytest.mark.parametrize(("alpha", "norm"), [(5, 2.88675), (10, 5.77350), (15, 8.66025)])
def test_noise_norm_of_an_example_is_alpha_over_root_three(alpha, norm):
    # FACTS of the paper's code: the relative spread of the norm is 7e-4 at n = 100, d = 4096.
    noise = full_rows(8, 100, 4096, replace(PAPER, alpha=alpha))
    norms = noise.flatten(1).norm(dim=1)
    assert norms.mean().item() == pytest.approx(norm, rel=5 * 7e-4 / math.sqrt(8))
    assert norms.numpy() == pytest.approx(norm, rel=5 * 7e-4)


@pytest.mark.parametrize(("tokens", "width"), [(3, 512), (50, 64), (512, 576)])
def test_noise_norm_depends_on_neither_length_nor_width(tokens, width):
    norms = full_rows(16, tokens, width, PAPER).flatten(1).norm(dim=1)
    assert norms.mean().item() == pytest.approx(2.88675, rel=0.01)


def test_largest_coordinate_and_rms_are_the_published_ones():
    noise = full_rows(1, 100, 4096, PAPER)
    assert noise.abs().max().item() == pytest.approx(0.0078125, rel=1e-4)
    assert noise.square().mean().sqrt().item() == pytest.approx(0.0045105, rel=5 * 7e-4)


@pytest.mark.parametrize(
    ("config", "distribution"),
    [
        (PAPER, stats.uniform(-1, 2)),
        (GAUSSIAN, stats.norm()),
        (replace(GAUSSIAN, scale=NoiseScale.matched), stats.norm(scale=1 / math.sqrt(3))),
    ],
)
def test_units_follow_their_distribution(config, distribution):
    # 1e6 draws, each test at level 1e-4. Power over 0.999 for a mean off by 0.007 standard deviations
    # ((3.89 + 3.09) / sqrt(1e6)), for a variance off by as much in its own standard deviations, and for a
    # distribution off by 0.004 somewhere (critical value 0.00223; the rest is 3.5 standard errors).
    unit = replace(config, strength=NoiseStrength.sigma, alpha=1.0)
    draws = full_rows(100, 20, 500, unit).flatten().double().numpy()
    assert abs(draws.mean()) < 3.89 * distribution.std() / 1000
    assert stats.kstest(draws, distribution.cdf).pvalue > 1e-4
    fourth, variance = distribution.moment(4), distribution.var()
    assert abs(draws.var() - variance) < 3.89 * math.sqrt((fourth - variance**2) / len(draws))


def test_rademacher_units_are_fair_signs():
    # 1e6 signs at level 1e-4: power over 0.999 for a share of heads off by 0.0035.
    draws = full_rows(100, 20, 500, replace(RADEMACHER, strength=NoiseStrength.sigma, alpha=1.0)).flatten()
    assert set(draws.unique().tolist()) == {-1.0, 1.0}
    assert abs((draws > 0).double().mean().item() - 0.5) < 3.89 * 0.5 / 1000


def test_examples_epochs_draws_and_seeds_are_uncorrelated():
    # Correlation of 12,000 pairs: standard error 0.0091. Six pairs at level 1e-4 together (z = 4.3); power
    # over 0.999 for a correlation of 0.068.
    streams = [
        dict(ids=[0]),
        dict(ids=[1]),
        dict(ids=[0], epoch=1),
        dict(ids=[0], draw=1),
        dict(ids=[0], seed=1),
    ]
    draws = [
        sample_noise(
            torch.zeros(1, 60, 200), torch.ones(1, 60), PAPER, generators=generators(**stream)
        ).flatten()
        for stream in streams
    ]
    correlations = np.corrcoef(torch.stack(draws).numpy())[np.triu_indices(5, 1)]
    assert np.abs(correlations).max() < 4.3 / math.sqrt(12_000)


@pytest.mark.parametrize("kind", [NoiseKind.gaussian, NoiseKind.rademacher])
def test_matched_kinds_have_the_second_moment_of_uniform_noise(kind):
    matched = full_rows(20, 50, 1000, replace(PAPER, kind=kind, scale=NoiseScale.matched))
    raw = full_rows(20, 50, 1000, replace(PAPER, kind=kind))
    # 1e6 draws: the RMS of Gaussian draws has relative standard error 1 / sqrt(2e6) = 7e-4.
    assert matched.square().mean().item() == pytest.approx(25 / (3 * 50 * 1000), rel=5 * 2 * 7.1e-4)
    assert raw.square().mean().item() == pytest.approx(25 / (50 * 1000), rel=5 * 2 * 7.1e-4)


def test_uniform_noise_is_its_own_match():
    assert torch.equal(
        full_rows(2, 5, 8, PAPER), full_rows(2, 5, 8, replace(PAPER, scale=NoiseScale.matched))
    )
