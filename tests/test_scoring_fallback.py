"""Models whose answers change under tree masks are found out, and scored as HFLM scores them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import (
    AutoModelForSeq2SeqLM,
    BloomConfig,
    GPTNeoConfig,
    MambaConfig,
    MistralConfig,
    T5Config,
)

from neft_lab.scoring import PrefixSharingLM
from tests.scoring_cases import SIZE, assert_equal, build, make_model, peers, prompts, requests_of, tokenizer


def _vocabulary() -> int:
    return len(tokenizer())


def _assert_as_hflm(model: Any, **options: Any) -> PrefixSharingLM:
    ours, theirs = peers(model, **options)
    asked = requests_of(prompts())
    assert_equal(ours.loglikelihood(asked, disable_tqdm=True), theirs.loglikelihood(asked, disable_tqdm=True))
    return ours


def test_a_model_with_alibi_positions_shares_nothing(caplog: pytest.LogCaptureFixture) -> None:
    config = BloomConfig(vocab_size=_vocabulary(), hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3)
    config.max_position_embeddings = 512
    ours = _assert_as_hflm(build(config))
    assert ours.tokens_computed == 0
    assert "BloomForCausalLM shares no prefixes" in caplog.text


def test_a_recurrent_model_shares_nothing(caplog: pytest.LogCaptureFixture) -> None:
    config = MambaConfig(vocab_size=_vocabulary(), hidden_size=16, num_hidden_layers=1, state_size=4)
    ours = _assert_as_hflm(build(config), max_length=512)
    assert ours.tokens_computed == 0
    assert "MambaForCausalLM shares no prefixes" in caplog.text


def test_an_encoder_decoder_is_scored_as_hflm_does() -> None:
    torch.manual_seed(0)
    config = T5Config(vocab_size=_vocabulary(), d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4,
                      decoder_start_token_id=3, pad_token_id=3, eos_token_id=2)  # fmt: skip
    model = AutoModelForSeq2SeqLM.from_config(config).eval()
    asked = requests_of(prompts()[:6])
    found = [
        lm.loglikelihood(asked, disable_tqdm=True)
        for lm in (
            PrefixSharingLM(model, tokenizer=tokenizer(), max_length=512),
            HFLM(model, tokenizer=tokenizer(), max_length=512, softmax_dtype="float32"),
        )
    ]
    assert_equal(*found)


def test_requests_beyond_the_attention_window_are_scored_as_hflm_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    size = SIZE | {"vocab_size": _vocabulary(), "intermediate_size": 64, "num_key_value_heads": 2}
    model = build(MistralConfig(**size, sliding_window=40))
    ours, theirs = peers(model)
    asked: list[Any] = [(None, list(range(length)), [5, 6, 7]) for length in (20, 30, 38, 39, 60, 200)]
    assert_equal(ours._loglikelihood_tokens(asked), theirs._loglikelihood_tokens(asked))
    assert ours.tokens_computed == 44  # a context of 38, two more tokens for each of the first three
    assert "more than 40 tokens" in caplog.text


def test_a_window_that_is_counted_in_places_and_not_in_positions_is_found_out() -> None:
    config = GPTNeoConfig(vocab_size=_vocabulary(), hidden_size=32, num_layers=2, num_heads=4, window_size=40,
                          attention_types=[[["global", "local"], 1]], max_position_embeddings=512,
                          initializer_range=0.3)  # fmt: skip
    ours, theirs = peers(build(config))
    asked: list[Any] = [(None, list(range(30)), [word, 6, 7, 8, 9, 10]) for word in range(40, 60)]
    assert_equal(ours._loglikelihood_tokens(asked), theirs._loglikelihood_tokens(asked))


def test_in_half_precision_a_wrong_mask_is_still_found_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neft_lab.scoring import passes

    model = build(make_model("llama").config, torch.bfloat16)
    monkeypatch.setattr(passes, "_mark_ancestors", lambda table, row: table.fill(True))
    ours, _ = peers(model)
    ours.loglikelihood(requests_of(prompts()[:4]), disable_tqdm=True)
    assert "shares no prefixes" in caplog.text
