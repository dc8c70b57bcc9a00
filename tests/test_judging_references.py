"""Reference answers: by name, from outputs and from annotations; and what of a judge enters the key."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from neft_lab.config import UserError
from neft_lab.judging import evaluators
from neft_lab.judging.prompts import prompt_source
from neft_lab.judging.references import cached_references, load_references, reference_source
from neft_lab.plan import make_plan
from neft_lab.sources import file_source

PUBLISHED = Path(__file__).parents[1].parent / "shared" / "data" / "alpaca_eval"


def _key(*overrides: str) -> str:
    steps = make_plan(overrides).steps.values()
    return next(step.key for step in steps if step.stage == "judge")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub with AlpacaEval 2's reference answers, as huggingface_hub lays it out."""
    repo = tmp_path / "hub" / "datasets--tatsu-lab--alpaca_eval"
    snapshot = repo / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(snapshot.name)
    rows = [
        {"instruction": "i", "output": "gpt-4's answer", "generator": "gpt4_1106_preview", "dataset": "koala"}
    ]
    (snapshot / "alpaca_eval_gpt4_baseline.json").write_text(json.dumps(rows))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_alpaca_eval_2s_reference_is_known_by_name(hub: Path) -> None:
    source = reference_source("alpaca_eval_gpt4_baseline", "evaluation")
    assert source.identity != reference_source("alpaca_eval", "evaluation").identity
    (row,) = load_references(source)
    assert (row["output"], row["generator"]) == ("gpt-4's answer", "gpt4_1106_preview")
    assert cached_references(source) == {"i": "gpt-4's answer"}


def test_a_reference_out_of_reach_is_told_with_what_serves_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("alpaca_eval", "alpaca_eval_gpt4_baseline"):
        source = reference_source(name, "evaluation")
        with pytest.raises(UserError, match=r"annotations file whose output_1 is meant"):
            load_references(source)
        assert cached_references(source) == {}


def test_output_1_of_an_annotations_file_is_a_reference(tmp_path: Path) -> None:
    file = tmp_path / "annotations.json"
    row = {
        "instruction": "i",
        "output_1": "one",
        "generator_1": "davinci",
        "output_2": "two",
        "preference": 1,
    }
    file.write_text(json.dumps([row]))
    (found,) = load_references(file_source(str(file), name="judge.reference"))
    assert (found["instruction"], found["output"], found["generator"]) == ("i", "one", "davinci")


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="AlpacaEval's published files are not here")
def test_output_1_of_the_published_annotations_is_the_reference_of_the_leaderboard() -> None:
    """Mean length 482.36 characters, not the 308 of the other text_davinci_003 file."""
    file = PUBLISHED / "alpaca-7b.alpaca_eval_gpt4.annotations.json"
    rows = load_references(file_source(str(file), name="judge.reference"))
    assert len(rows) == 805
    assert sum(len(row["output"]) for row in rows) / 805 == pytest.approx(482.36, abs=0.01)
    assert {row["generator"] for row in rows} == {"text_davinci_003"}


def test_rows_without_an_output_are_no_references(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([{"instruction": "i"}]))
    with pytest.raises(UserError, match=r"judge.reference '.*' has 1 rows without an output"):
        load_references(file_source(str(file), name="judge.reference"))


def test_the_prompt_of_an_evaluator_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of alpaca-eval may ship other words, or read the answer otherwise, under the same name."""
    run = ("judge=alpaca_eval_gpt4", "judge.reference=starter")
    before = _key(*run)
    shipped, changed = evaluators.configs_folder(), tmp_path / "evaluators_configs"
    shutil.copytree(shipped / "alpaca_eval_gpt4", changed / "alpaca_eval_gpt4")
    monkeypatch.setattr(evaluators, "configs_folder", lambda: changed)
    for forget in (evaluators.load_evaluator, evaluators.evaluator_names):
        forget.cache_clear()
    assert _key(*run) == before
    prompt = changed / "alpaca_eval_gpt4" / "alpaca_eval.txt"
    prompt.write_text(prompt.read_text() + " ")
    evaluators.load_evaluator.cache_clear()
    assert _key(*run) != before
    for forget in (evaluators.load_evaluator, evaluators.evaluator_names):
        forget.cache_clear()


def test_the_question_of_the_local_judge_is_in_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = prompt_source().identity
    monkeypatch.setattr(
        "neft_lab.judging.prompts.QUESTION", "Which is better?\n{instruction}\n{first}\n{second}"
    )
    assert prompt_source().identity != before


def test_the_address_of_a_service_is_in_the_key_and_its_limits_are_not() -> None:
    run = ("judge=openai_compatible", "judge.served_model=m")
    one = _key(*run, "judge.base_url=http://a/v1")
    assert one != _key(*run, "judge.base_url=http://b/v1")
    assert one == _key(
        *run, "judge.base_url=http://a/v1", "judge.concurrency=3", "judge.max_usd=1", "judge.timeout=5"
    )
