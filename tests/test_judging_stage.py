"""The judge stage from files to metrics, and replays of AlpacaEval's published verdicts."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from neft_lab.config import JudgeConfig, UserError
from neft_lab.paths import CONF_DIR
from neft_lab.progress import Progress
from neft_lab.sources import Source, file_source, model_source
from neft_lab.stages import Inputs, JudgeInputs
from neft_lab.stages.judge import judge

PUBLISHED = Path(__file__).parents[1].parent / "shared" / "data" / "alpaca_eval"
needs_published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="AlpacaEval's published files are not here")

REFERENCES = [{"instruction": f"i{number}", "output": "r" * 10, "generator": "ref"} for number in range(40)]
OUTPUTS = [{"instruction": f"i{number}", "output": "o" * (1 + number), "generator": "m"} for number in range(40)]


def judge_config(option: str, **changes: Any) -> JudgeConfig:
    parts = [OmegaConf.load(CONF_DIR / "judge" / f"{name}.yaml") for name in ("none", option)]
    for part in parts:
        part.pop("defaults", None)
    merged = OmegaConf.merge(OmegaConf.structured(JudgeConfig), *parts, changes)
    config = OmegaConf.to_object(merged)
    assert isinstance(config, JudgeConfig)
    return config


@pytest.fixture
def run_judge(tmp_path: Path) -> Callable[..., tuple[dict[str, float], Path]]:
    def run(config: JudgeConfig, outputs: Any = OUTPUTS, references: Any = REFERENCES, **more: Source) -> Any:
        generate, output = tmp_path / "generate", tmp_path / "results" / "work" / "judge-0"
        for folder in (generate, output):
            folder.mkdir(parents=True, exist_ok=True)
        (generate / "outputs.json").write_text(json.dumps(outputs))
        (tmp_path / "references.json").write_text(json.dumps(references))
        sources = {"reference": file_source(str(tmp_path / "references.json"), name="judge.reference"), **more}
        inputs = Inputs(device="cpu", generate=generate, sources=sources)
        return judge(JudgeInputs(config), inputs, output, Progress(output)), output

    return run


def test_the_longest_rule_wins_where_it_is_longer(run_judge: Any) -> None:
    metrics, output = run_judge(judge_config("longest"))
    # lengths 1 to 40 against 10: 9 losses, 1 draw, 30 wins
    assert metrics["win_rate"] == pytest.approx(100 * 30.5 / 40)
    assert metrics["win_rate_n"] == 40
    assert metrics["output_characters"] == 20  # mean 20.5, truncated
    results = json.loads((output / "results.json").read_text())
    assert results["counts"] == {"wins": 30, "losses": 9, "draws": 1, "total": 40}


def test_annotations_are_alpaca_evals_with_the_reference_first(run_judge: Any) -> None:
    _, output = run_judge(judge_config("longest"))
    row = json.loads((output / "annotations.json").read_text())[39]
    assert (row["output_1"], row["generator_1"], row["output_2"], row["generator_2"]) == ("r" * 10, "ref", "o" * 40, "m")
    assert row["preference"] == 2.0 and row["annotator"] == "longest"


def test_an_output_without_a_reference_stops_the_stage(run_judge: Any) -> None:
    with pytest.raises(UserError, match="judge.reference has no answer"):
        run_judge(judge_config("random"), references=REFERENCES[1:])


def test_a_reference_without_an_answer_stops_the_stage(run_judge: Any) -> None:
    with pytest.raises(UserError, match="has 1 rows without an output"):
        run_judge(judge_config("random"), references=[*REFERENCES[1:], {"instruction": "i0", "output": None}])


def test_a_file_without_any_verdict_gives_no_win_rate_and_forty_holes(run_judge: Any, tmp_path: Path) -> None:
    rows = [
        {"instruction": row["instruction"], "output_1": "r", "output_2": row["output"], "preference": None, "annotator": "a"}
        for row in OUTPUTS
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    config = judge_config("file", annotations="annotations.json")
    metrics, output = run_judge(config, annotations=file_source(str(tmp_path / "annotations.json"), name="x"))
    assert "win_rate" not in metrics and metrics["judge_holes"] == 40
    assert json.loads((output / "results.json").read_text())["holes"] == {"no verdict in the file": 40}


def test_the_local_judge_runs_from_a_folder_and_twice_gives_the_same(run_judge: Any, tiny_llama: Path) -> None:
    config = judge_config("local", precision="fp32", token_budget=4000, max_prompt_tokens=500)
    assert config.model is not None
    config.model.path = str(tiny_llama)
    source = model_source(config.model, name="judge.model")
    first, output = run_judge(config, judge_model=source)
    rows = (output / "annotations.json").read_bytes()
    second, _ = run_judge(config, judge_model=source)
    assert first == second and (output / "annotations.json").read_bytes() == rows
    assert first["win_rate_n"] == 40 and 0 <= first["position_consistency"] <= 100
    assert not (output / "local_judge.jsonl").exists()


def _leaderboard(name: str, model: str) -> dict[str, str]:
    with (PUBLISHED / f"{name}_leaderboard.csv").open() as stream:
        rows = {row[""]: row for row in csv.DictReader(stream)}
    return rows[model]


@needs_published
@pytest.mark.parametrize("reparse", [False, True])
@pytest.mark.parametrize(
    ("model", "evaluator"),
    [
        ("alpaca-7b", "alpaca_eval_gpt4"),
        ("alpaca-7b-neft", "alpaca_eval_gpt4"),
        ("alpaca-7b", "weighted_alpaca_eval_gpt4_turbo"),
    ],
)
def test_published_verdicts_give_the_published_leaderboard(
    run_judge: Any, model: str, evaluator: str, reparse: bool
) -> None:
    file = PUBLISHED / f"{model}.{evaluator}.annotations.json"
    annotations = json.loads(file.read_text())
    if reparse and annotations[0].get("raw_completion") is None:
        pytest.skip("the file stores no raw completions")
    outputs = [{**row, "output": row["output_2"]} for row in annotations]
    config = judge_config("file", annotations=str(file), reparse=reparse, evaluator=evaluator)
    metrics, output = run_judge(config, outputs, annotations=file_source(str(file), name="judge.annotations"))
    published = _leaderboard(evaluator, model)
    results = json.loads((output / "results.json").read_text())
    assert metrics["win_rate"] == pytest.approx(float(published["win_rate"]), abs=1e-9)
    assert metrics["win_rate_standard_error"] == pytest.approx(float(published["standard_error"]), abs=1e-9)
    assert metrics["discrete_win_rate"] == pytest.approx(float(published["discrete_win_rate"]), abs=1e-9)
    counted = {"wins": "n_wins", "losses": "n_wins_base", "draws": "n_draws", "total": "n_total"}
    assert results["counts"] == {ours: int(float(published[theirs])) for ours, theirs in counted.items()}
    assert metrics["output_characters"] == int(float(published["avg_length"]))


@needs_published
def test_published_outputs_replay_from_their_own_file(run_judge: Any) -> None:
    file = PUBLISHED / "alpaca-7b-neft.alpaca_eval_gpt4.annotations.json"
    outputs = json.loads((PUBLISHED / "alpaca-7b-neft.json").read_text())
    config = judge_config("file", annotations=str(file))
    metrics, _ = run_judge(config, outputs, annotations=file_source(str(file), name="judge.annotations"))
    assert metrics["win_rate"] == pytest.approx(61.6438356, abs=1e-7) and metrics["win_rate_n"] == 803
    assert metrics["judge_holes"] == 2


def test_replaying_a_file_needs_neither_torch_nor_alpaca_eval() -> None:
    code = (
        "import sys, neft_lab.stages.judge, neft_lab.judging.summary, neft_lab.statistics;"
        "heavy = {'torch', 'transformers', 'alpaca_eval', 'openai'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
