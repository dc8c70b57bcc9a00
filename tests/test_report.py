"""What the report collects, and the file it becomes; how it behaves in a browser is in test_report_browser.py."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from neft_lab.claims.labels import short_labels
from neft_lab.claims.results import CellResult
from neft_lab.figures import draw_alpha_curve
from neft_lab.report import Report, write_report
from neft_lab.report.facts import collect_facts
from neft_lab.report.reader import collect_reader
from neft_lab.store import write_json
from neft_lab.tables import Table
from tests.report_cases import Asked, make_arms, make_cell, make_comparison, make_report

PLAIN = {"noise.alpha": 0, "seed": 0}
NOISY = {"noise.alpha": 5, "seed": 0}


class Page(HTMLParser):
    """The parts of a page that tests look at: its words, and the data its scripts read."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.data: dict[str, Any] = {}
        self.words = ""
        self._script: str | None = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self._script = (dict(attrs).get("id") or "") if tag in ("script", "style") else None

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    def handle_data(self, data: str) -> None:
        if self._script:
            self.data[self._script] = json.loads(data)
        elif self._script is None:
            self.words += data


def write(report: Report, folder: Path) -> Path:
    write_report(report, folder / "report.html")
    return folder / "report.html"


def two_cells(folder: Path, *, answer: str = "Blue, as far as I know.") -> list[CellResult]:
    plain = [
        Asked("Which colour?", "Blue.", "Red.", 1.2),
        Asked("How many?", "Three.", "Four.", None, hole="no verdict parsed"),
    ]
    noisy = [Asked("How many?", "Three.", "Three or so.", 1.5), Asked("Which colour?", "Blue.", answer, 1.9)]
    return [
        make_cell(folder / "plain", PLAIN, plain),
        make_cell(folder / "noisy", NOISY, noisy, baseline=PLAIN),
    ]


def test_answers_are_paired_by_instruction_whatever_their_order(tmp_path: Path) -> None:
    reader = collect_reader(two_cells(tmp_path))
    assert [one.text for one in reader.instructions] == ["Which colour?", "How many?"]
    plain, noisy = reader.cells
    assert [answer and answer.text for answer in noisy.answers] == ["Blue, as far as I know.", "Three or so."]
    assert (plain.baseline, noisy.baseline) == (None, 0)
    assert plain.answers[1] is not None
    assert (plain.answers[1].preference, plain.answers[1].hole) == (None, "no verdict parsed")


def test_an_instruction_asked_twice_is_shown_twice(tmp_path: Path) -> None:
    cell = make_cell(
        tmp_path, PLAIN, [Asked("Again?", "Yes.", "once", 1.0), Asked("Again?", "Yes.", "twice", 2.0)]
    )
    reader = collect_reader([cell])
    assert [answer and answer.text for answer in reader.cells[0].answers] == ["once", "twice"]


def test_references_of_two_judges_are_kept_apart(tmp_path: Path) -> None:
    cells = [make_cell(tmp_path / "a", PLAIN, [Asked("Q", "first reference", "x", 1.0)]),
             make_cell(tmp_path / "b", NOISY, [Asked("Q", "second reference", "y", 1.0)], baseline=PLAIN)]  # fmt: skip
    reader = collect_reader(cells)
    assert reader.instructions[0].references == ["first reference", "second reference"]
    assert [cell.answers[0] and cell.answers[0].reference for cell in reader.cells] == [0, 1]


def test_a_cell_that_was_not_judged_shows_its_bare_answers(tmp_path: Path) -> None:
    write_json(
        tmp_path / "outputs.json", [{"instruction": "Q", "output": "bare", "generator": "g", "dataset": "d"}]
    )
    cell = CellResult(PLAIN, None, False, {}, None, folders={"generate": tmp_path})
    nothing = CellResult(NOISY, PLAIN, False, {}, None, holes={"generate": "not run yet"})
    reader = collect_reader([cell, nothing])
    assert len(reader.cells) == 1
    answer = reader.cells[0].answers[0]
    assert answer is not None
    assert (answer.text, answer.preference, answer.reference) == ("bare", None, None)


def test_answers_that_were_not_judged_stand_beside_the_references_of_their_set(tmp_path: Path) -> None:
    write_json(tmp_path / "outputs.json", [{"instruction": text, "output": "bare"} for text in ("Q", "P")])
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"instruction": "P", "output": "right"}\n{"instruction": "Q"}\n', encoding="utf-8")
    record = {
        "sources": {
            "instructions": {"kind": "file", "location": str(asked), "revision": None, "digest": "sha256:1"}
        }
    }
    cell = CellResult(
        PLAIN, None, False, {}, None, folders={"generate": tmp_path}, records={"generate": record}
    )
    reader = collect_reader([cell])
    assert [one.references for one in reader.instructions] == [[], ["right"]]
    assert [answer and answer.reference for answer in reader.cells[0].answers] == [None, 0]
    asked.unlink()
    assert collect_reader([cell]).instructions[1].references == []


