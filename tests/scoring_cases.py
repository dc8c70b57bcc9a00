"""Small random models of several families, and requests to score with them."""

from __future__ import annotations

import json
import random
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen2Config,
)

from neft_lab.paths import STARTER_DIR
from neft_lab.scoring import PrefixSharingLM
from neft_lab.scoring.check import TokenRequest
from tests.tiny import make_tokenizer

SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # wide enough for a wrong mask to move a log-likelihood by far more than rounding
}


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    return make_tokenizer()


def _config(family: str) -> PretrainedConfig:
    size = SIZE | {"vocab_size": len(tokenizer()), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    grouped = size | {"intermediate_size": 64, "num_key_value_heads": 2}
    match family:
        case "llama":
            return LlamaConfig(**grouped)
        case "qwen":
            return Qwen2Config(**grouped)
        case "gemma":
            return GemmaConfig(**grouped, head_dim=8)
        case "gemma2":  # soft-capped logits and attention, alternating sliding windows
            return Gemma2Config(**grouped, head_dim=8, sliding_window=512, query_pre_attn_scalar=8)
        case "gpt_neox":
            return GPTNeoXConfig(**size, intermediate_size=64)
        case "opt":
            del size["initializer_range"]
            return OPTConfig(**size, ffn_dim=64, word_embed_proj_dim=16, init_std=0.3)
    raise ValueError(family)


FAMILIES = ("llama", "opt", "qwen", "gemma", "gemma2", "gpt_neox")


@lru_cache(maxsize=16)
def make_model(family: str, dtype: torch.dtype = torch.float32) -> Any:
    return build(_config(family), dtype)


def build(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def peers(model: Any, **options: Any) -> tuple[PrefixSharingLM, HFLM]:
    """Ours and HFLM around one model.

    HFLM without its cache of one-token logits: with it, two requests for the same text that differ in where the
    continuation begins get the log-likelihood of the wrong positions (lm-eval 0.4.13).
    """
    budget = options.pop("token_budget", 300)
    ours = PrefixSharingLM(model, tokenizer=tokenizer(), token_budget=budget, **options)
    plain = {"softmax_dtype": "float32", "logits_cache": False} | options
    return ours, HFLM(model, tokenizer=tokenizer(), batch_size=8, **plain)


def requests_of(pairs: list[tuple[str, str]]) -> list[Instance]:
    return [Instance("loglikelihood", {}, pair, 0) for pair in pairs]


def prompts() -> list[tuple[str, str]]:
    """Questions with shared shots and four choices each, made of the starter set's texts."""
    rows = [
        json.loads(line) for line in (STARTER_DIR / "train.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    short = sorted(rows, key=lambda row: len(row["instruction"]) + len(row["output"]))[:40]
    texts = [(row["instruction"][:80], row["output"][:40]) for row in short]
    shots = "".join(f"Question: {question}\nAnswer: {answer}\n\n" for question, answer in texts[:3])
    pairs = []
    for number, (question, answer) in enumerate(texts[3:9]):
        context = f"{shots}Question: {question}\nAnswer:"
        wrong = [texts[20 + number][1], f"{answer} And more.", "A"]
        pairs += [(context, f" {choice}") for choice in (answer, *wrong)]
    return pairs


def assert_equal(found: list[tuple[float, bool]], expected: list[tuple[float, bool]]) -> None:
    """The promise: 1e-3 + 1e-5 |log-likelihood|, and the same greedy flags."""
    ours, right = (np.array([answer for answer, _ in one]) for one in (found, expected))
    worst = np.abs(ours - right) - (1e-3 + 1e-5 * np.abs(right))
    assert len(ours) == len(right) and (worst <= 0).all(), (ours - right).tolist()
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def greedy_continuation(model: Any, context: list[int], length: int) -> list[int]:
    """What the model itself goes on with."""
    tokens = list(context)
    for _ in range(length):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(context) :]


def random_tree(draws: random.Random, vocabulary: int, *, size: int) -> list[TokenRequest]:
    """Requests that grow out of each other: shared prefixes of all lengths, duplicates, prefixes of one another."""
    pool: list[list[int]] = [[draws.randrange(vocabulary)]]
    found: list[TokenRequest] = []
    for number in range(size):
        root = draws.choice(pool)
        cut = draws.randrange(1, len(root) + 1)
        grown = root[:cut] + [draws.randrange(vocabulary) for _ in range(draws.choice([0, 1, 1, 3, 8, 30]))]
        pool.append(grown)
        if draws.random() < 0.2 and found:
            found.append(draws.choice(found))
            continue
        whole = grown + [draws.randrange(vocabulary) for _ in range(draws.choice([1, 1, 2, 5]))]
        split = draws.randrange(1, len(whole))
        found.append(((str(number), ""), whole[:split], whole[split:]))
    return found
