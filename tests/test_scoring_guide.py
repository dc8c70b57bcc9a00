"""The example of the guide, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from tests.task_files import arc_rows

GUIDE = Path(__file__).parents[1] / "docs" / "scoring.md"


def test_the_guides_example_runs_with_lm_evals_own_task_and_no_network(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    # a folder of the hub's name below the working directory stands for the hub
    place = tmp_path / "allenai" / "ai2_arc"
    (place / "ARC-Challenge").mkdir(parents=True)
    for split, count in (("train", 30), ("validation", 2), ("test", 3)):
        file = place / "ARC-Challenge" / f"{split}-00000-of-00001.parquet"
        Dataset.from_list(arc_rows(split, count)).to_parquet(str(file))
    place.joinpath("README.md").write_text(
        "---\nconfigs:\n- config_name: ARC-Challenge\n  data_files:\n"
        + "".join(
            f"  - split: {split}\n    path: ARC-Challenge/{split}-*\n"
            for split in ("train", "validation", "test")
        )
        + "---\n"
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example.replace("HuggingFaceTB/SmolLM2-135M-Instruct", str(tiny_llama)), names)
    assert 0 <= names["results"]["results"]["arc_challenge"]["acc_norm,none"] <= 1
    assert len(names["results"]["samples"]["arc_challenge"]) == 3
    assert names["lm"].tokens_computed > 0, "prefixes were not shared"
