"""Every field takes part in keys or says that it does not; no stage reads outside its key."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from neft_lab.config import (
    ControlConfig,
    ModelConfig,
    NoiseConfig,
    RunConfig,
    SelectConfig,
    SweepConfig,
    TableConfig,
    UserError,
    identity,
    role,
)
from neft_lab.plan import expand
from neft_lab.stages import STAGES

UNKEYED = {ControlConfig, SelectConfig, SweepConfig, TableConfig}
"""What says which runs are made together; none of it is read by a step."""


def dataclasses_of(owner: type) -> Iterator[type]:
    """All dataclasses reachable through the types of a dataclass's fields, itself included."""
    seen: set[type] = set()
    waiting: list[typing.Any] = [owner]
    while waiting:
        kind = waiting.pop()
        waiting += typing.get_args(kind)
        if is_dataclass(kind) and kind not in seen:
            seen.add(kind)
            waiting += typing.get_type_hints(kind).values()
            yield kind


FIELDS = [
    (owner, item.name)
    for owner in dataclasses_of(RunConfig)
    if owner not in UNKEYED
    for item in fields(owner)
]
GROUPS = sorted(item.name for item in fields(RunConfig))
READS = {stage.name: {item.name for item in fields(stage.inputs)} for stage in STAGES.values()}


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return expand(["judge=longest", "leaderboard=none"])[0].config


@pytest.mark.parametrize(("owner", "name"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
def test_every_field_says_how_it_takes_part_in_keys(owner: type, name: str) -> None:
    assert role(owner, name) in ("key", "neutral"), f"declare {owner.__name__}.{name} with key() or neutral()"


def test_every_group_is_reached() -> None:
    assert {owner.__name__ for owner, _ in FIELDS} >= {
        "RunConfig", "ModelConfig", "DatasetConfig", "NoiseConfig", "FinetuneConfig", "GenerationConfig",
        "JudgeConfig", "LeaderboardConfig", "TaskConfig", "AnalysisConfig", "TrackerConfig", "EngineConfig",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "name"), [(stage, name) for stage in READS for name in GROUPS if name not in READS[stage]]
)
def test_a_stage_that_reads_outside_its_key_is_told_so(stage: str, name: str, config: RunConfig) -> None:
    projected = STAGES[stage].project(config)
    with pytest.raises(AttributeError, match=f"stage {stage} reads '{name}', which is not in its key"):
        getattr(projected, name)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_handed_what_it_declares(stage: str, config: RunConfig) -> None:
    projected = STAGES[stage].project(config)
    assert type(projected) is STAGES[stage].inputs
    assert set(vars(projected)) == READS[stage]


def test_a_run_that_reaches_for_another_group_fails_with_the_stage_and_the_field(
    tiny_llama: Path, tmp_path: Path, config: RunConfig
) -> None:
    """The real train function, handed the configuration of another stage."""
    from neft_lab.progress import Progress
    from neft_lab.sources import model_source
    from neft_lab.stages import GenerateInputs, Inputs
    from neft_lab.stages.train import train

    model = replace(config.model, source=type(config.model.source).local, path=str(tiny_llama))
    inputs = Inputs(device="cpu", sources={"model": model_source(model)})
    with pytest.raises(AttributeError, match="stage generate reads 'finetune'"):
        train(GenerateInputs(config.generation), inputs, tmp_path, Progress(tmp_path))


def test_identity_drops_neutral_fields_at_every_depth(config: RunConfig) -> None:
    kept = identity(config)
    assert set(kept) == {
        "model", "dataset", "noise", "regularizer", "finetune", "generation", "judge", "leaderboard", "analysis", "seed"
    }  # fmt: skip
    assert set(kept["model"]) == {"name", "trust_remote_code"}
    assert kept["noise"]["kind"] == "uniform", "enumerations by name"
    for owner, names in ((NoiseConfig, kept["noise"]), (ModelConfig, kept["model"])):
        assert set(names) == {item.name for item in fields(owner) if role(owner, item.name) == "key"}


def test_identity_changes_with_every_key_field_and_with_no_neutral_one(config: RunConfig) -> None:
    for name, other in (
        ("checkpoint_every", 7),
        ("epochs", 7.0),
        ("batch", 12),
        ("gradient_checkpointing", True),
    ):
        changed = identity(replace(config.finetune, **{name: other})) != identity(config.finetune)
        assert changed == (role(type(config.finetune), name) == "key")


def test_a_rule_names_key_value_and_rule(config: RunConfig) -> None:
    with pytest.raises(UserError, match=r"^noise\.alpha must be >= 0, got -5$"):
        replace(config.noise, alpha=-5)
