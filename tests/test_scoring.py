"""PrefixSharingLM side by side with lm-eval's HFLM: the same answers, fewer tokens."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from peft import LoraConfig, get_peft_model

from neft_lab.scoring import PrefixSharingLM
from tests.scoring_cases import (
    FAMILIES,
    assert_equal,
    build,
    greedy_continuation,
    make_model,
    peers,
    prompts,
    random_tree,
    requests_of,
    tokenizer,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_real_prompts_get_the_answers_of_hflm(family: str) -> None:
    ours, theirs = peers(make_model(family))
    asked = requests_of(prompts())
    assert_equal(ours.loglikelihood(asked, disable_tqdm=True), theirs.loglikelihood(asked, disable_tqdm=True))
    assert ours.tokens_computed > 0, "prefixes were not shared"


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    family=st.sampled_from(FAMILIES),
    seed=st.integers(0, 2**32),
    size=st.integers(1, 40),
    budget=st.integers(1, 400),
    window=st.integers(8, 60),
)
def test_any_tree_of_requests_gets_the_answers_of_hflm(
    family: str, seed: int, size: int, budget: int, window: int
) -> None:
    draws = random.Random(seed)
    model = make_model(family)
    ours, theirs = peers(model, token_budget=budget, max_length=window)
    asked = random_tree(draws, 12, size=size)  # few tokens: much is shared, and by chance too
    for strings, context, rest in draws.sample(asked, min(3, size)):
        asked.append((strings, context, greedy_continuation(model, context, len(rest))))
    asked = [(strings, context, rest[:window]) for strings, context, rest in asked]
    found = ours._loglikelihood_tokens(asked, disable_tqdm=True)
    assert_equal(found, theirs._loglikelihood_tokens(asked, disable_tqdm=True))
    assert ours.tokens_computed > 0


def test_the_models_own_words_are_greedy_also_where_they_branch() -> None:
    model = make_model("llama")
    ours, _ = peers(model)
    context = [5, 9, 300, 17]
    own = greedy_continuation(model, context, 6)
    other = [*own[:3], (own[3] + 1) % 384, *own[4:]]
    asked: list[Any] = [(None, context, own), (None, context, own[:2]), (None, context, other)]
    assert [greedy for _, greedy in ours._loglikelihood_tokens(asked)] == [True, True, False]


def test_an_empty_context_and_trailing_spaces_are_taken_as_hflm_takes_them() -> None:
    ours, theirs = peers(make_model("llama"))
    asked = requests_of(
        [("", "Hello there"), ("", "Hello"), ("Hello ", "there"), ("Hello", " there"), ("<s>", "x")]
    )
    assert_equal(ours.loglikelihood(asked, disable_tqdm=True), theirs.loglikelihood(asked, disable_tqdm=True))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_masks_hold_in_every_attention_that_takes_them(attention: str) -> None:
    model = build(make_model("llama").config)
    model.set_attn_implementation(attention)
    ours, theirs = peers(model)
    asked = requests_of(prompts())
    assert_equal(ours.loglikelihood(asked, disable_tqdm=True), theirs.loglikelihood(asked, disable_tqdm=True))
    assert ours.tokens_computed > 0


def test_a_model_with_adapters_gets_the_answers_of_hflm() -> None:
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "lm_head"], init_lora_weights=False)
    model = get_peft_model(build(make_model("llama").config), config)
    ours, theirs = peers(model)
    asked = requests_of(prompts())
    assert_equal(ours.loglikelihood(asked, disable_tqdm=True), theirs.loglikelihood(asked, disable_tqdm=True))
    assert ours.tokens_computed > 0


def test_bfloat16_is_no_further_from_float32_than_hflm_is() -> None:
    asked = requests_of(prompts())
    truth, _ = peers(make_model("llama"))
    right = np.array([answer for answer, _ in truth.loglikelihood(asked, disable_tqdm=True)])
    model = build(make_model("llama").config)
    model.load_state_dict(make_model("llama").state_dict())
    errors = []
    for lm in peers(model.to(torch.bfloat16)):
        answers = np.array([answer for answer, _ in lm.loglikelihood(asked, disable_tqdm=True)])
        errors.append(float(np.sqrt(np.mean((answers - right) ** 2))))
    assert errors[0] <= 1.25 * errors[1], errors


def test_a_prefix_is_computed_once() -> None:
    asked = [(None, [*range(100), *range(200, 200 + number)], [7, 8, 9]) for number in range(1, 30)]
    ours, _ = peers(make_model("llama"), token_budget=4096)
    ours._loglikelihood_tokens(asked, disable_tqdm=True)
    trie = {
        tuple((context + rest[:-1])[:end]) for _, context, rest in asked for end in range(1, len(context) + 3)
    }
    assert ours.tokens_computed == len(trie)  # 100 + 29 + 2 * 29; HFLM computes 29 times about 117


def test_logits_are_taken_only_where_something_is_scored() -> None:
    model = make_model("llama")
    ours, _ = peers(model)
    ours.loglikelihood(requests_of(prompts()[:1]), disable_tqdm=True)  # the trial is over
    rows = []
    handle = model.lm_head.register_forward_hook(
        lambda module, inputs, output: rows.append(output.shape[:-1])
    )
    ours._loglikelihood_tokens(
        [(None, list(range(50)), [3, 4]), (None, list(range(50)), [5])], disable_tqdm=True
    )
    handle.remove()
    assert sum(shape.numel() for shape in rows) == 2  # after the context, and after 3


def test_what_does_not_fit_into_memory_is_run_in_halves(caplog: pytest.LogCaptureFixture) -> None:
    model = make_model("llama")
    ours, theirs = peers(model, token_budget=4096)
    asked = requests_of(prompts())
    expected = theirs.loglikelihood(asked, disable_tqdm=True)
    ours.loglikelihood(asked[:1], disable_tqdm=True)

    def refuse(module: Any, inputs: Any, options: dict[str, Any]) -> None:
        if len(options["input_ids"]) > 1:
            raise torch.OutOfMemoryError("more than one row")

    handle = model.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        assert_equal(ours.loglikelihood(asked, disable_tqdm=True), expected)
    finally:
        handle.remove()
    assert "ran out of memory" in caplog.text


def test_a_model_left_training_with_dropout_and_noise_is_scored_without_them() -> None:
    config = build(make_model("llama").config).config
    config.attention_dropout = 0.5
    model = build(config)
    ours, theirs = peers(model)
    asked = requests_of(prompts())
    expected = theirs.loglikelihood(asked, disable_tqdm=True)
    embedding = model.get_input_embeddings()
    handle = embedding.register_forward_hook(
        lambda module, inputs, output: output + torch.randn_like(output) if module.training else None
    )
    model.train()
    model.model.layers[0].eval()
    assert_equal(ours.loglikelihood(asked, disable_tqdm=True), expected)
    handle.remove()
    assert model.training and not model.model.layers[0].training, "modes are put back as they were"


def test_every_answer_reaches_the_cache_of_lm_eval() -> None:
    kept: dict[Any, Any] = {}

    class Recorder:
        def add_partial(self, kind: str, arguments: Any, answer: Any) -> None:
            kept[arguments] = answer

    ours, _ = peers(make_model("llama"))
    ours.set_cache_hook(Recorder())
    asked = requests_of(prompts())
    found = ours.loglikelihood(asked, disable_tqdm=True)
    assert kept == {one.args: answer for one, answer in zip(asked, found, strict=True)}


def test_rolling_loglikelihoods_are_those_of_hflm() -> None:
    ours, theirs = peers(make_model("llama"), max_length=32)
    texts = [
        "short",
        "A longer text that needs several windows. " * 12,
        "Another one, of middle length, for once.",
    ]
    asked = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
    found, expected = (lm.loglikelihood_rolling(asked, disable_tqdm=True) for lm in (ours, theirs))
    assert found == pytest.approx(expected, abs=1e-2, rel=1e-5)


def test_generated_texts_are_those_of_hflm() -> None:
    model = make_model("llama")
    ours = PrefixSharingLM(model, tokenizer=tokenizer(), token_budget=64)
    theirs = HFLM(model, tokenizer=tokenizer(), batch_size=1)
    options = [{"until": ["."], "max_gen_toks": 12, "do_sample": False}, {"until": ["\n"], "max_gen_toks": 5}]
    asked = [
        Instance("generate_until", {}, (f"Say {number} more words, please" * number, options[number % 2]), 0)
        for number in range(1, 7)
    ]
    assert ours.generate_until(asked, disable_tqdm=True) == theirs.generate_until(asked, disable_tqdm=True)


def test_a_task_gets_the_same_metrics_and_samples() -> None:
    task = {
        "task": "letters",
        "custom_dataset": _letters,
        "test_split": "test",
        "fewshot_split": "test",
        "num_fewshot": 2,
        "output_type": "multiple_choice",
        "doc_to_text": "Say: {{text}}\nLetter:",
        "doc_to_choice": ["a", "b", "c and more"],
        "doc_to_target": "letter",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
    }
    results = [
        simple_evaluate(
            model=lm, tasks=[dict(task)], task_manager=TaskManager(include_defaults=False), bootstrap_iters=0
        )
        for lm in peers(make_model("llama"))
    ]
    ours, theirs = (result["results"]["letters"] for result in results)
    assert ours == theirs
    samples = [[row["filtered_resps"] for row in result["samples"]["letters"]] for result in results]
    for mine, other in zip(*samples, strict=True):
        assert_equal(mine, other)


def _letters(**_: Any) -> Any:
    from datasets import Dataset

    return {
        "test": Dataset.from_list([{"text": "ab" * number, "letter": number % 3} for number in range(12)])
    }


def test_a_request_without_context_or_with_too_long_a_continuation_is_refused() -> None:
    ours, _ = peers(make_model("llama"), max_length=16)
    for context, rest in (([], [1]), ([1], []), ([1], [2] * 17)):
        with pytest.raises(ValueError, match="continuation of 1 to 16 tokens"):
            ours._loglikelihood_tokens([(None, context, rest)])


def test_a_token_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        PrefixSharingLM(make_model("llama"), tokenizer=tokenizer(), token_budget=0)
