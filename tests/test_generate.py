"""The generate stage: answers in the order of their instructions, whatever the batches and interruptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neft_lab.datasets import load_instructions
from neft_lab.execute import freeze
from neft_lab.paths import STARTER_DIR
from neft_lab.plan import make_plan
from neft_lab.prompts import ALPACA
from neft_lab.sources import Source
from neft_lab.step import StepFailed, run_step
from neft_lab.store import Store, read_json
from tests.steps import run_stages

COUNT = 10


def overrides(model: Path, *more: str) -> list[str]:
    return ["model=local", f"model.path={model}", "finetune=none", "stages=[train,generate]", f"generation.limit={COUNT}",
            "generation.max_new_tokens=16", "generation.max_prompt_tokens=96", "generation.token_budget=260", *more]  # fmt: skip


@pytest.fixture(scope="module")
def answers(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished generate step of five batches."""
    return run_stages(overrides(tiny_llama), tmp_path_factory.mktemp("answers"))["generate"]


def test_answers_stand_in_the_order_of_their_instructions(answers: Path) -> None:
    asked = load_instructions(Source("package", str(STARTER_DIR / "evaluation.jsonl")))[:COUNT]
    rows = read_json(answers / "outputs.json")
    assert [row["instruction"] for row in rows] == [one.instruction for one in asked]
    assert [row["dataset"] for row in rows] == [one.dataset for one in asked]
    assert all(set(row) == {"instruction", "output", "generator", "dataset"} for row in rows)
    assert not (answers / "answers.jsonl").exists()


def test_every_answer_is_the_one_its_prompt_gets_alone(answers: Path, tiny_llama: Path) -> None:
    """Transformers' own greedy decoding, one prompt at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    for row in read_json(answers / "outputs.json"):
        prompt = ALPACA.replace("{instruction}", row["instruction"]) + "\n"
        ids = torch.tensor([tokenizer(prompt)["input_ids"][-96:]])
        told = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=16,
            repetition_penalty=1.2,
            do_sample=False,
        )
        assert row["output"] == tokenizer.decode(told[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_metrics_are_those_of_the_outputs(answers: Path) -> None:
    lengths = [len(row["output"]) for row in read_json(answers / "outputs.json")]
    metrics = read_json(answers / "record.json")["metrics"]
    assert metrics["output_characters"] == int(sum(lengths) / len(lengths))
    assert 0 < metrics["output_tokens"] <= 16 and 0 <= metrics["cut_share"] <= 100


class Stopped(KeyboardInterrupt):
    """The user's Ctrl-C, at a chosen moment."""


@pytest.mark.parametrize("torn", [0, 1, 40])
def test_a_stopped_pass_goes_on_from_a_torn_journal_to_the_same_answers(
    torn: int, answers: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    plan = make_plan([*overrides(tiny_llama), "tracker=none"])
    train, generate = plan.steps.values()
    for step in (train, generate):
        freeze(step, store)
    run_step(store, train.stage, train.key)

    def stop(done: int, total: int | None, unit: str) -> None:
        if done >= 5:
            raise Stopped

    with pytest.raises(Stopped):
        run_step(store, generate.stage, generate.key, listener=stop)
    journal = store.work(generate.stage, generate.key) / "answers.jsonl"
    kept = journal.read_bytes()
    journal.write_bytes(kept[: len(kept) - torn])
    counts: list[int] = []
    folder = run_step(
        store, generate.stage, generate.key, listener=lambda done, total, unit: counts.append(done)
    )
    assert counts[0] > 0 and counts[-1] == COUNT
    told, wanted = read_json(folder / "outputs.json"), read_json(answers / "outputs.json")
    assert [row["output"] for row in told] == [row["output"] for row in wanted]


def from_file(tmp_path: Path, rows: Any, *more: str) -> Path:
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(rows))
    chosen = ["generation=file", f"generation.outputs={path}", "stages=[generate]", *more]
    return run_stages(chosen, tmp_path / "results")["generate"]


def test_answers_of_a_file_are_copied_and_nothing_is_trained(tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {number}.", "output": "é" * number, "generator": "peer", "dataset": "koala"}
            for number in (3, 4, 4)]  # fmt: skip
    folder = from_file(tmp_path, rows)
    assert read_json(folder / "outputs.json") == rows
    assert read_json(folder / "record.json")["metrics"] == {"output_characters": 3}, (
        "AlpacaEval truncates 11/3"
    )
    assert not (tmp_path / "results/train").exists()


def test_the_limit_takes_the_first_rows_of_a_file(tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {number}.", "output": "a"} for number in range(4)]
    assert read_json(from_file(tmp_path, rows, "generation.limit=2") / "outputs.json") == rows[:2]


@pytest.mark.parametrize(
    "wrong", [{"instruction": "Say 2."}, {"instruction": "Say 2.", "output": None}, "text"]
)
def test_a_wrong_row_of_a_file_is_named(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match=r"generation.outputs: theirs.json row 2 must have texts"):
        from_file(tmp_path, [{"instruction": "Say 1.", "output": "1"}, wrong])