def test_length_and_repetition_are_those_of_the_whole_answer(tmp_path: Path) -> None:
    words = "the cat sat on the mat and the cat sat on the rug"
    reader = collect_reader(
        [make_cell(tmp_path, PLAIN, [Asked("Q", "r", words, 1.0), Asked("P", "r", "naïve 🙂", 1.0)])]
    )
    first, second = reader.cells[0].answers
    assert first is not None and second is not None
    assert first.characters == 49
    # the-cat, cat-sat, sat-on and on-the come back; the paper's code counts 11 of the 12 pairs
    assert first.repetition == pytest.approx(100 * 4 / 11)
    assert (second.characters, second.repetition) == (7, None)


def test_families_are_a_baseline_with_its_arms(tmp_path: Path) -> None:
    cells = []
    for dataset in ("alpaca", "sharegpt"):
        for alpha in (0, 5):
            axes = {"dataset": dataset, "noise.alpha": alpha, "seed": 0}
            baseline = {**axes, "noise.alpha": 0} if alpha else None
            cells.append(
                make_cell(
                    tmp_path / f"{dataset}{alpha}", axes, [Asked("Q", "r", "x", 1.0)], baseline=baseline
                )
            )
    found = [(cell.family, cell.name, cell.label) for cell in collect_reader(cells).cells]
    assert found[1] == ("alpaca", "α 5", "alpaca, α 5")
    assert found[2] == ("sharegpt", "α 0", "sharegpt, α 0")


def test_labels_name_only_what_varies() -> None:
    points = [{"model": "opt", "noise.alpha": 0, "seed": 0}, {"model": "opt", "noise.alpha": 5.0, "seed": 1}]
    assert short_labels(points) == ["α 0, seed 0", "α 5, seed 1"]
    assert short_labels(points[:1]) == ["run"]


def test_shared_steps_are_counted_once_and_folders_stay_out(tmp_path: Path) -> None:
    plain, noisy = two_cells(tmp_path)
    shared = CellResult(**{**noisy.__dict__, "keys": {**noisy.keys, "train": plain.keys["train"]}})
    facts = collect_facts([plain, shared])
    assert facts.seconds == {"train": 61.0, "judge": 14.5}
    assert [origin.location for origin in facts.provenance.origins] == ["tiny (folder)"] * 2
    assert facts.doses[1].mean_noise_norm == pytest.approx(2.88675, rel=1e-5)


def test_the_page_says_question_answer_holes_dose_cost_and_provenance(tmp_path: Path) -> None:
    hole = {"leaderboard": "TruthfulQA is neither on the hub nor in leaderboard.folder"}
    cells = [make_cell(tmp_path / "a", PLAIN, [Asked("Q", "r", "x", 1.0)], holes=hole)]
    table = Table(
        "alpha_grid",
        ["alpha", "win rate %"],
        [["0", "40 [37, 43]"], ["5", "46 [43, 49] †"]],
        ["One seed per arm."],
    )
    comparisons = [
        make_comparison(NOISY, 5.2, 3.4, verdict="higher", flags=["3 of 805 items lack a score in some arm"])
    ]
    figures = [draw_alpha_curve(make_arms(noise__alpha=[0, 5]), "win_rate")]
    report = make_report(
        cells,
        tables=[table],
        figures=figures,
        comparisons=comparisons,
        warnings=["The judge is not validated."],
    )
    words = Page(write(report, tmp_path)).words
    for said in (
        report.question, report.answer, report.detectable, report.command, "The judge is not validated.", hole["leaderboard"],
        "46 [43, 49] †", "One seed per arm.", "5 [2, 9]", "3 of 805 items lack a score in some arm", "1 min 01 s", "7.2 s",
        "d300b2f", "cpu on x86_64, python 3.11.7, torch 2.13.0, transformers 5.23.0", "noise scale α", "numpy",
    ):  # fmt: skip
        assert said in words, said
    assert "/home/somebody" not in words


def test_p_values_are_headed_by_their_own_correction(tmp_path: Path) -> None:
    holm = make_comparison(NOISY, 5.2, 3.4, verdict="higher")
    for correction, head, note in (
        ("Holm", "p (Holm)", "Holm over 3 comparisons of the primary metric"),
        (
            "Benjamini-Hochberg",
            "p (Benjamini-Hochberg)",
            "Exploratory: Benjamini-Hochberg over 3 comparisons",
        ),
    ):
        one = replace(holm, correction=correction, family=3)
        words = Page(write(make_report(two_cells(tmp_path / correction), comparisons=[one]), tmp_path)).words
        assert head in words and note in words


def test_steps_without_a_device_do_not_count_where_others_have_one(tmp_path: Path) -> None:
    plain, noisy = two_cells(tmp_path)
    plain.records["judge"]["environment"] = plain.records["judge"]["environment"] | {"device": "none"}
    told = collect_facts([plain, noisy]).provenance.environments
    assert told == ["cpu on x86_64, python 3.11.7, torch 2.13.0, transformers 5.23.0"]


