"""The planner tells when something else changes together with the dose of noise."""

from __future__ import annotations

from pathlib import Path

import pytest

from neft_lab.plan import make_plan
from neft_lab.plan.confounding import find_confounding
from neft_lab.plan.keys import options
from tests.processes import finish

QUICK = ["judge=longest", "leaderboard=none", "tracker=none", "analysis=none"]


def told(*overrides: str) -> list[str]:
    return find_confounding(make_plan([*overrides, *QUICK]).cells)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["noise.length=padded", "finetune.layout=padded", "finetune.micro_batch=2,4"], "finetune.micro_batch changes the dose"),
        (["noise.length=padded", "finetune.layout=padded", "finetune.max_length=256,512"], "finetune.max_length changes the dose"),
        (["noise.length=packed_row", "finetune.layout=packed,padded"], "finetune.layout"),
        (["noise.length=packed_row", "finetune.token_budget=1024,2048"], "finetune.token_budget changes the dose"),
        (["noise.length=packed_row", "finetune.batch=8,16"], "finetune.batch changes the dose"),
        (["noise.length=padded", "finetune.layout=padded", "dataset=starter,alpaca"], "data sets of other lengths get another dose"),
        (["model=smollm2_135m,llama2_7b"], "equal noise.alpha is no equal dose"),
        (["noise=uniform,gaussian"], "sqrt(3) times the uniform one"),
    ],
)  # fmt: skip
def test_what_changes_the_dose_is_told(overrides: list[str], words: str) -> None:
    assert any(words in line for line in told(*overrides)), told(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["finetune.micro_batch=2,4", "noise.alpha=0,5"],  # the paper's law: an example's own length
        ["finetune.layout=packed,padded"],
        [
            "noise.length=padded",
            "finetune.layout=padded",
            "finetune.token_budget=1024,2048",
        ],  # not read there
        ["noise.length=padded", "noise.alpha=0", "finetune.micro_batch=2,4"],  # no noise at all
        ["model=smollm2_135m,llama2_7b", "noise.strength=proportional"],
        ["noise=uniform,gaussian_matched,rademacher_matched"],
        ["noise.alpha=0,5,10,15", "seed=0,1,2"],
    ],
    ids=" ".join,
)
def test_what_leaves_the_dose_alone_is_not_told(overrides: list[str]) -> None:
    assert told(*overrides) == []


def sweep(folder: Path, body: str) -> list[str]:
    (folder / "sweep").mkdir()
    (folder / "sweep" / "mixed.yaml").write_text(f"# @package _global_\nsweep:\n  name: mixed\n{body}")
    return find_confounding(make_plan(["+sweep=mixed", *QUICK], config_dir=folder).cells)


def test_a_setting_paired_with_the_noise_gives_a_difference_two_causes(tmp_path: Path) -> None:
    lines = sweep(
        tmp_path,
        "  zip: {noise.alpha: [0, 5], finetune.batch: [8, 16]}\n  axes: {seed: [0]}\n"
        "  baseline: {noise.alpha: 0, finetune.batch: 8}\n",
    )
    assert lines == [
        "finetune.batch changes together with the noise: a difference from the baseline has two causes"
    ]


def test_an_alpha_per_data_set_as_the_papers_has_one_cause(tmp_path: Path) -> None:
    body = "  zip: {dataset: [alpaca, starter], noise.alpha: [5, 15]}\n  axes: {seed: [0]}\n  baseline: {noise.alpha: 0}\n"
    assert sweep(tmp_path, body) == []


def test_the_dry_run_tells_it(tmp_path: Path) -> None:
    line = "confounded: noise.length=padded scales the noise by the row"
    assert line in finish(["noise.length=padded", "finetune.layout=padded", "finetune.micro_batch=2,4", "dry_run=true", *QUICK], tmp_path)  # fmt: skip


def test_our_own_grid_is_not_confounded() -> None:
    assert "alpha_grid" in options("sweep")
    assert find_confounding(make_plan(["+sweep=alpha_grid"]).cells) == []
