"""AlpacaEval 2's published difficulties: by instruction, whatever the order, and equal to alpaca_eval's own result."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neft_lab.judging.hub_difficulty import JUDGE, REFERENCE, find_published
from neft_lab.judging.pairs import Pair, Verdict
from neft_lab.judging.summary import summarise

COUNT = 120


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hub's two files for 120 instructions: difficulties, and two gamed baselines."""
    folder = tmp_path_factory.mktemp("hub")
    generator = np.random.default_rng(0)
    difficulty = generator.normal(size=COUNT)
    (folder / "alpaca_eval.json").write_text(json.dumps([{"instruction": f"i{n}"} for n in range(COUNT)]))
    with (folder / "df_gamed.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        names = [
            "model",
            "preference",
            "index",
            "std_delta_len",
            "instruction_difficulty",
            "not_gamed_baseline",
        ]
        writer.writerow(names)
        for model, shift in (("concise", 1.0), ("verbose", -1.0)):
            for item in range(COUNT):
                length = generator.normal() + shift
                preference = 1 / (1 + np.exp(-0.5 * difficulty[item] + np.tanh(length)))
                writer.writerow([model, preference, item, length, difficulty[item], False])
    return folder


def _verdicts() -> tuple[list[Pair], list[Verdict]]:
    generator = np.random.default_rng(1)
    pairs = [
        Pair(f"i{n}", "r" * int(generator.integers(5, 400)), "o" * int(generator.integers(5, 800)), REFERENCE)
        for n in range(COUNT)
    ]
    verdicts = [
        Verdict(
            float(np.clip(1.5 + (len(p.output) - len(p.reference)) / 2000 + generator.normal() * 0.2, 1, 2))
        )
        for p in pairs
    ]
    return pairs, verdicts


def _theirs(pairs: list[Pair], verdicts: list[Verdict], hub: Path, monkeypatch: pytest.MonkeyPatch) -> float:
    from neft_lab.judging import alpaca

    alpaca.parsers()
    import pandas
    from alpaca_eval.metrics import glm_winrate

    monkeypatch.setattr(glm_winrate, "hf_hub_download", lambda filename, **_: hub / filename)
    frame = pandas.DataFrame(
        {
            "output_1": [pair.reference for pair in pairs],
            "output_2": [pair.output for pair in pairs],
            "preference": [verdict.preference for verdict in verdicts],
            "generator_1": REFERENCE,
            "generator_2": "m",
            "annotator": JUDGE,
        }
    )
    found: dict[str, Any] = glm_winrate.get_length_controlled_winrate(frame, save_weights_dir=None)
    return float(found["length_controlled_winrate"])


@pytest.mark.filterwarnings("ignore")
def test_the_controlled_win_rate_equals_alpaca_evals_own(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sklearn

    before = sklearn.get_config()
    pairs, verdicts = _verdicts()
    metrics, facts = summarise(pairs, verdicts, evaluator=JUDGE, hub=hub)
    try:
        theirs = _theirs(pairs, verdicts, hub, monkeypatch)
    finally:
        sklearn.set_config(**before)
    assert metrics["length_controlled_win_rate"] == pytest.approx(theirs, abs=1e-6)
    assert facts["length_control"]["difficulty"] == "given"


def test_difficulties_follow_the_instruction_and_not_the_row(hub: Path) -> None:
    places = random.Random(2).sample(range(COUNT), 40)
    found = find_published(
        [f"i{n}" for n in places], evaluator=JUDGE, reference_generators={REFERENCE}, folder=hub
    )
    whole = find_published(
        [f"i{n}" for n in range(COUNT)], evaluator=JUDGE, reference_generators={REFERENCE}, folder=hub
    )
    assert found is not None and whole is not None
    assert found.difficulty.values.tolist() == whole.difficulty.values[places].tolist()
    assert len(found.gamed.scores) == 80
    rows = found.gamed.items
    assert found.gamed.difficulty.tolist() == found.difficulty.values[rows].tolist()


@pytest.mark.parametrize(
    ("evaluator", "reference", "instruction"),
    [("alpaca_eval_gpt4", REFERENCE, "i0"), (JUDGE, "text_davinci_003", "i0"), (JUDGE, REFERENCE, "unknown")],
)
def test_with_another_judge_reference_or_instruction_they_do_not_apply(
    hub: Path, evaluator: str, reference: str, instruction: str
) -> None:
    found = find_published([instruction], evaluator=evaluator, reference_generators={reference}, folder=hub)
    assert found is None


def test_without_them_the_facts_say_that_length_control_had_no_difficulties() -> None:
    pairs, verdicts = _verdicts()
    metrics, facts = summarise(pairs, verdicts, evaluator="local")
    assert facts["length_control"] == {"difficulty": "none", "extrapolates": False}
    assert (
        0 < metrics["length_controlled_win_rate"] < 100 and metrics["length_controlled_win_rate_n"] == COUNT
    )


def test_outputs_that_are_nearly_all_longer_are_flagged_as_extrapolation() -> None:
    pairs = [Pair(f"i{n}", "r" * 10, "o" * (50 + n)) for n in range(60)]
    _, facts = summarise(pairs, [Verdict(1.0 + n % 2) for n in range(60)], evaluator="local")
    assert facts["length_control"]["extrapolates"]


def test_a_reference_judged_against_itself_is_at_fifty() -> None:
    pairs = [Pair(f"i{n}", "same", "same") for n in range(40)]
    metrics, _ = summarise(pairs, [Verdict(1.5)] * 40, evaluator="local")
    assert metrics["win_rate"] == 50.0
    assert metrics["length_controlled_win_rate"] == pytest.approx(50.0)
