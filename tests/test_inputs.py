"""What is found out about the data before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neft_lab.config import UserError
from neft_lab.inputs import check_inputs
from neft_lab.plan import make_plan
from neft_lab.store import read_json
from tests.steps import run_stages

ROWS = [
    {"instruction": "Sort.", "output": "a b"},
    {"instruction": "Name  the\nTallest mountain.", "output": "Everest"},
]
ASKED = [
    {"instruction": "Greet.", "output": "Hello"},
    {"instruction": "name the tallest mountain.", "output": "?"},
]
QUICK = ["judge=longest", "leaderboard=none", "tracker=none"]


def write(path: Path, rows: Any) -> Path:
    path.write_text(json.dumps(rows))
    return path


def check(*overrides: str, done: str | None = None) -> None:
    """The check of a plan whose steps are all missing, but for those of one stage."""
    plan = make_plan([*QUICK, *overrides])
    check_inputs([step for step in plan.steps.values() if step.stage != done], plan.steps)


def local(tmp_path: Path, rows: Any) -> list[str]:
    return ["dataset=local", f"dataset.path={write(tmp_path / 'rows.json', rows)}"]


def asking(tmp_path: Path, rows: Any = ASKED) -> list[str]:
    path = write(tmp_path / "asked.json", rows)
    return [f"generation.instructions={path}", f"judge.reference={path}"]


def test_a_row_that_cannot_be_trained_on_is_told_with_its_number(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rows.json row 2 must have a non-empty text 'output', got 7"):
        check(*local(tmp_path, [ROWS[0], {"instruction": "a", "output": 7}]))
    talk = {"messages": [{"role": who, "content": "a"} for who in ("user", "assistant") * 2]}
    with pytest.raises(
        UserError, match="template 'alpaca' takes one turn, got 2; use dataset.template=vicuna"
    ):
        check(*local(tmp_path, [talk]))
    check(*local(tmp_path, [talk]), "dataset.template=vicuna")


def test_evaluation_instructions_are_read(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="asked.json row 1 must have a non-empty text 'instruction', got None"
    ):
        check(*asking(tmp_path, [{"question": "?"}]))


def test_a_training_row_that_will_be_asked_is_refused_by_name(tmp_path: Path) -> None:
    leaky = [*local(tmp_path, ROWS), *asking(tmp_path)]
    message = (
        "rows.json row 2 'Name the Tallest mountain.' is among the evaluation instructions; remove it, or set"
    )
    with pytest.raises(UserError, match=message):
        check(*leaky)
    check(*leaky, "dataset.leaked_rows=drop")
    check(*local(tmp_path, ROWS[:1]), *asking(tmp_path))


def test_a_finished_training_is_compared_with_new_questions(tmp_path: Path) -> None:
    leaky = [*local(tmp_path, ROWS), *asking(tmp_path)]
    with pytest.raises(UserError, match="is among the evaluation instructions"):
        check(*leaky, done="train")


def test_rows_that_are_not_read_are_not_compared(tmp_path: Path) -> None:
    check(*local(tmp_path, ROWS), *asking(tmp_path), "dataset.max_rows=1")


def test_every_cell_is_compared_with_the_questions_of_its_own(tmp_path: Path) -> None:
    """Two cells share a training and differ in what is asked."""
    asked = write(tmp_path / "asked.json", ASKED)
    both = [*local(tmp_path, ROWS), f"generation.instructions=starter,{asked}", "judge.reference=starter"]
    with pytest.raises(UserError, match="rows.json row 2"):
        check(*both)


def test_an_untouched_model_and_a_set_on_the_hub_need_no_look(tmp_path: Path) -> None:
    check("finetune=none", *asking(tmp_path))
    check("dataset=alpaca", *asking(tmp_path))


def test_a_mistyped_template_is_found_with_the_configuration() -> None:
    with pytest.raises(UserError, match=r"dataset.template is unknown \(did you mean 'vicuna'\?"):
        make_plan([*QUICK, "dataset.template=vicunna"])


def test_leaked_rows_are_dropped_in_training_and_what_is_asked_is_then_in_the_key(
    tiny_llama: Path, tmp_path: Path
) -> None:
    leaky = [
        *local(tmp_path, ROWS),
        *asking(tmp_path),
        "stages=[train]",
        "model=local",
        f"model.path={tiny_llama}",
    ]
    small = ["finetune.max_steps=1", "finetune.batch=2", "finetune.micro_batch=1", "noise.alpha=0"]
    folder = run_stages([*leaky, *small, "dataset.leaked_rows=drop"], tmp_path / "results")["train"]
    told = read_json(folder / "record.json")
    assert (told["resolved"]["rows"], told["resolved"]["rows_left_out"]) == (1, {"leaked": 1})
    assert "evaluation" in told["sources"]


def test_what_is_asked_enters_the_key_only_where_rows_are_dropped_for_it() -> None:
    def key(*overrides: str) -> str:
        return next(
            step.key for step in make_plan([*QUICK, *overrides]).steps.values() if step.stage == "train"
        )

    other = "generation.split=validation"
    assert key() == key(other)
    assert key("dataset.leaked_rows=drop") != key("dataset.leaked_rows=drop", other)
