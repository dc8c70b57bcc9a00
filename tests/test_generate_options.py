"""Ways of decoding: sampling with a stream per answer, length limits and length tricks, the paper's options."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from neft_lab.config import GenerationConfig, UserError
from neft_lab.decoding import RowSampler, row_seed
from neft_lab.execute import freeze
from neft_lab.plan import expand, make_plan
from neft_lab.prompts import ALPACA
from neft_lab.step import run_step
from neft_lab.store import Store, read_json
from tests.steps import run_stages

COUNT = 6
QUICK = ["judge=none", "leaderboard=none", "analysis=none", "tracker=none"]
SAMPLED = ["generation.temperature=0.9", "generation.top_p=0.8"]


def overrides(model: Path, *more: str) -> list[str]:
    return ["model=local", f"model.path={model}", "finetune=none", "stages=[train,generate]", f"generation.limit={COUNT}",
            "generation.max_new_tokens=16", "generation.max_prompt_tokens=300", "generation.token_budget=1300", *more]  # fmt: skip


def answers(model: Path, folder: Path, *more: str) -> list[str]:
    generated = run_stages(overrides(model, *more), folder)["generate"]
    return [row["output"] for row in read_json(generated / "outputs.json")]


def generation(*more: str) -> GenerationConfig:
    return expand([*more, *QUICK])[0].config.generation


@pytest.fixture(scope="module")
def soon_done(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model most of whose tokens end an answer."""
    folder = shutil.copytree(tiny_llama, tmp_path_factory.mktemp("models") / "soon_done")
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text()) | {"eos_token_id": list(range(4, 300))}
    path.write_text(json.dumps(settings))
    return folder


def test_random_numbers_of_a_row_choose_as_often_as_the_softmax_says() -> None:
    """20,000 draws; chi-square with two degrees of freedom is below 13.8 in 999 of 1,000 cases."""
    scores = torch.tensor([[2.0, 1.0, 0.0, -torch.inf]])
    sampler = RowSampler([5], "cpu")
    drawn = Counter(int(sampler(torch.empty(0), scores).argmax()) for _ in range(20_000))
    expected = [20_000 * share for share in (0.665241, 0.244728, 0.090031)]  # e^2, e, 1 over their sum
    assert set(drawn) == {0, 1, 2}, "what top p took away is never drawn"
    assert sum((drawn[token] - count) ** 2 / count for token, count in enumerate(expected)) < 13.8


def test_a_row_draws_the_same_whatever_its_batch_mates() -> None:
    scores = torch.zeros(3, 50)
    together = RowSampler([1, 2, 3], "cpu")(torch.empty(0), scores)
    assert torch.equal(RowSampler([2], "cpu")(torch.empty(0), scores[1:2])[0], together[1])


def test_every_sample_of_every_row_has_a_seed_of_its_own() -> None:
    seeds = {row_seed(seed, row, draw) for seed in range(3) for row in range(50) for draw in range(4)}
    assert len(seeds) == 600


def test_sampled_answers_depend_on_the_seed_and_on_nothing_else(tiny_llama: Path, tmp_path: Path) -> None:
    first = answers(tiny_llama, tmp_path / "a", *SAMPLED)
    other_batches = answers(tiny_llama, tmp_path / "b", *SAMPLED, "generation.token_budget=400")
    other_seed = answers(tiny_llama, tmp_path / "c", *SAMPLED, "generation.seed=1")
    assert first == other_batches
    assert all(one != two for one, two in zip(first, other_seed, strict=True))


class Stopped(KeyboardInterrupt):
    """The user's Ctrl-C, at a chosen moment."""


def test_sampling_that_was_stopped_goes_on_to_the_same_answers(tiny_llama: Path, tmp_path: Path) -> None:
    chosen = [*SAMPLED, "generation.best_of=2"]
    wanted = answers(tiny_llama, tmp_path / "whole", *chosen)
    store = Store(tmp_path / "stopped")
    plan = make_plan([*overrides(tiny_llama, *chosen), *QUICK])
    train, generate = plan.steps.values()
    for step in (train, generate):
        freeze(step, store)
    run_step(store, train.stage, train.key)

    def stop(done: int, total: int | None, unit: str) -> None:
        if done >= 6:
            raise Stopped

    with pytest.raises(Stopped):
        run_step(store, generate.stage, generate.key, listener=stop)
    folder = run_step(store, generate.stage, generate.key)
    assert [row["output"] for row in read_json(folder / "outputs.json")] == wanted


