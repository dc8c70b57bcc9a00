"""Figures show the numbers they are given, name every arm, and come out the same to the byte."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from neft_lab.claims.arms import Arm
from neft_lab.claims.results import CellResult
from neft_lab.figures import (
    Figure,
    draw_alpha_curve,
    draw_figures,
    draw_flip_curves,
    draw_forest,
    draw_length_scatter,
    draw_likeness_histograms,
    draw_loss_histograms,
    draw_task_bars,
    write_figure,
)
from neft_lab.figures.style import PAGE, PALETTE, PAPER, make_panels, open_canvas, set_title
from neft_lab.store import write_json
from tests.report_cases import make_arm, make_arms, make_comparison

BLUE, ORANGE, GREEN = PALETTE[:3]


def texts(figure: Figure) -> list[str]:
    root = ElementTree.fromstring(figure.svg)
    return ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


def markers(figure: Figure, color: str) -> list[tuple[float, float]]:
    """Places of the data points of one colour, in the order they are drawn."""
    found = re.findall(rf'<use [^>]*x="([\d.]+)" y="([\d.]+)" style="fill: {color}', figure.svg)
    return [(float(x), float(y)) for x, y in found]


def intervals(figure: Figure, color: str) -> list[float]:
    """Heights of the vertical bars of one colour."""
    found = re.findall(
        r'd="M ([\d.]+) ([\d.]+) \nL \1 ([\d.]+) \n" clip-path=[^>]*stroke: ' + color, figure.svg
    )
    return [abs(float(low) - float(high)) for _, low, high in found]


def test_points_and_intervals_lie_where_their_numbers_say() -> None:
    values = {0: (40.0, 1.0), 5: (43.0, 2.0), 15: (49.0, 3.0)}
    figure = draw_alpha_curve(
        [make_arm({"noise.alpha": alpha}, {"win_rate": value}) for alpha, value in values.items()], "win_rate"
    )
    points, bars = markers(figure, BLUE), intervals(figure, BLUE)
    (x0, y0), (x5, y5), (x15, y15) = points
    assert (x15 - x0) / (x5 - x0) == pytest.approx(15 / 5, rel=1e-4)
    assert (y0 - y15) / (y0 - y5) == pytest.approx(9 / 3, rel=1e-4)
    assert [bar / bars[0] for bar in bars] == pytest.approx([1, 2, 3], rel=1e-4)
    assert bars[0] / (y0 - y5) == pytest.approx(
        2 / 3, rel=1e-4
    )  # 1 down and 1 up, against 3 points of win rate


def test_the_same_numbers_give_the_same_bytes_in_another_process() -> None:
    program = (
        "import hashlib\nfrom neft_lab.figures import draw_figures\nfrom tests.report_cases import make_arms, make_comparison\n"
        "arms = make_arms(dataset=['a', 'b'], noise__alpha=[0, 5])\n"
        "comparisons = [make_comparison(arm.axes, 2, 1) for arm in arms]\n"
        "drawn = draw_figures(arms, comparisons, axis='noise.alpha', metrics=['win_rate', 'output_characters'])\n"
        "print(hashlib.sha256(b''.join(one.svg.encode() + one.pdf for one in drawn)).hexdigest(), len(drawn))"
    )  # fmt: skip
    told = [
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True,
                       env={"PYTHONHASHSEED": seed, "PATH": ""}, cwd=Path(__file__).parents[1]).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert told[0] == told[1]
    assert told[0].split()[1] == "4"


def test_files_hold_no_date(tmp_path: Path) -> None:
    figure = draw_alpha_curve(make_arms(noise__alpha=[0, 5]), "win_rate")
    write_figure(figure, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["win_rate_curve.pdf", "win_rate_curve.svg"]
    assert b"CreationDate" not in (tmp_path / "win_rate_curve.pdf").read_bytes()
    assert "date>" not in (tmp_path / "win_rate_curve.svg").read_text(encoding="utf-8")


def test_text_is_readable_at_the_width_of_a_column() -> None:
    drawn = draw_figures(make_arms(noise__alpha=[0, 5, 10, 15]), [], axis="noise.alpha", metrics=["win_rate"])
    width = float(re.search(r'<svg [^>]*width="([\d.]+)pt"', drawn[0].svg)[1])  # type: ignore[index]
    sizes = {float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", drawn[0].svg)}
    assert width == pytest.approx(3.35 * 72)
    assert min(sizes) >= 7


def test_names_on_the_axis_stand_side_by_side_and_are_not_joined() -> None:
    figure = draw_alpha_curve(make_arms(noise=["none", "uniform", "gaussian"]), "win_rate", axis="noise")
    assert {"none", "uniform", "gaussian"} <= set(texts(figure))
    (first, _), (second, _), (third, _) = markers(figure, BLUE)
    assert second - first == pytest.approx(third - second)
    assert not re.search(rf'd="M [^"]*L [^"]*L [^"]*" [^>]*stroke: {BLUE}', figure.svg)


def test_an_arm_without_a_value_leaves_a_gap() -> None:
    arms = make_arms(noise__alpha=[0, 5, 10])
    arms[1] = make_arm({"noise.alpha": 5}, {"win_rate": (float("nan"), 1.0)})
    assert len(markers(draw_alpha_curve(arms, "win_rate"), BLUE)) == 2


def test_a_large_grid_has_a_panel_per_model_and_one_legend() -> None:
    datasets = ["alpaca", "evol_instruct", "open_platypus", "sharegpt"]
    arms = make_arms(model=["opt", "llama1", "llama2"], dataset=datasets, noise__alpha=[0, 5, 10, 15])
    figure = draw_alpha_curve(arms, "win_rate")
    told = Counter(texts(figure))
    assert all(told[name] == 1 for name in ["opt", "llama1", "llama2", *datasets])
    assert figure.wide
    assert all(len(markers(figure, color)) >= 12 for color in PALETTE[:4])


def test_win_rate_against_length_names_the_points_of_a_single_line_only() -> None:
    single = draw_length_scatter(make_arms(noise__alpha=[0, 5, 11]))
    assert {"0", "5", "11"} <= set(texts(single))
    several = draw_length_scatter(make_arms(dataset=["a", "b"], noise__alpha=[0, 5, 11]))
    assert "11" not in texts(several)
    assert "Hollow: the smallest noise scale α." in several.caption


def test_task_bars_start_at_zero_and_keep_their_proportion() -> None:
    scores = {"mmlu": (20.0, 1.0), "arc_challenge": (40.0, 1.0)}
    figure = draw_task_bars([make_arm({"noise.alpha": 0}, scores)], ["mmlu", "arc_challenge"])
    found = re.findall(
        r'd="M ([\d.]+) ([\d.]+) \nL [\d.]+ [\d.]+ \nL [\d.]+ ([\d.]+) \n[^"]*z\n" [^>]*fill: #a9b1ba',
        figure.svg,
    )
    low, high = (float(bottom) - float(top) for _, bottom, top in found)
    assert high / low == pytest.approx(2, rel=1e-3)
    assert {"MMLU", "ARC-Challenge", "0"} <= set(texts(figure))


def test_the_forest_tells_every_difference_and_its_verdict() -> None:
    comparisons = [
        make_comparison({"noise.alpha": 5}, 5.2, 3.4, verdict="higher"),
        make_comparison({"noise.alpha": 10}, -4.1, 3.0, verdict="lower"),
        make_comparison({"noise.alpha": 15}, 0.3, 0.5, metric="mmlu", verdict="preserved"),
        make_comparison({"noise.alpha": 20}, 1.0, 3.0, about="checkpoints"),
    ]
    (figure,) = draw_forest(comparisons)
    told = texts(figure)
    assert {
        "5 [2, 9]   higher",
        "−4 [−7, −1]   lower",
        "0.3 [−0.2, 0.8]   preserved",
        "1 [−2, 4]   cannot tell apart",
    } <= set(told)
    assert {"α 5", "α 10", "α 15", "α 20", "Win rate, points", "MMLU, points"} <= set(told)
    assert [len(markers(figure, color)) for color in (BLUE, ORANGE, GREEN)] == [1, 1, 1]
    assert len(re.findall(rf"<use [^>]*fill: {PAPER}", figure.svg)) == 1


def test_a_forest_of_many_metrics_is_cut_into_pages() -> None:
    arms = [arm.axes for arm in make_arms(dataset=list("abcdefghi"), noise__alpha=[5, 10, 15, 20])]
    comparisons = [
        make_comparison(axes, 1, 2, metric=metric) for metric in ("win_rate", "mmlu") for axes in arms
    ]
    first, second = draw_forest(comparisons)
    assert (first.name, second.name) == ("differences_1", "differences_2")
    assert len([text for text in texts(first) if "cannot tell apart" in text]) == 36


def analysed(folder: Path, file: str, value: object, **metrics: float) -> list[Arm]:
    """Two arms whose analyze steps left the same file."""
    write_json(folder / file, value)
    rows = [
        CellResult(
            {"noise.alpha": alpha}, None, False, {}, None, folders={"analyze": folder}, metrics=metrics
        )
        for alpha in (0, 5)
    ]
    return [make_arm(row.axes, {}, rows=[row]) for row in rows]


def bars(figure: Figure) -> list[int]:
    """Rows that each histogram of the first colour counts."""
    outlines = re.findall(rf'd="(M [^"]*)" clip-path=[^>]*stroke: {BLUE}', figure.svg)
    heights = [_bar_heights(outline) for outline in outlines]
    unit = min(height for bars in heights for height in bars if height > 0.1)
    return [round(sum(bars) / unit) for bars in heights]


def test_loss_histograms_count_every_row_that_has_a_loss(tmp_path: Path) -> None:
    losses = {"train_rows": [0.5, None, 0.5, 0.6, 0.9], "held_out": [1.0, 1.2, 1.4, 1.4]}
    figure = draw_loss_histograms(analysed(tmp_path, "losses.json", losses))
    assert {"Training rows", "Held-out rows", "α 0", "α 5"} <= set(texts(figure))
    assert bars(figure) == [4, 4]


def test_likeness_histograms_count_every_answer(tmp_path: Path) -> None:
    answers = [{"rouge_l": 10.0 * place, "bleu": 5.0 * place} for place in range(6)]
    figure = draw_likeness_histograms(analysed(tmp_path, "training_answers.json", answers))
    assert {"ROUGE-L", "BLEU", "ROUGE-L F1 %", "BLEU %"} <= set(texts(figure))
    assert bars(figure) == [6, 6]


def test_flip_curves_lie_where_their_counts_say_and_mark_the_trainings_own_dose(tmp_path: Path) -> None:
    flips = {"alphas": [0.0, 1.0, 10.0, 100.0], "changed": [0, 10, 20, 80], "tokens": 200}
    arms = analysed(tmp_path, "flips.json", flips, equivalent_alpha=10.0, changed_token_share=10.0)
    figure = draw_flip_curves(arms)
    points = markers(figure, ORANGE)
    (x1, y5), (x10, y10), (x100, y40) = points[:3]
    assert x100 - x10 == pytest.approx(x10 - x1, rel=1e-3), "a logarithmic axis; alpha 0 has no place on it"
    assert (y5 - y40) / (y5 - y10) == pytest.approx(35 / 5, rel=1e-3)
    assert {"1", "10", "100"} <= set(texts(figure))
    hollow = re.findall(
        rf'<use [^>]*x="([\d.]+)" y="([\d.]+)" style="fill-opacity: 0; stroke: {ORANGE}', figure.svg
    )
    assert [(float(x), float(y)) for x, y in hollow] == [(pytest.approx(x10), pytest.approx(y10))]


def test_each_analysis_is_drawn_where_its_file_is(tmp_path: Path) -> None:
    flips = {"alphas": [1.0], "changed": [0], "tokens": 5}
    drawn = draw_figures(analysed(tmp_path, "flips.json", flips), [], axis="noise.alpha", metrics=[])
    assert [figure.name for figure in drawn] == ["flips"]


def _bar_heights(outline: str) -> list[float]:
    """Heights of the bars of a filled step outline, each told by its flat top."""
    points = [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", outline)]
    base = max(y for _, y in points)
    tops = [left[1] for left, right in pairwise(points) if left[1] == right[1] and right[0] > left[0]]
    return [base - top for top in tops]


def test_only_what_the_estimates_support_is_drawn() -> None:
    arms = make_arms(noise__alpha=[0, 5], metrics=["win_rate"])
    names = [
        one.name
        for one in draw_figures(
            arms, [], axis="noise.alpha", metrics=["win_rate", "output_characters"], tasks=["mmlu"]
        )
    ]
    assert names == ["win_rate_curve"]


def test_long_titles_of_panels_are_broken_to_their_width() -> None:
    title = "eos_masked, complete only False, longest None, temperature 0.7, best of 4"
    with open_canvas(PAGE, 2) as canvas:
        axes = make_panels(canvas, 1, 3)[0]
        set_title(axes, title)
        lines = axes.get_title(loc="left").split("\n")
    assert " ".join(lines) == title and len(lines) == 3
    assert max(map(len, lines)) <= 28  # letters of 0.08 inches on 2.3
