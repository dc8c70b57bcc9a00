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
from neft_lab.judging.client import JudgingStopped
from neft_lab.paths import CONF_DIR
from neft_lab.progress import Progress
from neft_lab.sources import Source, file_source, model_source
from neft_lab.stages import Inputs, JudgeInputs
from neft_lab.stages.judge import judge, judge_together
from tests.judge_server import judge_server

PUBLISHED = Path(__file__).parents[1].parent / "shared" / "data" / "alpaca_eval"
needs_published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="AlpacaEval's published files are not here"
)

REFERENCES = [{"instruction": f"i{number}", "output": "r" * 10, "generator": "ref"} for number in range(40)]
OUTPUTS = [
    {"instruction": f"i{number}", "output": "o" * (1 + number), "generator": "m"} for number in range(40)
]


def _parents(option: str) -> list[Any]:
    """The files an option is made of, its defaults first."""
    part = OmegaConf.load(CONF_DIR / "judge" / f"{option}.yaml")
    return [file for name in part.pop("defaults", []) for file in _parents(name)] + [part]


def judge_config(option: str, **changes: Any) -> JudgeConfig:
    parts = _parents(option)
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
        sources = {
            "reference": file_source(str(tmp_path / "references.json"), name="judge.reference"),
            **more,
        }
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
    assert (row["output_1"], row["generator_1"], row["output_2"], row["generator_2"]) == (
        "r" * 10,
        "ref",
        "o" * 40,
        "m",
    )
    assert row["preference"] == 2.0 and row["annotator"] == "longest"


def test_an_output_without_a_reference_stops_the_stage(run_judge: Any) -> None:
    with pytest.raises(UserError, match=r"judge.reference has no answer"):
        run_judge(judge_config("random"), references=REFERENCES[1:])


def test_a_reference_without_an_answer_stops_the_stage(run_judge: Any) -> None:
    with pytest.raises(UserError, match=r"has 1 rows without an output"):
        run_judge(judge_config("random"), references=[*REFERENCES[1:], {"instruction": "i0", "output": None}])