def test_the_dose_shows_the_tokens_it_changed_where_that_was_looked_up(tmp_path: Path) -> None:
    plain, noisy = two_cells(tmp_path)
    noisy.metrics["changed_token_share"] = 1.5625
    words = Page(write(make_report([plain, noisy]), tmp_path)).words
    assert "1.56 %" in words and "tokens changed" in words
    assert [dose.changed_token_share for dose in collect_facts([plain, noisy]).doses] == [None, 1.5625]


def test_dollars_are_told_where_a_judge_was_paid_each_step_once(tmp_path: Path) -> None:
    plain, noisy = two_cells(tmp_path)
    assert "judge paid" not in Page(write(make_report([plain, noisy]), tmp_path)).words
    for cell, usd in ((plain, 1.25), (noisy, 2.5)):
        cell.records["judge"]["metrics"] = {"judge_usd": usd}
    words = Page(write(make_report([plain, noisy]), tmp_path)).words
    assert all(told in words for told in ("judge paid", "$1.25", "$2.50", "$3.75"))


def test_a_commit_that_was_found_behind_an_unpinned_source_is_its_provenance(tmp_path: Path) -> None:
    cell = two_cells(tmp_path)[0]
    source = {"kind": "hub", "location": "somebody/set", "revision": None, "digest": None}
    cell.records["train"] |= {"sources": {"dataset": source}, "resolved": {"revisions": {"dataset": "4f1c"}}}
    (origin, *_) = collect_facts([cell]).provenance.origins
    assert (origin.location, origin.content) == ("somebody/set (hub)", "4f1c")


def test_bold_and_verdicts_of_a_table_are_told_in_the_page(tmp_path: Path) -> None:
    ours = Table("alpha_grid", ["alpha", "win rate %"], [["0", "40 [37, 43]"], ["5", "46 [43, 49]"]],
                 strong=frozenset({(1, 1)}))  # fmt: skip
    paper = Table("Table 1", ["cell", "paper", "ours", "verdict"], [["alpaca", "34.90", "6 [1, 9]", "outside"]],
                  ["The judge is another one."])  # fmt: skip
    report = make_report(two_cells(tmp_path), tables=[ours], paper=[paper])
    text = write(report, tmp_path).read_text(encoding="utf-8")
    assert re.findall(r"<strong>([^<]*\[[^<]*)</strong>", text) == ["46 [43, 49]"]
    assert '<td class="tone-down"><span class="verdict">outside</span></td>' in text
    assert "The paper beside ours" in text and "The judge is another one." in text


def test_equal_reports_are_equal_files(tmp_path: Path) -> None:
    pages = []
    for name in ("one", "two"):
        figures = [draw_alpha_curve(make_arms(noise__alpha=[0, 5]), "win_rate")]
        pages.append(
            write(make_report(two_cells(tmp_path / name), figures=figures), tmp_path / name).read_bytes()
        )
    assert pages[0] == pages[1]


def test_the_file_asks_for_nothing_outside_itself(tmp_path: Path) -> None:
    figures = [draw_alpha_curve(make_arms(noise__alpha=[0, 5]), "win_rate")]
    text = write(make_report(two_cells(tmp_path), figures=figures), tmp_path).read_text(encoding="utf-8")
    addresses = set(re.findall(r"https?://[^\"'\s<]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"@import|<link|<img|<iframe|\bfetch\(|url\((?!#)", text)


def test_ids_are_not_repeated_among_figures(tmp_path: Path) -> None:
    figures = [draw_alpha_curve(make_arms(noise__alpha=[0, 5]), "win_rate") for _ in range(2)]
    text = write(make_report(two_cells(tmp_path), figures=figures), tmp_path).read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    "answer",
    [
        "</script><script>alert(1)</script>",
        "<!-- <script>",
        "]]>&amp;\u2028\u2029",
        "quote \" and ' and \\",
        "\x00\x1f",
        "🙂 naïve 漢字",
    ],
)
def test_any_text_comes_back_from_the_page_as_it_was(tmp_path: Path, answer: str) -> None:
    page = Page(write(make_report(two_cells(tmp_path, answer=answer)), tmp_path))
    assert page.data["answers-1"][0] == answer
    assert answer not in page.words


def test_half_a_surrogate_pair_does_not_stop_the_report(tmp_path: Path) -> None:
    (tmp_path / "cell").mkdir()
    row = {"instruction": "Q", "output_1": "r", "output_2": "broken \ud83d here", "preference": 1.0}
    (tmp_path / "cell" / "annotations.json").write_text(json.dumps([row]), encoding="utf-8")
    cell = CellResult(PLAIN, None, False, {}, None, folders={"judge": tmp_path / "cell"})
    assert Page(write(make_report([cell]), tmp_path)).data["answers-0"] == ["broken ? here"]


def test_a_sweep_without_a_single_result_still_has_a_page(tmp_path: Path) -> None:
    cell = CellResult(
        PLAIN, None, False, {"train": "0" * 12}, None, holes={"train": "no space left on the disk"}
    )
    words = Page(write(make_report([cell]), tmp_path)).words
    assert "no space left on the disk" in words
    assert "Answers side by side" not in words
