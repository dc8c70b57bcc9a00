"""The leaderboard stage on made-up evaluation sets and a tiny model: scores, files, resuming, several devices."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from neft_lab.config import LeaderboardConfig, Precision, TaskConfig, TaskSource, UserError
from neft_lab.leaderboard import Asked, Examinee, answer_blocks, devices_of
from neft_lab.models import load_trained
from neft_lab.plan import expand, make_plan
from neft_lab.progress import Progress
from neft_lab.stages import Inputs, LeaderboardInputs
from neft_lab.stages import leaderboard as stage
from neft_lab.tasks.benchmarks import load_benchmark
from tests.task_files import write_folder, write_rows

TASKS = [
    TaskConfig("mmlu", 2, "acc", None, ["anatomy", "marketing"]),
    TaskConfig("arc_challenge", 3, "acc_norm", None, None),
    TaskConfig("hellaswag", 2, "acc_norm", 8, None),
    TaskConfig("truthfulqa_mc2", 0, "acc", None, None),
]


@pytest.fixture(scope="module")
def trained(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    (folder / "model").symlink_to(tiny_llama)
    return folder


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "sets")


def _config(
    sets: Path, tasks: list[TaskConfig] = TASKS, *, processes: int | None = None
) -> LeaderboardInputs:
    config = LeaderboardConfig("q", tasks, TaskSource.folder, str(sets), 512, None, Precision.fp32, processes)
    return LeaderboardInputs(config)


def _run(
    sets: Path,
    trained: Path,
    output: Path,
    *,
    listener: Callable[..., None] | None = None,
    processes: int | None = None,
) -> dict[str, float]:
    output.mkdir(exist_ok=True)
    config = _config(sets, processes=processes)
    progress = Progress(output, listener=listener)
    return stage.leaderboard(config, Inputs(device="cpu", train=trained), output, progress)


def _rows(output: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (output / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_scores_are_those_of_lm_eval_on_the_same_documents(sets: Path, trained: Path, tmp_path: Path) -> None:
    metrics = _run(sets, trained, tmp_path / "out")
    loaded = load_trained(trained, precision="fp32", device="cpu")
    manager = TaskManager(include_defaults=False)
    peer = HFLM(loaded.model, tokenizer=loaded.tokenizer, batch_size=4, softmax_dtype="float32")
    for asked in TASKS[1:]:
        benchmark = load_benchmark(asked, source=TaskSource.folder, folder=str(sets))
        tasks = [subtask.task for subtask in benchmark.subtasks]
        results = simple_evaluate(
            model=peer, tasks=tasks, limit=asked.limit, task_manager=manager, bootstrap_iters=0
        )
        found = results["results"][asked.task]
        assert metrics[asked.task] == pytest.approx(100 * found[f"{asked.metric},none"], abs=1e-3)


def test_mmlu_counts_subjects_alike_and_beside_it_documents_alike(
    sets: Path, trained: Path, tmp_path: Path
) -> None:
    metrics = _run(sets, trained, tmp_path / "out")
    correct: dict[str, list[float]] = {}
    for row in _rows(tmp_path / "out"):
        if row["benchmark"] == "mmlu":
            correct.setdefault(row["task"], []).append(row["correct"])
    anatomy, marketing = correct["mmlu_anatomy"], correct["mmlu_marketing"]
    assert (len(anatomy), len(marketing)) == (3, 6)
    assert metrics["mmlu"] == pytest.approx(100 * (sum(anatomy) / 3 + sum(marketing) / 6) / 2)
    assert metrics["mmlu_weighted"] == pytest.approx(100 * (sum(anatomy) + sum(marketing)) / 9)
    assert metrics["mmlu_n"] == 9


def test_every_document_is_kept_with_its_choices_and_log_likelihoods(
    sets: Path, trained: Path, tmp_path: Path
) -> None:
    metrics = _run(sets, trained, tmp_path / "out")
    rows = _rows(tmp_path / "out")
    assert len(rows) == 9 + 6 + 8 + 5
    row = next(row for row in rows if row["task"] == "arc_challenge")
    assert row["choices"] == [" number 0", " number 1", " number 2", " number 3"]
    assert row["lengths"] == [9, 9, 9, 9] and len(row["loglikelihoods"]) == 4 and row["gold"] == 0
    best = max(range(4), key=lambda place: row["loglikelihoods"][place] / 8)
    assert row["correct"] == row["metrics"]["acc_norm,none"] == float(best == 0)
    values = [row["correct"] for row in rows if row["task"] == "truthfulqa_mc2"]
    assert metrics["truthfulqa_mc2"] == pytest.approx(100 * sum(values) / len(values))
    assert (
        0 < metrics["truthfulqa_mc2_low"] < metrics["truthfulqa_mc2"] < metrics["truthfulqa_mc2_high"] < 100
    )


def test_results_tell_sources_digests_and_shots_that_are_not_the_leaderboards(
    sets: Path, trained: Path, tmp_path: Path
) -> None:
    _run(sets, trained, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    told = results["benchmarks"]["arc_challenge"]
    assert told["shots"] == "3 from validation, not comparable with the leaderboard"
    assert results["benchmarks"]["mmlu"]["shots"] == "2"
    source = told["tasks"]["arc_challenge"]
    assert source["source"] == "folder" and source["digest"].startswith("sha256:")
    assert str(sets) not in json.dumps(results), "where a file lies says nothing of what is in it"


def test_the_same_model_gives_the_same_bytes(sets: Path, trained: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        _run(sets, trained, tmp_path / name)
    for file in ("documents.jsonl", "results.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


def test_a_killed_run_goes_on_at_the_block_where_it_stopped(
    sets: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "BLOCK", 5)
    _run(sets, trained, tmp_path / "whole")

    def stop(done: int, total: int | None, unit: str) -> None:
        if done == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(sets, trained, tmp_path / "killed", listener=stop)
    with (tmp_path / "killed" / "answers.jsonl").open("a") as journal:
        journal.write('{"batch": 3, "values": [[[-1.0, tr')  # the line that the kill tore
    told: list[int] = []
    _run(sets, trained, tmp_path / "killed", listener=lambda done, total, unit: told.append(done))
    assert told == [15, 20, 25, 28]
    for file in ("documents.jsonl", "results.json"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert not (tmp_path / "killed" / "answers.jsonl").exists()


def test_two_processes_write_what_one_writes_and_either_goes_on_where_the_other_stopped(
    sets: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "BLOCK", 5)
    metrics = _run(sets, trained, tmp_path / "one")
    assert _run(sets, trained, tmp_path / "two", processes=2) == metrics

    def stop(done: int, total: int | None, unit: str) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    for name, first, then in (("fewer", 2, 1), ("more", 1, 2)):
        with pytest.raises(KeyboardInterrupt):
            _run(sets, trained, tmp_path / name, listener=stop, processes=first)
        told: list[int] = []
        _run(
            sets,
            trained,
            tmp_path / name,
            listener=lambda done, total, unit, told=told: told.append(done),
            processes=then,
        )
        assert told[0] >= 10 and told[-1] == 28
    for name in ("two", "fewer", "more"):
        for file in ("documents.jsonl", "results.json"):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "one" / file).read_bytes()


def test_a_scoring_process_that_is_killed_is_told_in_one_line(trained: Path) -> None:
    blocks = {number: [Asked("loglikelihood", ("Count to", f" {number}"))] for number in range(400)}
    answers = answer_blocks(Examinee(trained, "fp32", 256, None), blocks, devices=["cpu", "cpu"])
    before = {child.pid for child in multiprocessing.active_children()}
    next(answers)
    started = [child for child in multiprocessing.active_children() if child.pid not in before]
    started[0].kill()
    with pytest.raises(RuntimeError, match=r"one of 2 scoring processes was killed \(out of memory\?\)"):
        list(answers)
    started[1].join(timeout=30)
    assert not any(child.is_alive() for child in started)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices_of("cuda", None) == devices_of("cuda", 2) == ["cuda:0", "cuda:1"]
    assert devices_of("cpu", 3) == ["cpu"] * 3 and devices_of("cpu", None) == ["cpu"]
    with pytest.raises(UserError, match=r"leaderboard\.processes=4 needs as many GPUs, .* has 2"):
        devices_of("cuda", 4)


def test_the_number_of_processes_enters_no_key() -> None:
    plain, shared = (
        set(make_plan(["leaderboard=openllm_v1_quick", f"leaderboard.processes={number}"]).steps)
        for number in ("null", 2)
    )
    assert plain == shared


def test_answers_to_other_documents_are_not_taken_over(sets: Path, trained: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int | None, unit: str) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(sets, trained, tmp_path / "out", listener=stop)
    lines = (sets / "truthfulqa_mc.jsonl").read_text().replace("a number?", "an even number?")
    (sets / "truthfulqa_mc.jsonl").write_text(lines)
    told: list[int] = []
    _run(sets, trained, tmp_path / "out", listener=lambda done, total, unit: told.append(done))
    assert told[0] == 0


def test_a_task_without_data_is_a_hole_and_the_rest_is_scored(
    sets: Path, trained: Path, tmp_path: Path
) -> None:
    (sets / "truthfulqa_mc.jsonl").unlink()
    metrics = _run(sets, trained, tmp_path / "out")
    assert "truthfulqa_mc2" not in metrics and "arc_challenge" in metrics
    holes = json.loads((tmp_path / "out" / "results.json").read_text())["holes"]
    assert list(holes) == ["truthfulqa_mc2"]


def test_tasks_that_generate_or_take_whole_texts_are_scored_as_lm_eval_scores_them(
    sets: Path, trained: Path, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        rows = [{"question": f"{split} {n}+1?", "answer": f"Count.\n#### {n + 1}"} for n in range(4)]
        write_rows(sets / f"gsm8k_{split}.jsonl", rows)
    write_rows(sets / "wikitext_test.jsonl", [{"page": " = Ants = \n They 're small . " * n} for n in (1, 9)])
    tasks = [
        TaskConfig("gsm8k", 2, "exact_match,strict-match", None, None),
        TaskConfig("wikitext", 0, "word_perplexity", None, None),
    ]
    (tmp_path / "out").mkdir()
    inputs = Inputs(device="cpu", train=trained)
    metrics = stage.leaderboard(_config(sets, tasks), inputs, tmp_path / "out", Progress(tmp_path / "out"))
    loaded = load_trained(trained, precision="fp32", device="cpu")
    peer = HFLM(loaded.model, tokenizer=loaded.tokenizer, batch_size=1, softmax_dtype="float32")
    for asked in tasks:
        benchmark = load_benchmark(asked, source=TaskSource.folder, folder=str(sets))
        tasks_of = [subtask.task for subtask in benchmark.subtasks]
        manager = TaskManager(include_defaults=False)
        results = simple_evaluate(model=peer, tasks=tasks_of, task_manager=manager, bootstrap_iters=0)
        found = results["results"][asked.task]
        expected = found.get(asked.metric, found.get(f"{asked.metric},none"))
        scale = 100 if asked.task == "gsm8k" else 1
        assert metrics[asked.task] == pytest.approx(scale * expected, rel=1e-5)
    assert [row["task"] for row in _rows(tmp_path / "out")] == ["gsm8k"] * 4 + ["wikitext"] * 2


def test_the_whole_suite_has_the_shots_and_metrics_of_the_leaderboard() -> None:
    config = expand(["leaderboard=openllm_v1"])[0].config.leaderboard
    assert {one.task: (one.shots, one.metric, one.limit, one.subsets) for one in config.tasks} == {
        "arc_challenge": (25, "acc_norm", None, None),
        "hellaswag": (10, "acc_norm", None, None),
        "mmlu": (5, "acc", None, None),
        "truthfulqa_mc2": (0, "acc", None, None),
    }


def test_several_devices_give_the_answers_of_one(trained: Path) -> None:
    examinee = Examinee(trained, "fp32", 256, None)
    blocks = {
        number: [
            Asked("loglikelihood", (f"Count to {number}:", f" {word}"))
            for word in ("one", "two two", "three")
        ]
        for number in range(5)
    } | {9: [Asked("generate_until", ("Say more", {"until": ["."], "max_gen_toks": 4}), repeats=2)]}
    one = dict(answer_blocks(examinee, blocks, devices=["cpu"]))
    assert dict(answer_blocks(examinee, blocks, devices=["cpu", "cpu"])) == one
    assert len(one[9][0]) == 2


def test_a_stage_without_a_model_says_so(sets: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="add train to stages"):
        stage.leaderboard(_config(sets), Inputs(device="cpu"), tmp_path, Progress(tmp_path))