def test_a_file_without_any_verdict_gives_no_win_rate_and_forty_holes(run_judge: Any, tmp_path: Path) -> None:
    rows = [
        {
            "instruction": row["instruction"],
            "output_1": "r",
            "output_2": row["output"],
            "preference": None,
            "annotator": "a",
        }
        for row in OUTPUTS
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    config = judge_config("file", annotations="annotations.json")
    metrics, output = run_judge(config, annotations=file_source(str(tmp_path / "annotations.json"), name="x"))
    assert "win_rate" not in metrics and metrics["judge_holes"] == 40
    assert json.loads((output / "results.json").read_text())["holes"] == {"no verdict in the file": 40}


def test_the_local_judge_runs_from_a_folder_and_twice_gives_the_same(
    run_judge: Any, tiny_llama: Path
) -> None:
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


def _over_http(url: str, **changes: Any) -> JudgeConfig:
    chosen = {"evaluator": "alpaca_eval_gpt4", "audit_pairs": 5, "canaries": 0} | changes
    return judge_config(
        "openai_compatible", base_url=url, served_model="m", usd_per_million_tokens=[1, 2], **chosen
    )


def test_the_stage_asks_a_service_and_a_second_cell_of_equal_outputs_costs_nothing(run_judge: Any) -> None:
    with judge_server(version="judge-7") as (url, seen):
        metrics, output = run_judge(_over_http(url))
        asked = len(seen.bodies)
        again, _ = run_judge(_over_http(url))
    assert asked == len(seen.bodies) == 40 + 5 + 5  # verdicts, swaps, repeats
    assert metrics == again
    # longer wins, the server says; equal lengths go to the one shown second
    assert metrics["win_rate"] == pytest.approx(100 * 30 / 40, abs=2.5)
    assert metrics["repeat_agreement"] == 100.0 and metrics["judge_validated"] == 0.0
    results = json.loads((output / "results.json").read_text())
    assert results["model_versions"] == {"judge-7": 50} and len(results["answered"]) == 2
    assert (output.parents[1] / "judgements").is_dir()


def test_unparsable_answers_are_holes_that_are_counted_and_shown(run_judge: Any) -> None:
    outputs = [*OUTPUTS[:-1], {**OUTPUTS[-1], "output": "[[garbage]]"}]
    with judge_server() as (url, _):
        metrics, output = run_judge(_over_http(url, audit_pairs=0), outputs)
    assert (metrics["win_rate_n"], metrics["judge_holes"]) == (39, 1)
    rows = json.loads((output / "annotations.json").read_text())
    assert rows[-1]["preference"] is None and rows[-1]["hole"] == "unparsable"
    assert rows[-1]["raw_completion"] == "Both answers have their merits."


def test_a_cell_is_not_published_while_another_run_may_fill_its_holes(run_judge: Any) -> None:
    outputs = [*OUTPUTS[:-1], {**OUTPUTS[-1], "output": "[[500]]"}]
    with judge_server() as (url, _):
        config = _over_http(url, audit_pairs=0, attempts=1)
        with pytest.raises(JudgingStopped, match=r"1 of 40 judge requests got no answer \(1 http 500\)"):
            run_judge(config, outputs)
        metrics, output = run_judge(config, outputs)
    assert metrics["judge_holes"] == 1
    assert json.loads((output / "results.json").read_text())["holes"] == {"http 500": 1}


def test_a_judge_that_knows_what_people_prefer_is_validated(run_judge: Any, tmp_path: Path) -> None:
    """People prefer the answer that says yes, which is the shorter one; so does this judge."""
    rows = [
        {
            "instruction": f"s{number}",
            "output_1": "no, " * 5 if number % 2 else "yes",
            "output_2": "yes" if number % 2 else "no, " * 5,
            "preference": 1 + number % 2,
        }
        for number in range(40)
    ]
    (tmp_path / "stored.json").write_text(json.dumps(rows))
    stored = file_source(str(tmp_path / "stored.json"), name="judge.stored")
    with judge_server(prefer=lambda _, first, second: float("yes" in first)) as (url, _):
        validated, output = run_judge(_over_http(url), stored=stored)
    sentence = json.loads((output / "results.json").read_text())["validation"]
    assert validated["judge_validated"] == 1.0 and validated["stored_agreement"] == 100.0
    assert sentence.startswith("agreement with 40 stored verdicts 100.0 %")
    longest, _ = run_judge(judge_config("longest"), stored=stored)
    assert longest["judge_validated"] == 0.0 and longest["stored_agreement"] == 0.0


def test_a_stored_file_is_compared_with_the_replayed_verdicts_on_the_same_answers(
    run_judge: Any, tmp_path: Path
) -> None:
    rows = [
        {
            "instruction": r["instruction"],
            "output_1": "r" * 10,
            "output_2": r["output"],
            "preference": 2,
            "annotator": "a",
        }
        for r in OUTPUTS
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    (tmp_path / "people.json").write_text(json.dumps([*rows[:20], rows[20] | {"output_2": "other"}]))
    metrics, _ = run_judge(
        judge_config("file", annotations="annotations.json"),
        annotations=file_source(str(tmp_path / "annotations.json"), name="x"),
        stored=file_source(str(tmp_path / "people.json"), name="y"),
    )
    assert (metrics["stored_agreement"], metrics["stored_agreement_n"]) == (100.0, 20)


def test_arms_judged_together_are_asked_in_turn_and_their_steps_then_ask_nothing(tmp_path: Path) -> None:
    (tmp_path / "references.json").write_text(json.dumps(REFERENCES))
    sources = {"reference": file_source(str(tmp_path / "references.json"), name="judge.reference")}
    with judge_server() as (url, seen):
        config = JudgeInputs(_over_http(url, audit_pairs=0, concurrency=1))
        steps = []
        for arm in ("a", "b"):
            outputs = [{**row, "output": f"{arm} {row['output']}"} for row in OUTPUTS]
            generate, output = tmp_path / f"generate-{arm}", tmp_path / "results" / "work" / f"judge-{arm}"
            generate.mkdir(), output.mkdir(parents=True)
            (generate / "outputs.json").write_text(json.dumps(outputs))
            steps.append((config, Inputs(device="none", generate=generate, sources=sources), output))
        assert judge_together(steps) == [None, None]
        arms = ["a o" in body["messages"][1]["content"] for body in seen.bodies]
        assert arms == [True, False] * 40
        for step in steps:
            judge(*step, Progress(step[2]))
        assert len(seen.bodies) == 80


@needs_published
def test_the_short_answers_of_davinci_are_refused_as_a_reference(run_judge: Any) -> None:
    rows = json.loads((PUBLISHED / "reference_ae1.json").read_text())
    short = [{**row, "output": row["output"][:300], "generator": "text_davinci_003"} for row in rows]
    outputs = json.loads((PUBLISHED / "alpaca-7b.json").read_text())
    with pytest.raises(UserError, match="short answers, which AlpacaEval 1 was not judged against"):
        run_judge(judge_config("longest"), outputs, short)
    metrics, _ = run_judge(judge_config("longest"), outputs, rows)
    assert metrics["win_rate_n"] == 805


def test_every_judge_of_conf_is_a_whole_configuration() -> None:
    required = {"annotations": "a", "evaluator": "chatgpt", "served_model": "m", "base_url": "http://x/v1"}
    for path in sorted((CONF_DIR / "judge").glob("*.yaml")):
        text = path.read_text()
        missing = {name: value for name, value in required.items() if f"{name}: ???" in text}
        assert judge_config(path.stem, **missing).name == path.stem


def test_a_login_in_the_address_of_a_judge_is_refused_and_not_repeated() -> None:
    with pytest.raises(UserError, match=r"judge\.base_url must hold no login, .* OPENAI_API_KEY") as told:
        judge_config("openai_compatible", base_url="http://me:secret@host/v1", served_model="m")
    assert "secret" not in str(told.value)