def test_best_of_n_keeps_the_longest_of_the_answers_that_it_draws(tiny_llama: Path, tmp_path: Path) -> None:
    """The first draw is that of a single answer, so the longest of four is never shorter."""
    one = answers(tiny_llama, tmp_path / "one", *SAMPLED)
    two = answers(tiny_llama, tmp_path / "two", *SAMPLED, "generation.best_of=2")
    four = answers(tiny_llama, tmp_path / "four", *SAMPLED, "generation.best_of=4")
    lengths = [list(map(len, texts)) for texts in (one, two, four)]
    assert all(a <= b <= c for a, b, c in zip(*lengths, strict=True))
    assert sum(lengths[2]) > sum(lengths[0])
    assert all(chosen in (single, longer) or len(longer) > len(single)
               for chosen, single, longer in zip(two, one, two, strict=True))  # fmt: skip


def test_no_answer_ends_before_min_new_tokens(soon_done: Path, tmp_path: Path) -> None:
    def tokens(*more: str) -> float:
        folder = run_stages(overrides(soon_done, *more), tmp_path / str(len(more)))["generate"]
        found: float = read_json(folder / "record.json")["metrics"]["output_tokens"]
        return found

    assert tokens() < 8
    assert tokens("generation.min_new_tokens=8") >= 8


def test_prompt_and_answer_share_max_total_tokens(tiny_llama: Path, tmp_path: Path) -> None:
    """Each answer alone, by transformers' max_length, which counts the prompt too."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    more = ["generation.max_prompt_tokens=225", "generation.max_total_tokens=230"]
    folder = run_stages(overrides(tiny_llama, *more), tmp_path)["generate"]
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    lengths = set()
    for row in read_json(folder / "outputs.json"):
        ids = torch.tensor(
            [tokenizer(ALPACA.replace("{instruction}", row["instruction"]) + "\n")["input_ids"][-225:]]
        )
        longest = min(230, ids.shape[1] + 16)
        told = model.generate(ids, attention_mask=torch.ones_like(ids), max_length=longest, repetition_penalty=1.2,
                              do_sample=False)  # fmt: skip
        assert row["output"] == tokenizer.decode(told[0, ids.shape[1] :], skip_special_tokens=True).strip()
        lengths.add(longest - ids.shape[1])
    assert min(lengths) < 16, "some prompts leave less room than max_new_tokens"


def test_a_meta_prompt_stands_on_a_line_of_its_own_after_the_instruction(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    from transformers import PreTrainedTokenizerFast

    plain = PreTrainedTokenizerFast.__call__

    def watched(self: Any, text: Any, *args: Any, **options: Any) -> Any:
        seen.append(text)
        return plain(self, text, *args, **options)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", watched)
    answers(tiny_llama, tmp_path, "generation.meta_prompt=Generate a long response", "generation.limit=1")
    assert "\nGenerate a long response\n\n### Response:\n" in seen[-1]


@pytest.mark.parametrize(
    ("option", "top_p", "temperature"),
    [("sampled_hp_0", 0.1, 0.1), ("sampled_hp_1", 0.35, 0.5), ("sampled_wizardlm", 0.6, 0.9), ("sampled_llama2", 0.9, 0.6)],
)  # fmt: skip
def test_the_decodings_of_table_10_are_options(option: str, top_p: float, temperature: float) -> None:
    config = generation(f"generation={option}")
    assert (config.top_p, config.temperature, config.repetition_penalty) == (top_p, temperature, 1.2)
    assert config.max_total_tokens == 1024


@pytest.mark.parametrize(
    ("option", "said"),
    [("long_meta_prompt", "Generate a long response"), ("comprehensive_meta_prompt", "Generate a comprehensive response"),
     ("long_and_comprehensive_meta_prompt", "Generate a long and comprehensive response.")],
)  # fmt: skip
def test_the_meta_prompts_of_table_5_are_options(option: str, said: str) -> None:
    assert generation(f"generation={option}").meta_prompt == said


def test_the_other_decodings_of_the_paper_are_options() -> None:
    assert generation("generation=paper_1024").max_total_tokens == 1024
    assert generation("generation=paper_2048").max_total_tokens == 2048
    assert generation("generation=plain").repetition_penalty == 1.0
    assert generation("generation=no_eos_250").min_new_tokens == 250
    assert generation("generation=best_of_n").best_of == 4


@pytest.mark.parametrize(
    ("dataset", "template", "suffix"), [("alpaca", "alpaca", "\n"), ("sharegpt", "vicuna", "")]
)
def test_models_are_asked_in_the_template_they_were_trained_with(
    dataset: str, template: str, suffix: str
) -> None:
    config = generation("generation=paper_1024", f"dataset={dataset}")
    assert (config.template, config.prompt_suffix) == (template, suffix)


MISTAKES = {
    ("generation.best_of=4",): "generation.best_of needs generation.temperature above 0",
    (
        "generation.min_new_tokens=600",
    ): r"generation.min_new_tokens must be from 0 to generation.max_new_tokens \(512\)",
    ("generation.max_total_tokens=512",): r"must be above generation.max_prompt_tokens \(512\), or null",
    ("generation.best_of=0",): "generation.best_of must be > 0",
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_decoding_that_cannot_be_is_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=MISTAKES[arguments]):
        expand([*arguments, *QUICK])
