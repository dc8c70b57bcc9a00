"""What is known of the judge stands beside the win rates: audits, counts, versions, extrapolation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from neft_lab.claims.arms import make_arms
from neft_lab.claims.comparisons import verdict_times
from neft_lab.claims.judge_table import judge_tables
from neft_lab.claims.results import CellResult

RESULTS = {
    "judge": "alpaca_eval_gpt4",
    "validation": "agreement with 200 stored verdicts 69.0 % (62.3 to 75.0), longer-answer rule 62.0 %",
    "counts": {"wins": 20, "losses": 19, "draws": 0, "total": 39},
    "holes": {"unparsable": 1},
    "length_control": {"difficulty": "none", "extrapolates": False},
    "model_versions": {"gpt-4-0613": 40},
    "answered": ["2024-01-01T10:00:00.000+00:00", "2024-01-02T11:00:00.000+00:00"],
}


def _cell(folder: Path, alpha: int, metrics: dict[str, float], **changes: Any) -> CellResult:
    judged = folder / f"judge-{alpha}"
    judged.mkdir(parents=True)
    (judged / "results.json").write_text(json.dumps(RESULTS | changes))
    return CellResult(
        axes={"noise.alpha": alpha, "seed": 0}, baseline=None, added=False, keys={}, config=None, metrics=metrics,
        folders={"judge": judged},
    )  # fmt: skip


def _notes(*rows: CellResult) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    (table,) = judge_tables(make_arms(rows, names))
    return "\n".join(table.notes)


def test_the_audits_stand_beside_the_win_rates_with_their_intervals(tmp_path: Path) -> None:
    metrics = {"repeat_agreement": 95.0, "repeat_agreement_low": 80.2, "repeat_agreement_high": 99.1,
               "repeat_agreement_n": 20.0, "judge_holes": 1.0}  # fmt: skip
    (table,) = judge_tables(make_arms([_cell(tmp_path, 0, metrics)], list(metrics)))
    assert table.header == ["arm", "same winner asked again %", "without verdict"]
    assert table.rows[0][1:] == ["95 [80, 99]", "1"]
    told = "\n".join(table.notes)
    assert (
        "alpaca_eval_gpt4: agreement with 200 stored verdicts 69.0 % (62.3 to 75.0), longer-answer rule"
        in told
    )
    assert "Answered by gpt-4-0613, 2024-01-01T10:00 to 2024-01-02T11:00 UTC." in told
    assert "no instruction difficulties" in told and "extrapolation" not in told.lower()


def test_unequal_numbers_of_verdicts_are_said_with_the_reasons(tmp_path: Path) -> None:
    one = _cell(tmp_path, 0, {"judge_holes": 1.0})
    other = _cell(tmp_path, 5, {"judge_holes": 0.0}, counts={"total": 40}, holes={})
    assert "Cells have 39 to 40 verdicts" in _notes(one, other)
    assert "Without a verdict: 1 unparsable." in _notes(one, other)


def test_a_cell_of_other_lengths_than_the_references_is_named_as_extrapolation(tmp_path: Path) -> None:
    flagged = {"difficulty": "none", "extrapolates": True}
    rows = [
        _cell(tmp_path, 0, {"length_overlap": 40.0}),
        _cell(tmp_path, 5, {"length_overlap": 2.0}, length_control=flagged),
    ]
    assert "An extrapolation, since hardly any outputs lie on one side of the reference's length: " in _notes(
        *rows
    )
    assert _notes(*rows).rstrip(".").endswith("5")


def test_a_judge_that_drifted_between_two_days_is_told(tmp_path: Path) -> None:
    moved = {
        "canary_agreement": 60.0,
        "canary_shift": -20.0,
        "canary_shift_low": -35.0,
        "canary_shift_high": -5.0,
    }
    assert "The judge has drifted" in _notes(_cell(tmp_path / "moved", 0, moved))
    still = moved | {"canary_shift_high": 5.0}
    assert "drifted" not in _notes(_cell(tmp_path / "still", 0, still))


def test_without_verdicts_there_is_no_table() -> None:
    assert judge_tables(make_arms([CellResult({}, None, False, {}, None)], [])) == []


def test_verdicts_are_as_old_as_their_answers_and_not_as_the_run_that_used_them() -> None:
    record = {"started": "2026-11-24T08:00:00+00:00", "config": {"judge": {"kind": "alpaca_eval"}},
              "resolved": {"verdicts": {"answered": ["2024-01-01T10:00:00", "2024-03-01T10:00:00+00:00"]}}}  # fmt: skip
    assert [time.isoformat() for time in verdict_times(record)] == [
        "2024-01-01T10:00:00+00:00", "2024-03-01T10:00:00+00:00",
    ]  # fmt: skip
    local = record | {"resolved": {}, "config": {"judge": {"kind": "local"}}}
    assert [time.year for time in verdict_times(local)] == [2026]
    assert verdict_times(record | {"resolved": {}, "config": {"judge": {"kind": "file"}}}) == []
