"""Tables: how numbers are rounded, what is bold, how holes are told, and that LaTeX compiles what is written."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from neft_lab.claims.arms import Arm
from neft_lab.claims.results import CellResult
from neft_lab.config import SweepConfig, TableConfig
from neft_lab.tables import (
    BOLD,
    Table,
    ablation_table,
    band_table,
    difference_table,
    dose_table,
    leaderboard_csv,
    metric_table,
    rounded,
)
from neft_lab.textstats import win_rate_by_length
from neft_lab.typeset import to_csv, to_latex, to_markdown, to_rich
from tests.report_cases import make_arm, make_arms, make_comparison

SWEEP = SweepConfig(
    name="alpha_grid",
    table=TableConfig(rows="noise.alpha", columns="dataset", values=["win_rate", "output_characters"]),
)
AWKWARD = Table(
    "50 % of a_b & c",
    ["arm", "win rate %", "100 $ #1"],
    [["α 5 × {x}", "46 [-3, 49] †", "a | b\nc"], ["~^\\", "–", "5 − 3 ÷ 2"], ["", "2 [1, 3] × 10⁻¹²", ""]],
    ["One note with 95 % and _under_.", "Another ≥ 5."],
    frozenset({(0, 1)}),
)


def nan_arm(alpha: float, **row: object) -> Arm:
    cell = CellResult(
        {"noise.alpha": alpha, "seed": 0}, None, False, {}, None, holes={"judge": "no space left"}
    )
    nan = float("nan")
    return make_arm({"noise.alpha": alpha}, {"win_rate": (nan, nan)}, rows=[replace(cell, **row)])


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (64.6914, 61.2, 68.3, "65 [61, 68]"),  # half a width of 3.5: no decimal
        (5.0347, 4.3778, 5.6917, "5.0 [4.4, 5.7]"),  # 0.66: one
        (2.31842, 2.2871, 2.3497, "2.32 [2.29, 2.35]"),  # 0.03: two
        (-0.0004, -1.2, 1.2, "0 [-1, 1]"),  # and no minus zero
        (3.0, 3.0, 3.0, "3 [3, 3]"),
        (0.25, 0.25, 0.25, "0.250 [0.250, 0.250]"),
        (0.1, 0.1 - 2e-17, 0.1 + 2e-17, "0.100 [0.100, 0.100]"),  # a constant whose mean was rounded
        (0.00052, 0.00021, 0.00083, "0.0005 [0.0002, 0.0008]"),
        (2.13e-5, 1.01e-5, 3.25e-5, "2 [1, 3] × 10⁻⁵"),
        (-3.3e-7, -9.1e-7, 1.2e-7, "-3 [-9, 1] × 10⁻⁷"),
        (1.2e-4, 8.1e-5, 1.59e-4, "1.2 [0.8, 1.6] × 10⁻⁴"),
        (6.938123, 6.938122, 6.938124, "6.938123 [6.938122, 6.938124]"),
    ],
)
def test_no_more_digits_than_the_interval_supports(value: float, low: float, high: float, text: str) -> None:
    assert rounded(value, low, high) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1067.4957, "1070"),
        (0.39412, "0.394"),
        (0.0, "0"),
        (100.0, "100"),
        (2.0, "2"),
        (0.0004567, "0.000457"),
        (float("nan"), "–"),
    ],
)
def test_without_an_interval_three_digits_and_no_power_of_ten(value: float, text: str) -> None:
    nan = float("nan")
    assert rounded(value, nan, nan) == text


def test_the_leaderboard_keeps_every_digit() -> None:
    row = CellResult({"noise.alpha": 5.0}, None, False, {}, None, metrics={"win_rate": 61.64383561643836, "win_rate_n": 803.0})  # fmt: skip
    header, line = csv.reader(io.StringIO(leaderboard_csv([row], ["win_rate"])))
    assert dict(zip(header, line, strict=True)) == {
        "noise.alpha": "5", "win_rate": "61.64383561643836", "win_rate_low": "", "win_rate_high": "", "win_rate_n": "803",
    }  # fmt: skip


def test_the_sweeps_layout_has_a_line_per_row_value_and_a_block_per_column_value() -> None:
    arms = make_arms(dataset=["alpaca", "sharegpt"], noise__alpha=[0, 5])
    table = ablation_table(arms, SWEEP, ["win_rate", "output_characters"], best={})
    assert table.header == [
        "alpha", "alpaca win rate %", "alpaca output characters", "sharegpt win rate %", "sharegpt output characters",
    ]  # fmt: skip
    assert [row[0] for row in table.rows] == ["0", "5"]
    assert table.rows[1][1] == "42 [40, 44]" and table.rows[1][3] == "46 [44, 48]"


def test_an_axis_that_follows_the_columns_needs_no_line_of_its_own() -> None:
    prompts = {"alpaca": "paper", "sharegpt": "paper_vicuna"}
    arms = [
        make_arm(
            {"dataset": name, "generation": prompt, "noise.alpha": alpha}, {"win_rate": (40.0 + alpha, 2.0)}
        )
        for name, prompt in prompts.items()
        for alpha in (0, 5)
    ]
    table = ablation_table(arms, SWEEP, ["win_rate"], best={})
    assert table.header == ["alpha", "alpaca win rate %", "sharegpt win rate %"]
    assert table.rows == [["0", "40 [38, 42]", "40 [38, 42]"], ["5", "45 [43, 47]", "45 [43, 47]"]]


def test_a_table_that_nobody_lays_out_starts_with_the_primary_metric() -> None:
    arms = make_arms(noise__alpha=[0, 5], metrics=["train_loss", "held_out_loss", "win_rate"])
    table = ablation_table(
        arms, SweepConfig(primary="win_rate"), ["train_loss", "held_out_loss", "win_rate"], best={}
    )
    assert table.header == ["alpha", "win rate %", "held-out loss, nats"]


def test_only_what_a_comparison_with_the_best_leaves_is_bold() -> None:
    arms = make_arms(dataset=["alpaca", "sharegpt"], noise__alpha=[0, 5])
    table = ablation_table(
        arms, SWEEP, ["win_rate", "output_characters"], best={"win_rate": frozenset({1, 3})}
    )
    assert table.strong == {(1, 1), (1, 3)}
    assert BOLD in table.notes
    plain = ablation_table(arms, SWEEP, ["win_rate", "output_characters"], best={"win_rate": frozenset()})
    assert not plain.strong and BOLD not in plain.notes
    assert "**42 [40, 44]**" in to_markdown([table]) and "**" not in to_markdown([plain])
    assert r"\textbf{42 [40, 44]}" in to_latex([table])


def test_holes_are_marked_and_told_with_their_reason() -> None:
    table = ablation_table([nan_arm(0), nan_arm(5)], SWEEP, ["win_rate"], best={})
    assert [row[1] for row in table.rows] == ["– †", "– †"]
    assert "† all cells, judge: no space left" in table.notes


def test_a_column_that_no_arm_has_is_left_out() -> None:
    table = metric_table("Texts", make_arms(noise__alpha=[0, 5]), ["cut_share", "win_rate"], ["A note."])
    assert table.header == ["arm", "win rate %"]
    assert [row[0] for row in table.rows] == ["α 0", "α 5"]


def test_differences_tell_the_correction_and_over_how_many() -> None:
    one = make_comparison({"noise.alpha": 5}, 5.2, 3.4, verdict="higher")
    assert difference_table([one]).header[5] == "p (Holm)"
    explored = replace(one, correction="Benjamini-Hochberg", family=6)
    table = difference_table([explored])
    assert table.header[5] == "p (Benjamini-Hochberg)"
    assert any("Exploratory: Benjamini-Hochberg over 6 comparisons" in note for note in table.notes)
    assert table.rows[0][2:4] == ["5 [2, 9]", "805 × 3"]


def test_doses_are_means_over_seeds_and_what_was_not_measured_is_a_dash() -> None:
    metrics = {"mean_noise_norm": 2.8, "noise_to_embedding_rms": 0.25, "equivalent_alpha": 4.85}
    doses = [
        metrics | {"changed_token_share": 0.5},
        {**metrics, "mean_noise_norm": 3.0, "changed_token_share": 1.5},
    ]
    rows = [CellResult({"noise.alpha": 5, "seed": seed}, None, False, {}, None, metrics=dose)
            for seed, dose in enumerate(doses)]  # fmt: skip
    old = CellResult({"noise.alpha": 10, "seed": 0}, None, False, {}, None, metrics=metrics)
    arms = [
        make_arm({"noise.alpha": 5}, {}, rows=rows),
        make_arm({"noise.alpha": 10}, {}, rows=[old]),
        nan_arm(0),
    ]
    table = dose_table(arms)
    assert table.rows == [["α 5", "2.9", "0.25", "1", "4.85"], ["α 10", "2.8", "0.25", "–", "4.85"]]


def test_win_rates_by_length_carry_their_counts() -> None:
    bands = win_rate_by_length([2, 2, 1, 2], [10, 20, 30, 700])
    table = band_table([(make_arm({"noise.alpha": 0}, {}), bands)])
    assert table.header[1:] == ["0 to 300", "300 to 600", "600 to 1000", "1000 to 2000", "2000 and more"]
    (row,) = table.rows
    assert row[1].startswith("67 [") and row[1].endswith("(3)")
    assert row[2] == "–"


def test_a_cell_cannot_break_markdown_or_csv() -> None:
    lines = to_markdown([AWKWARD]).splitlines()
    assert [line.count("|") - line.count("\\|") for line in lines if line.startswith("|")] == [4] * 5
    assert list(csv.reader(io.StringIO(to_csv(AWKWARD)))) == [AWKWARD.header, *AWKWARD.rows]
    assert len(to_rich(AWKWARD).columns) == 3


def test_latex_signs_and_symbols_are_latex() -> None:
    text = to_latex([AWKWARD])
    assert r"\textbf{46 [$-$3, 49] \dag{}}" in text
    assert r"$\alpha$ 5 $\times$ \{x\}" in text
    assert r"2 [1, 3] $\times$ 10$^{-}$$^{1}$$^{2}$" in text
    assert r"\caption{50 \% of a\_b \& c}" in text
    assert all(word in text for word in (r"\toprule", r"\midrule", r"\bottomrule", r"Another $\geq$ 5."))


@pytest.mark.skipif(
    shutil.which("pdflatex") is None,
    reason="needs pdflatex (Debian: apt-get install texlive-latex-base texlive-latex-recommended)",
)
def test_latex_compiles(tmp_path: Path) -> None:
    tables = [AWKWARD, difference_table([make_comparison({"noise.alpha": 5}, -5.2, 3.4, flags=["a_b, 5 %"])])]
    (tmp_path / "table.tex").write_text(to_latex(tables), encoding="utf-8")
    (tmp_path / "page.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{table.tex}\\end{document}",
        encoding="utf-8",
    )
    told = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout[-2000:]
    assert (tmp_path / "page.pdf").stat().st_size > 1000
