"""The planner: overrides to cells to steps."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neft_lab.config import UserError
from neft_lab.plan import expand, make_plan, steps
from neft_lab.plan.keys import groups, options

QUICK = ["judge=longest", "leaderboard=none", "tracker=none"]


def axes(*overrides: str) -> list[dict[str, object]]:
    return [cell.axes for cell in expand([*overrides, *QUICK])]


def test_alpha_grid_is_the_product_of_its_axes() -> None:
    found = axes("+sweep=alpha_grid")
    assert [cell["noise.alpha"] for cell in found] == [0, 5, 10, 15]
    assert all(cell["model"] == "smollm2_135m" and cell["seed"] == 0 for cell in found)


def test_a_cell_carries_its_values_as_typed_config() -> None:
    cells = expand(["+sweep=alpha_grid", *QUICK])
    assert [cell.config.noise.alpha for cell in cells] == [0.0, 5.0, 10.0, 15.0]
    assert isinstance(cells[1].config.noise.alpha, float)
    assert cells[0].config.finetune.max_steps == 6, "what the sweep file fixes holds in every cell"


def test_a_key_on_the_command_line_is_not_swept_and_the_baseline_comes_back_marked() -> None:
    cells = expand(["+sweep=alpha_grid", "noise.alpha=5", *QUICK])
    assert [(cell.axes["noise.alpha"], cell.added) for cell in cells] == [(5, False), (0, True)]
    assert cells[0].baseline == cells[1].axes
    assert cells[1].baseline is None


def test_several_values_on_the_command_line_are_an_axis() -> None:
    assert [cell["noise.alpha"] for cell in axes("noise.alpha=0,5")] == [0, 5]
    assert [cell["noise.alpha"] for cell in axes("+sweep=alpha_grid", "noise.alpha=0,7")] == [0, 7]


def test_group_axes_choose_options() -> None:
    cells = expand(["noise=uniform,gaussian", *QUICK])
    assert [cell.config.noise.kind.name for cell in cells] == ["uniform", "gaussian"]


def test_zip_pairs_keys_that_change_together(tmp_path: Path) -> None:
    write_sweep(
        tmp_path, "paired", "zip: {dataset: [starter, alpaca], noise.alpha: [5, 15]}\n  axes: {seed: [0, 1]}"
    )
    found = [cell.axes for cell in make_plan(["+sweep=paired", *QUICK], config_dir=tmp_path).cells]
    assert [(cell["dataset"], cell["noise.alpha"], cell["seed"]) for cell in found] == [
        ("starter", 5, 0), ("alpaca", 15, 0), ("starter", 5, 1), ("alpaca", 15, 1),
    ]  # fmt: skip
    narrowed = make_plan(["+sweep=paired", "dataset=alpaca", *QUICK], config_dir=tmp_path).cells
    assert [cell.axes["noise.alpha"] for cell in narrowed] == [15, 15]


def test_no_noise_has_one_key_however_it_is_spelled() -> None:
    def train_key(*overrides: str) -> str:
        return dict(expand([*overrides, *QUICK])[0].keys or {})["train"]

    assert (
        train_key("noise=none") == train_key("noise.alpha=0") == train_key("noise=gaussian", "noise.alpha=0")
    )
    assert train_key("noise=none") != train_key("noise.alpha=5")


def test_an_untouched_model_has_one_key_whatever_the_noise_and_seed() -> None:
    keys = {
        dict(cell.keys or {})["train"]
        for cell in expand(["finetune=none", "noise.alpha=0,5", "seed=0,1", *QUICK])
    }
    assert len(keys) == 1


def test_cells_share_equal_steps() -> None:
    cells = expand(["noise.alpha=0,5", "judge=longest,random", "leaderboard=none"])
    found = steps(cells)
    stages = [step.stage for step in found.values()]
    assert len(cells) == 4
    assert {name: stages.count(name) for name in set(stages)} == {
        "train": 2,
        "generate": 2,
        "describe": 2,
        "judge": 4,
        "analyze": 2,
    }


def test_paths_devices_and_trackers_do_not_enter_a_key(tiny_llama: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.symlink_to(tiny_llama)
    keys = [
        make_plan(
            ["model=local", f"model.path={path}", f"engine.device={device}", f"results_dir={path}", *QUICK]
        ).steps
        for path, device in ((tiny_llama, "auto"), (moved, "cpu"))
    ]
    assert list(keys[0]) == list(keys[1])


def test_a_change_of_a_local_model_changes_its_key(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    seen = set()
    for width in (1, 2):
        (folder / "config.json").write_text(json.dumps({"width": width}))
        seen.add(tuple(make_plan(["model=local", f"model.path={folder}", *QUICK]).steps))
    assert len(seen) == 2


def test_planning_one_config_gives_a_pinned_key() -> None:
    cell = expand(["model=llama2_7b", "dataset=alpaca", "noise.alpha=5", *QUICK])[0]
    assert dict(cell.keys or {})["train"] == PINNED, (
        "a change here makes every result anybody has stale: mean it"
    )


PINNED = "d2eca4ab014d"


def write_sweep(folder: Path, name: str, body: str) -> None:
    (folder / "sweep").mkdir(exist_ok=True)
    (folder / "sweep" / f"{name}.yaml").write_text(f"# @package _global_\nsweep:\n  name: {name}\n  {body}\n")


MISTAKES = {
    ("+sweep=alpha_grd",): "did you mean 'alpha_grid'?",
    ("sweep=alpha_grid",): "needs a plus",
    ("+swep=alpha_grid",): "did you mean 'sweep'?",
    ("+sweeps=alpha_grid",): "did you mean 'sweep'?",
    ("+sweep=[alpha_grid,alpha_grid]",): "one sweep at a time",
    ("noise.alpah=7",): "did you mean 'alpha'?",
    ("+noise.alpah=7",): "did you mean 'alpha'?",
    ("++noise.alpah=7",): "did you mean 'alpha'?",
    ("model=smolm2_135m",): "did you mean 'smollm2_135m'?",
    ("modle=smollm2_135m",): "did you mean 'model'?",
    ("noise.alpha=loud",): "noise.alpha",
    ("noise.alpha=-1",): "noise.alpha must be >= 0, got -1",
    ("noise.kind=unifrom",): "noise.kind",
    ("noise=none", "noise.alpha=5"): "noise.alpha must be 0 with noise=none",
    ("noise=none", "+sweep=alpha_grid"): "noise.alpha must be 0 with noise=none",
    ("finetune.batch=6",): "must be a multiple of finetune.micro_batch (4)",
    ("model=local",): "model.path",
    ("model=local", "model.path=/no/such/folder"): "model.path must exist",
    ("dataset=local", "dataset.path=/no/such/file.json"): "dataset.path must exist",
    ("noise=uniform,gaussian", "noise.alpha=3"): "lies below the swept group 'noise'",
    ("noise.alpha=3,3",): "has 3 twice",
    ("stages=[judge]",): "lacks generate",
    ("stages=[trian]",): "stages",
    ("~noise",): "deletes a key",
    ("noise.alpha",): "key=value",
    ("seed=-1",): "seed must be >= 0",
}


@pytest.mark.parametrize("overrides", MISTAKES, ids=" ".join)
def test_a_mistake_is_told_in_one_line_with_its_remedy(overrides: tuple[str, ...]) -> None:
    quick = [] if any(text.startswith(("stages", "judge")) for text in overrides) else QUICK
    with pytest.raises(UserError) as told:
        make_plan([*overrides, *quick])
    assert MISTAKES[overrides] in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("axes: {}", "is empty"),
        ("axes: {seed: []}", "at least one value"),
        ("axes: {noise.alpah: [1]}", "did you mean 'alpha'?"),
        ("axes: {model: [smolm2]}", "no such model"),
        ("axis: {seed: [0]}", "axis"),
        ("axes: {seed: 0}", "axes"),
        ("zip: {seed: [0, 1], noise.alpha: [5]}", "equal length"),
    ],
)
def test_a_wrong_sweep_file_is_told_before_anything_runs(tmp_path: Path, body: str, message: str) -> None:
    write_sweep(tmp_path, "wrong", body)
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        make_plan(["+sweep=wrong", *QUICK], config_dir=tmp_path)


def test_values_that_refer_to_each_other_are_composed_whole(tmp_path: Path) -> None:
    write_sweep(tmp_path, "linked", "axes: {seed: [3, 4]}\nfinetune: {checkpoint_every: '${seed}'}")
    cells = make_plan(["+sweep=linked", *QUICK], config_dir=tmp_path).cells
    assert [cell.config.finetune.checkpoint_every for cell in cells] == [3, 4]


def test_every_option_of_every_group_composes() -> None:
    needs = {"local": {"model": "model.path=.", "dataset": "dataset.path=pyproject.toml"},
             "hub": {"model": "model.hub_id=org/name"}, "random": {"model": "model.architecture=llama"}}  # fmt: skip
    count = 0
    for group in groups():
        for option in options(group):
            compose_one(group, option, needs.get(option, {}).get(group))
            count += 1
    assert count >= 30


def compose_one(group: str, option: str, extra: str | None) -> None:
    from neft_lab.plan.compose import compose_config, hydra_session
    from neft_lab.plan.parts import Parts

    more = {"judge": {"alpaca_eval": ["judge.evaluator=alpaca_eval_gpt4"], "file": ["judge.annotations=x"], "openai_compatible": ["judge.base_url=http://127.0.0.1/v1", "judge.served_model=m"]},
            "generation": {"file": ["generation.outputs=x"]}}  # fmt: skip
    with hydra_session():
        config = compose_config(
            [f"{group}={option}", *filter(None, [extra]), *more.get(group, {}).get(option, [])]
        )
        Parts(config).run_config({})


def test_noise_by_padded_length_needs_padding() -> None:
    with pytest.raises(UserError, match=r"finetune\.layout must be padded with noise\.length=padded"):
        expand(["noise.length=padded", "noise.alpha=5", *QUICK])
    expand(["noise.length=padded", "noise.alpha=5", "finetune.layout=padded", *QUICK])


def test_the_published_outputs_need_their_folder() -> None:
    with pytest.raises(UserError, match=r"paper\.published must name a folder"):
        make_plan(["+sweep=paper_published"])


@pytest.mark.parametrize("sweep", sorted(set(options("sweep")) - {"paper_published"}))
def test_every_sweep_plans(sweep: str) -> None:
    plan = make_plan([f"+sweep={sweep}"])
    assert plan.cells and plan.steps
    assert plan.sweep.question.endswith("?")


def test_a_thousand_cells_are_planned_within_two_seconds() -> None:
    """Generous here (a busy machine); benchmarks/planning.py has the figure."""
    code = "import time; t=time.perf_counter(); from neft_lab.plan import make_plan; " \
        "p=make_plan(['noise.alpha='+','.join(map(str,range(100))),'seed='+','.join(map(str,range(10))),'judge=longest'," \
        "'leaderboard=none']); print(len(p.cells))"  # fmt: skip
    began = time.perf_counter()
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "1000"
    assert time.perf_counter() - began < 20
