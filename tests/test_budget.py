"""What a plan will take: sizes, operations, measured speed, limits; against counts, formulas and published speeds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from neft_lab.budget import check_budget, estimate_budget, foresee_difference
from neft_lab.budget.size import guess_shape, read_name, size_of
from neft_lab.budget.speed import PEAKS, Kind, gpu_speed
from neft_lab.budget.texts import CHARACTERS_PER_TOKEN, characters_per_token, read_texts
from neft_lab.budget.words import budget_lines
from neft_lab.config import Gpu, UserError
from neft_lab.execute import read_status
from neft_lab.paths import STARTER_DIR
from neft_lab.plan import Plan, make_plan
from neft_lab.sources import Source
from neft_lab.store import Store, read_json, write_json
from tests.processes import finish
from tests.steps import run_stages

QUICK = ["judge=longest", "leaderboard=none", "tracker=none", "analysis=none"]
PAPER = ["model=llama2_7b", "dataset=alpaca", "finetune=paper_7b", *QUICK]


def lines(plan: Plan, root: Path) -> list[str]:
    store = Store(root)
    status = read_status(plan, store)
    budget = estimate_budget(plan, status, store)
    return list(budget_lines(budget, plan.settings.budget, foresee_difference(plan, [])))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("meta-llama/Llama-2-7b-hf", 7e9), ("huggyllama/llama-30b", 30e9), ("facebook/opt-6.7b", 6.7e9),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 135e6), ("SmolLM2-135M-Instruct.Q4_1.gguf", 135e6),
        ("Qwen/Qwen2.5-0.5B", 0.5e9), ("meta-llama/Llama-3.1-8B", 8e9), ("org/mine", None), ("gpt2", None),
    ],
)  # fmt: skip
def test_a_models_name_tells_its_size(name: str, parameters: float | None) -> None:
    assert read_name(name) == parameters


def test_weights_tell_their_number_without_being_loaded(tiny_llama: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    size = size_of(Source("folder", str(tiny_llama)))
    assert size is not None and size.parameters == sum(weight.numel() for weight in model.parameters())
    assert (size.layers, size.width) == (2, 32)


def test_a_guessed_shape_is_that_of_llama_7b() -> None:
    shape = guess_shape(6.74e9, "its name")  # 32 layers of width 4096
    assert shape.layers == pytest.approx(32, rel=0.03) and shape.width == pytest.approx(4096, rel=0.03)


def test_a_published_training_speed_follows_from_its_share_of_the_peak() -> None:
    """llm-foundry's table: a 7B model at 46.4 % of an H100's peak trains 10,643 tokens/s on sequences of 2048."""
    size = guess_shape(6.65e9, "MPT-7B")
    per_token = 6 * size.parameters + 3 * size.attention * 2048 / 2
    assert 0.464 * PEAKS[Gpu.h100] / per_token == pytest.approx(10_643, rel=0.05)


def test_training_costs_six_operations_per_parameter_and_token(tmp_path: Path) -> None:
    """100 steps of 128 examples of LLaMA-2 7B on Alpaca, recomputed activations: 8 N each, and attention."""
    plan = make_plan([*PAPER, "finetune.max_steps=100", "stages=[train]"])
    store = Store(tmp_path)
    budget = estimate_budget(plan, read_status(plan, store), store)
    tokens = 100 * 128 * (270.31 / CHARACTERS_PER_TOKEN + 67.5)  # table 4's mean response, the prompt with it
    expected = 8 * 7e9 * tokens / gpu_speed(Gpu.a100).flops[Kind.TRAIN] / 3600
    assert budget.gpu_hours == pytest.approx(expected, rel=0.05)


def test_rows_and_lengths_are_read_from_the_file(tmp_path: Path) -> None:
    texts = read_texts(Source("file", str(STARTER_DIR / "train.jsonl")))
    rows = [
        json.loads(line) for line in (STARTER_DIR / "train.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert texts is not None and texts.rows == len(rows)
    assert texts.characters == pytest.approx(
        sum(len(row["instruction"]) + len(row.get("input") or "") + len(row["output"]) for row in rows) / len(rows), rel=0.02
    )  # fmt: skip
    assert read_texts(Source("file", str(tmp_path / "none.json"))) is None


def test_a_models_own_tokenizer_counts_where_it_is_here(tiny_llama: Path) -> None:
    sample = ("Why is the sky blue on some days and grey on others?",) * 3
    found = characters_per_token(Source("folder", str(tiny_llama)), sample)
    assert 1 < found < 3  # 384 tokens of byte pairs
    assert characters_per_token(Source("hub", "org/name"), sample) == CHARACTERS_PER_TOKEN


def test_disk_holds_all_weights_and_two_checkpoints_of_one_training(tmp_path: Path) -> None:
    """SmolLM2: 135 M x 4 bytes a cell; a checkpoint has the weights and two states of Adam, in float32."""
    plan = make_plan(["noise.alpha=0,5,10", *QUICK])
    store = Store(tmp_path)
    disk = estimate_budget(plan, read_status(plan, store), store).disk
    assert disk.weights == pytest.approx(3 * 135e6 * 4)
    assert disk.checkpoints == pytest.approx(2 * 3 * 135e6 * 4)
    pure = make_plan(["finetune=paper_7b", *QUICK])
    assert estimate_budget(pure, read_status(pure, store), store).disk.weights == pytest.approx(135e6 * 2)
    lora = make_plan(["finetune=lora", *QUICK])
    assert estimate_budget(lora, read_status(lora, store), store).disk.weights < 135e6 * 4 / 5


def test_adapters_are_sized_as_peft_sizes_them() -> None:
    """LLaMA-7B at rank 64 on all linear layers has 159.9 million adapter parameters (QLoRA's own print-out)."""
    assert guess_shape(6.74e9, "its name").adapter_parameters(64) == pytest.approx(159.9e6, rel=0.05)


def small(model: Path) -> list[str]:
    return ["model=local", f"model.path={model}", "finetune.max_steps=2", "finetune.max_length=384",
            "generation.limit=4", "generation.max_new_tokens=8"]  # fmt: skip


def test_finished_steps_tell_how_fast_their_like_is(tiny_llama: Path, tmp_path: Path) -> None:
    """The very same step again, but for its noise, is expected to take the seconds that the first one took."""
    folders = run_stages([*small(tiny_llama), "engine.device=cpu"], tmp_path)
    record = folders["train"] / "record.json"
    write_json(record, {**read_json(record), "seconds": 40.0})
    plan = make_plan([*small(tiny_llama), "noise.alpha=7", "engine.device=cpu", *QUICK])
    store = Store(tmp_path)
    budget = estimate_budget(plan, read_status(plan, store), store)
    (cost,) = budget.costs["train"]
    assert cost.told == "measured" and cost.seconds == pytest.approx(40.0)
    assert cost.gpu_told == "FLOPs", "a CPU's speed says nothing of a GPU"
    doubled = make_plan(
        [*small(tiny_llama), "noise.alpha=7", "finetune.max_steps=4", "engine.device=cpu", *QUICK]
    )
    (twice,) = estimate_budget(doubled, read_status(doubled, store), store).costs["train"]
    assert twice.seconds == pytest.approx(80.0)


def test_what_is_done_costs_nothing_more(tiny_llama: Path, tmp_path: Path) -> None:
    run_stages([*small(tiny_llama), "engine.device=cpu"], tmp_path)
    plan = make_plan([*small(tiny_llama), "engine.device=cpu", *QUICK, "stages=[train,generate]"])
    store = Store(tmp_path)
    budget = estimate_budget(plan, read_status(plan, store), store)
    assert budget.gpu_hours == 0 and not budget.costs


def test_the_dry_run_says_what_each_number_rests_on(tmp_path: Path) -> None:
    plan = make_plan(["noise.alpha=0,5", *PAPER, "judge=alpaca_eval_gpt4", "generation.limit=32"])
    told = "\n".join(lines(plan, tmp_path))
    for part in ("GPU hours: ", "from FLOPs; a100, 35% of 312 TFLOP/s", "7e+09 parameters from the name meta-llama/Llama-2-7b-hf",
                 "wall time: ", "on engine local", "disk: weights that stay 28 GB", "judge alpaca_eval_gpt4: 2 cells", "$"):  # fmt: skip
        assert part in told, told


def test_the_time_of_a_judge_holds_its_calls(tmp_path: Path) -> None:
    """Two cells with 32 pairs each at 3 seconds a call, as many at once as the judge allows; a second for each step."""
    plan = make_plan([*PAPER, "noise.alpha=0,5", "judge=alpaca_eval_gpt4", "generation.limit=32"])
    store = Store(tmp_path)
    budget = estimate_budget(plan, read_status(plan, store), store)
    (forecast,) = budget.judging.forecasts
    seconds = sum(cost.seconds or 0 for cost in budget.costs["judge"])
    assert forecast.calls >= 64
    assert seconds == pytest.approx(2 + 3 * forecast.calls / plan.settings.judge.concurrency)
    assert budget.wall == pytest.approx(
        sum(cost.seconds or 0 for costs in budget.costs.values() for cost in costs)
    )


def test_what_cannot_be_estimated_is_told(tmp_path: Path) -> None:
    told = lines(make_plan(["model=hub", "model.hub_id=org/mine", *QUICK]), tmp_path)
    assert "not in these numbers: the size of model hub is not known" in told


def test_unknown_rows_name_the_key_that_tells_them_and_all_else_is_counted(tmp_path: Path) -> None:
    sharegpt = ["dataset=alpaca,sharegpt", "model=llama2_7b", "finetune=paper_7b", *QUICK]
    told = lines(make_plan(sharegpt), tmp_path)
    assert any("dataset=sharegpt dataset.published_rows=N counts N" in line for line in told)
    (wall,) = [line for line in told if line.startswith("wall time: ")]
    assert wall.startswith("wall time: at least ") and "not known on engine" not in wall
    counted = lines(make_plan([*sharegpt, "dataset=sharegpt", "dataset.published_rows=70000"][1:]), tmp_path)
    assert not any("at least" in line or "not in these numbers" in line for line in counted)


def test_the_plan_keeps_the_numbers_that_the_dry_run_prints(tmp_path: Path) -> None:
    """Three alphas against none on 32 instructions, 4 x 135 M x 4 bytes of weights."""
    told = finish(["+sweep=alpha_grid", "tracker=none", "dry_run=true"], tmp_path)
    budget = json.loads((tmp_path / "results/sweeps/alpha_grid/plan.json").read_text())["budget"]
    assert f"GPU hours: {budget['gpu_hours']:.2g} " in told
    assert budget["disk"]["weights_bytes"] == pytest.approx(4 * 135e6 * 4, rel=0.02)
    assert budget["usd"] == 0 and budget["judge"] == [] and budget["unknown"] == []
    assert budget["wall_seconds"] == pytest.approx(sum(one["seconds"] for one in budget["stages"].values()))
    assert budget["stages"]["describe"] == {"steps": 4, "gpu_hours": 0, "seconds": 4, "from": ["no model"]}
    smallest = budget["smallest_difference"]
    assert (smallest["items"], smallest["seeds"], smallest["unit"]) == (32, 1, "points")


def test_a_sweep_beyond_its_limit_does_not_start(tmp_path: Path) -> None:
    told = finish([*PAPER, "budget.max_gpu_hours=1"], tmp_path, code=2)
    (line,) = [line for line in told.splitlines() if line.startswith("error:")]
    assert "budget.max_gpu_hours=1 is too little" in line and "raise it, or narrow the sweep" in line
    assert not (tmp_path / "results/work").exists() and not (tmp_path / "results/train").exists()
    assert "budget.max_gpu_hours=1 will refuse" in finish(
        [*PAPER, "budget.max_gpu_hours=1", "dry_run=true"], tmp_path
    )


def test_limits_hold_for_dollars_and_for_what_is_not_known(tmp_path: Path) -> None:
    def check(*overrides: str) -> None:
        plan = make_plan([*overrides])
        check_budget(plan, read_status(plan, Store(tmp_path)), Store(tmp_path))

    dear = [*PAPER, "judge=alpaca_eval_gpt4", "generation.limit=64"]
    with pytest.raises(UserError, match=r"budget.max_usd=0.5 is too little: .* expected to cost \$"):
        check(*dear, "budget.max_usd=0.5")
    check(*dear, "budget.max_usd=500", "budget.max_gpu_hours=100")
    check(*dear)
    unknown = ["model=hub", "model.hub_id=org/mine", *QUICK, "budget.max_gpu_hours=100"]
    with pytest.raises(UserError, match="cannot be kept: the size of model hub is not known"):
        check(*unknown)


def test_a_faster_gpu_takes_fewer_hours(tmp_path: Path) -> None:
    def hours(gpu: str) -> float:
        plan = make_plan([*PAPER, f"budget.gpu={gpu}", "stages=[train]"])
        return estimate_budget(plan, read_status(plan, Store(tmp_path)), Store(tmp_path)).gpu_hours

    assert hours("a100") / hours("h100") == pytest.approx(989 / 312, rel=0.01)


def test_the_smallest_difference_is_that_of_the_design() -> None:
    """Three alphas against none, 32 instructions: 2.8 standard errors of the published pair at 5 % / 3."""
    found = foresee_difference(make_plan(["+sweep=alpha_grid", *QUICK]), [])
    assert found is not None and not isinstance(found, str)
    assert (found.items, found.seeds) == (32, 1) and found.alpha == pytest.approx(0.05 / 3)
    assert found.points == pytest.approx((2.394 + 0.842) * 56.16 / 32**0.5, rel=0.05)
    seeds = foresee_difference(make_plan(["+sweep=alpha_grid", "seed=0,1,2", *QUICK]), [])
    assert seeds is not None and not isinstance(seeds, str) and seeds.seeds == 3


def test_a_loss_needs_a_pilot_before_its_design_can_be_judged() -> None:
    plan = make_plan(["+sweep=alpha_grid", "analysis=loss", "judge=none", "leaderboard=none", "tracker=none"])
    plan = replace(plan, sweep=replace(plan.sweep, primary="held_out_loss"))
    assert "not known before a pilot" in str(foresee_difference(plan, []))
    assert foresee_difference(make_plan(QUICK), []) is None, "one run compares nothing"
