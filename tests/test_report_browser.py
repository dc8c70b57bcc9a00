"""The report in a real browser: it opens clean, its reader filters and moves, and model text stays text."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neft_lab.claims.results import CellResult
from neft_lab.figures import draw_alpha_curve
from neft_lab.report import Report, write_report
from neft_lab.tables import Table
from tests.report_browser import CHROMIUM, FLAGS, Opened
from tests.report_cases import Asked, make_arms, make_cell, make_comparison, make_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")

QUESTIONS = [  # instruction, data set, answers and preferences at alpha 0, 5 and 15
    ("Name a colour", "lists", ("Red.", 1.1), ("Red or blue.", 1.8), ("Red, blue, green and more.", 1.9)),
    ("Count to three", "lists", ("One two three", 1.9), ("One two", 1.2), ("One", 1.0)),
    ("Say hello", "talk", ("Hello.", 1.7), ("Hello there.", 1.6), ("Hello, hello, hello, hello.", 1.4)),
    ("Say nothing", "talk", ("", 1.5), ("Nothing.", 1.5), ("Nothing at all, whatever.", None)),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


def small_sweep(folder: Path) -> list[CellResult]:
    cells = []
    for place, alpha in enumerate((0, 5, 15)):
        asked = [
            Asked(text, f"Reference: {text}.", *answers[place], dataset=dataset)
            for text, dataset, *answers in QUESTIONS
        ]
        baseline = {"noise.alpha": 0} if alpha else None
        cells.append(make_cell(folder / str(alpha), {"noise.alpha": alpha}, asked, baseline=baseline))
    return cells


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    figures = [draw_alpha_curve(make_arms(noise__alpha=[0, 5, 15]), "win_rate")]
    comparisons = [make_comparison({"noise.alpha": alpha}, 2.0, 3.0) for alpha in (5, 15)]
    table = Table("alpha_grid", ["alpha", "win rate %"], [["0", "40 [37, 43]"], ["5", "46 [43, 49]"]])
    report = make_report(small_sweep(folder), figures=figures, comparisons=comparisons, tables=[table])
    return write(report, folder)


def write(report: Report, folder: Path) -> Path:
    write_report(report, folder / "report.html")
    return folder / "report.html"


def test_it_opens_from_disk_without_an_error_and_asks_for_nothing(browser: Any, small: Path) -> None:
    opened = Opened(browser, small)
    assert opened.wrong == []
    assert opened.requests == [small.as_uri()]
    assert opened.shown() == ["Name a colour", "Count to three", "Say hello", "Say nothing"]
    assert opened.chosen() == ("Name a colour", "α 5")


def test_baseline_cell_and_reference_stand_side_by_side(browser: Any, small: Path) -> None:
    opened = Opened(browser, small)
    assert opened.tab.locator(".answer-of h4").all_text_contents() == ["α 0", "α 5", "Reference"]
    assert opened.tab.locator(".answer-of .model-text").all_text_contents() == [
        "Red.",
        "Red or blue.",
        "Reference: Name a colour.",
    ]
    chosen = opened.tab.text_content(".answer-of.chosen .numbers")
    assert "preferred to the reference" in chosen
    assert "probability 0.80" in chosen
    assert "12 characters" in chosen
    assert opened.tab.text_content("#summary") == "The verdict flips. 8 characters longer."


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        ("flips", ["Name a colour", "Count to three"]),
        ("won", ["Name a colour"]),
        ("lost", ["Count to three"]),
    ],
)
def test_flips_compare_the_verdicts_of_baseline_and_cell(
    browser: Any, small: Path, kind: str, kept: list[str]
) -> None:
    opened = Opened(browser, small)
    opened.tab.select_option("#flips", kind)
    assert opened.shown() == kept
    assert opened.tab.text_content("#found") == f"{len(kept)} of 4 instructions"


def test_a_missing_verdict_is_no_flip(browser: Any, small: Path) -> None:
    opened = Opened(browser, small)
    opened.to_reader()
    opened.press("l f")
    assert opened.shown() == ["Name a colour", "Count to three", "Say hello"]


def test_where_a_verdict_is_missing_nothing_is_said_of_flips(browser: Any, small: Path) -> None:
    opened = Opened(browser, small)
    opened.to_reader()
    opened.press("l j j j")
    assert opened.chosen() == ("Say nothing", "α 15")
    assert opened.tab.text_content("#summary") == "Not judged on both sides. 25 characters longer."


def test_search_reads_instructions_answers_and_references(browser: Any, small: Path) -> None:
    opened = Opened(browser, small)
    for words, kept in (
        ("THREE", ["Count to three"]),
        ("there", ["Say hello"]),
        ("reference: say", ["Say hello", "Say nothing"]),
    ):
        opened.tab.fill("#search", words)
        assert opened.shown() == kept
    opened.tab.fill("#search", "whatever")  # said at alpha 15, which is not shown
    assert opened.shown() == []
    assert opened.tab.text_content("#found") == "No instruction passes these filters."
    assert not opened.tab.is_visible("#open")
    assert opened.wrong == []


def test_data_set_and_longest_change_choose_and_sort(browser: Any, small: Path) -> None:
    opened = Opened(browser, small)
    opened.tab.select_option("#order", "change")
    assert opened.shown() == ["Name a colour", "Say nothing", "Count to three", "Say hello"]  # +8, +8, -6, +6
    opened.tab.select_option("#dataset", "talk")
    assert opened.shown() == ["Say nothing", "Say hello"]


def test_letters_move_between_instructions_and_cells(browser: Any, small: Path) -> None:
    opened = Opened(browser, small)
    opened.to_reader()
    opened.press("j j k l")
    assert opened.chosen() == ("Count to three", "α 15")
    opened.press("h h")
    assert opened.chosen() == ("Count to three", "α 0")
    assert opened.tab.text_content("#summary") == "α 0 is a baseline: others are compared with it."
    opened.press("k k k")
    assert opened.chosen()[0] == "Name a colour"


def test_slash_searches_and_escape_goes_back_to_the_list(browser: Any, small: Path) -> None:
    opened = Opened(browser, small)
    opened.to_reader()
    opened.press("/ h e l l o")
    assert opened.shown() == ["Say hello"]
    opened.press("Escape")
    assert len(opened.shown()) == 4
    opened.press("ArrowDown ArrowRight")
    assert opened.chosen() == ("Say nothing", "α 15")
    opened.press("Home")
    assert opened.chosen()[0] == "Name a colour"


def test_letter_keys_can_be_turned_off_and_rest_while_the_reader_is_out_of_view(
    browser: Any, small: Path
) -> None:
    opened = Opened(browser, small, viewport={"width": 1200, "height": 500})
    opened.press("j")
    assert opened.chosen()[0] == "Name a colour"
    opened.to_reader()
    opened.tab.uncheck("#letters")
    opened.press("j")
    assert opened.chosen()[0] == "Name a colour"


def test_differing_words_are_marked_on_demand(browser: Any, small: Path) -> None:
    opened = Opened(browser, small)
    opened.to_reader()
    assert opened.tab.locator("ins, del").count() == 0
    opened.press("d l")
    # Red . -> Red , blue , green and more . : the words between are new
    assert opened.tab.locator("ins").all_text_contents() == [", blue, green and more"]
    assert opened.tab.locator("del").count() == 0
    opened.press("j")
    assert opened.tab.locator("del").all_text_contents() == ["two three"]


@pytest.mark.parametrize(
    ("left", "right", "changed"),
    [
        ("the cat sat", "the dog sat", (["cat "], ["dog "])),
        ("a b c d", "b c d e", (["a "], ["e"])),
        ("", "all new", ([], ["all new"])),
        ("你好吗", "你好呀", (["吗"], ["呀"])),
        ("same  words", "same words", ([], [])),
    ],
)
def test_words_are_compared_by_their_longest_common_subsequence(
    browser: Any, small: Path, left: str, right: str, changed: tuple[list[str], list[str]]
) -> None:
    found = Opened(browser, small).tab.evaluate("([left, right]) => compareWords(left, right)", [left, right])
    assert (
        tuple([run["text"] for run in found[side] if run["changed"]] for side in ("left", "right")) == changed
    )
    assert "".join(run["text"] for run in found["right"]) == right


def test_another_cell_can_stand_in_for_the_baseline(browser: Any, small: Path) -> None:
    opened = Opened(browser, small)
    opened.tab.select_option("#beside", label="α 15")
    assert opened.tab.locator(".answer-of h4").all_text_contents() == ["α 15", "α 5", "Reference"]


def test_a_link_opens_the_answer_it_names(browser: Any, small: Path) -> None:
    opened = Opened(browser, small)
    opened.to_reader()
    opened.press("j j l")
    link = opened.tab.get_attribute("#link", "href")
    assert Opened(browser, small, fragment=link).chosen() == ("Say hello", "α 15")


def test_text_of_models_never_becomes_markup(browser: Any, tmp_path: Path) -> None:
    attack = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'><b>bold</b>"
    asked = [Asked(attack, attack, attack + " plain", 1.0, dataset=attack, hole=attack)]
    cells = [make_cell(tmp_path / "a", {"noise": "none"}, asked),
             make_cell(tmp_path / "b", {"noise": attack}, asked, baseline={"noise": "none"}, holes={"train": attack})]  # fmt: skip
    table = Table(attack, [attack], [[attack]], [attack])
    comparisons = [make_comparison({"noise": attack}, 1, 2, flags=[attack])]
    report = make_report(cells, tables=[table], comparisons=comparisons, question=attack, warnings=[attack])
    opened = Opened(browser, write(report, tmp_path))
    opened.to_reader()
    opened.press("d l h")
    opened.tab.fill("#search", "onerror")
    assert opened.tab.evaluate("window.pwned") is None
    assert opened.wrong == []
    assert opened.tab.locator("main img, main b").count() == 0
    assert opened.tab.text_content("#instruction") == attack
    assert opened.tab.locator(".answer-of.chosen .model-text").text_content() == attack + " plain"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_system_and_the_button(browser: Any, small: Path, scheme: str) -> None:
    opened = Opened(browser, small, color_scheme=scheme)
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(250, 249, 246)", "rgb(20, 23, 26)"
    assert opened.tab.evaluate(paper) == (light if scheme == "light" else dark)
    opened.tab.click("#theme")
    assert opened.tab.evaluate(paper) == (dark if scheme == "light" else light)


def test_a_narrow_window_does_not_scroll_sideways(browser: Any, small: Path) -> None:
    opened = Opened(browser, small, viewport={"width": 390, "height": 800})
    assert opened.tab.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_barrier_is_found_by_axe(browser: Any, small: Path, scheme: str) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
    )
    opened = Opened(browser, small, color_scheme=scheme, bypass_csp=True)
    opened.tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    opened.press("Tab")
    found = axe.Axe().run(opened.tab).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []


@pytest.mark.soak
def test_805_instructions_in_16_cells_open_within_three_seconds_and_stay_smooth(
    browser: Any, tmp_path: Path
) -> None:
    words = random.Random(0)
    vocabulary = ["".join(words.choices("abcdefghijklmnop", k=words.randint(2, 9))) for _ in range(5000)]
    cells = []
    for number in range(16):
        asked = [
            Asked(f"Instruction {row}", " ".join(words.choices(vocabulary, k=80)), " ".join(words.choices(vocabulary, k=180)),
                  round(words.uniform(1, 2), 3), dataset=f"set {row % 5}")
            for row in range(805)
        ]  # fmt: skip
        axes = {"dataset": number // 4, "noise.alpha": number % 4}
        baseline = {**axes, "noise.alpha": 0} if number % 4 else None
        cells.append(make_cell(tmp_path / str(number), axes, asked, baseline=baseline))
    path = write(make_report(cells), tmp_path)
    began = time.perf_counter()
    opened = Opened(browser, path)
    assert time.perf_counter() - began < 3
    opened.to_reader()
    opened.press("d")
    timed = """(keys) => keys.map((key) => {
        const began = performance.now();
        document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
        document.body.offsetHeight;
        return performance.now() - began;
    }).sort((a, b) => a - b)[Math.floor(keys.length / 2)]"""
    assert opened.tab.evaluate(timed, ["j"] * 50) < 50  # milliseconds, the median
    assert opened.tab.evaluate(timed, ["l"] * 15) < 100
    assert opened.chosen()[0] != "Instruction 0"
    assert opened.wrong == []
