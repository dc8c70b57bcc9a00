"""The authors' public outputs and verdicts: found, fetched, and giving the numbers that were published of them."""

from __future__ import annotations

import csv
from collections import Counter
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from neft_lab.config import UserError
from neft_lab.paper.public import fetch_public, main, public_files
from neft_lab.plan import expand
from neft_lab.plan.published import NAMES
from neft_lab.run import main as run
from tests.loopback import serve

PUBLISHED = Path(__file__).parents[1].parent / "shared" / "data" / "alpaca_eval"
needs_published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="AlpacaEval's published files are not here"
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """paper.csv of the two public LLaMA-1 models; the folder has no files of the others."""
    results = tmp_path_factory.mktemp("published")
    asked = ["+sweep=paper_published", "model=llama1_7b", f"paper.published={PUBLISHED}"]
    assert run([*asked, f"results_dir={results}", "tracker=none"]) == 0
    with (results / "sweeps" / "paper_published" / "paper.csv").open(encoding="utf-8", newline="") as file:
        return [
            row for row in csv.DictReader(file) if row["model"] == "llama1_7b" and row["judge"] != "chatgpt"
        ]


def find(
    rows: list[dict[str, str]], artifact: str, method: str, metric: str, variant: str = ""
) -> dict[str, str]:
    (row,) = [row for row in rows if (row["artifact"], row["method"], row["metric"], row["variant"])
              == (artifact, method, metric, variant)]  # fmt: skip
    return row


@needs_published
def test_every_number_of_the_public_files_comes_out_to_the_last_digit(rows: list[dict[str, str]]) -> None:
    """All but the length-controlled win rate, which needs AlpacaEval's instruction difficulties from the hub."""
    verdicts = Counter((row["metric"] == "win_rate_lc", row["verdict"]) for row in rows)
    assert verdicts[False, "same"] == 50 and not verdicts[False, "differs"]
    assert sum(verdicts.values()) == 52


KNOWN = [
    ("alpaca_eval_1", "neftune", "win_rate", 61.643836),
    ("alpaca_eval_1", "neftune", "win_rate_se", 1.717020),
    ("alpaca_eval_1", "sft", "win_rate", 26.459627),
    ("table4_check", "neftune", "mean_chars", 1067.4957),
    ("table4_check", "neftune", "rep2_pct", 1.41908),
    ("table4_check", "neftune", "log_diversity", 16.45439),
    ("table4_check", "neftune", "log_diversity_intended", 15.11847),
    ("table4_check", "neftune", "n_at_cap", 538),
    ("table4_check", "sft", "mean_whitespace_tokens", 66.0609),
    ("table4_check", "sft", "log_diversity", 11.05396),
]
"""Recomputed once from the public files with other code."""


@needs_published
@pytest.mark.parametrize(("artifact", "method", "metric", "value"), KNOWN)
def test_known_answers(
    artifact: str, method: str, metric: str, value: float, rows: list[dict[str, str]]
) -> None:
    assert float(find(rows, artifact, method, metric)["ours"]) == pytest.approx(value, abs=6e-5)


@needs_published
def test_the_raw_effect_is_large_and_the_length_controlled_one_is_not(rows: list[dict[str, str]]) -> None:
    """Published: 61.64 - 26.46 = 35.18 raw, 31.61 - 26.29 = 5.32 at equal length."""
    raw = find(rows, "alpaca_eval_1", "neftune", "win_rate")
    controlled = find(rows, "alpaca_eval_1", "neftune", "win_rate_lc")
    assert float(raw["effect_ours"]) == pytest.approx(
        35.18, abs=0.1
    )  # two instructions have no verdict in one arm
    assert float(controlled["effect_paper"]) == pytest.approx(5.32, abs=0.01)
    assert float(controlled["effect_ours_low"]) < 5.32 < float(controlled["effect_ours_high"])
    assert float(controlled["effect_ours_high"]) < 15


@needs_published
def test_win_rate_goes_with_the_answer_s_length(rows: list[dict[str, str]]) -> None:
    short = find(rows, "length_split", "neftune", "win_rate", "chars=0-300")
    long = find(rows, "length_split", "neftune", "win_rate", "chars=1000-2000")
    assert (float(short["ours"]), float(long["ours"])) == pytest.approx((23.0769, 76.1905), abs=1e-4)


@needs_published
def test_the_public_baseline_is_said_to_be_another_model_decoded_differently(
    rows: list[dict[str, str]],
) -> None:
    told = "another model than the paper's baseline and decoded differently"
    for method in ("sft", "neftune"):
        assert told in find(rows, "alpaca_eval_1", method, "win_rate")["differences"]


def test_files_are_found_in_a_checkout_and_side_by_side(tmp_path: Path) -> None:
    checkout, flat = tmp_path / "checkout", tmp_path / "flat"
    for path in public_files():
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout / path).write_text("[]")
    flat.mkdir()
    for name in NAMES.values():
        (flat / f"{name}.json").write_text("[]")
        (flat / f"{name}.alpaca_eval_gpt4.annotations.json").write_text("[]")
    for folder, ending in (
        (checkout, "results/alpaca-7b-neft/model_outputs.json"),
        (flat, "alpaca-7b-neft.json"),
    ):
        cells = expand(["+sweep=paper_published", f"paper.published={folder}"])
        outputs = {cell.axes["noise.alpha"]: cell.config.generation.outputs for cell in cells[:2]}
        assert len(cells) == 4 and outputs[10] == str(folder / ending)


def test_without_a_folder_the_remedy_is_told() -> None:
    with pytest.raises(
        UserError, match=r"paper.published must name a folder .*python -m neft_lab.paper.public DIR"
    ):
        expand(["+sweep=paper_published"])


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"lacks results/alpaca-7b/model_outputs.json and results/alpaca-7b/alpaca_eval_"
    ):
        expand(["+sweep=paper_published", f"paper.published={tmp_path}"])


def test_a_cell_that_nothing_public_belongs_to_is_refused(tmp_path: Path) -> None:
    asked = [
        "generation=file",
        "generation.outputs=published",
        f"paper.published={tmp_path}",
        "stages=[generate]",
    ]
    with pytest.raises(
        UserError, match=r"nothing public belongs to model=opt_6_7b, dataset=alpaca, noise.alpha=5"
    ):
        expand([*asked, "model=opt_6_7b", "dataset=alpaca", "judge=none"])


class Repository(BaseHTTPRequestHandler):
    """Answers every path with itself, and counts."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, format: str, *values: object) -> None:
        """Quiet."""


def test_only_files_that_are_missing_are_fetched(tmp_path: Path) -> None:
    first = tmp_path / "results/alpaca-7b/model_outputs.json"
    first.parent.mkdir(parents=True)
    first.write_text("mine")
    asked: list[str] = []
    with serve(Repository, asked=asked) as address:
        fetched = fetch_public(tmp_path, address=address)
        assert fetch_public(tmp_path, address=address) == []
    assert len(asked) == len(fetched) == 7
    assert first.read_text() == "mine"
    assert (
        (tmp_path / "results/llama-2-7b-chat-hf/alpaca_eval_gpt4/annotations.json")
        .read_text()
        .startswith("/results/")
    )


def test_a_repository_that_cannot_be_reached_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "neft_lab.paper.public.fetch_public.__kwdefaults__", {"address": "http://127.0.0.1:9"}
    )
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main([]) == 2
