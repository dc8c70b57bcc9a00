"""Decoding one batch: greedy or sampled, every row with its own length limit and its own random numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from neft_lab.config import GenerationConfig

SMALLEST_WAIT = 1e-10
"""Keeps the logarithm finite; a wait this short has odds of one in ten thousand million."""


@dataclass(frozen=True)
class Prompt:
    """One answer to decode: its prompt, how many new tokens it may have, and the seed of its random numbers."""

    ids: list[int]
    limit: int
    seed: int


@dataclass(frozen=True)
class Decoded:
    """An answer, its new tokens, and whether it was cut at its limit."""

    text: str
    tokens: int
    cut: bool


def row_seed(seed: int, row: int, draw: int) -> int:
    """The seed of one sampled answer: of the run's seed, the instruction's row and the number of the sample."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{row}/{draw}".encode()).digest()[:7])


def decode_batch(loaded: Any, prompts: Sequence[Prompt], config: GenerationConfig) -> list[Decoded]:
    """Answers to left-padded prompts, in order.

    The repetition penalty covers prompt and padding ids as transformers' does, so as the paper's: of a padded row
    only the pad token, which no answer holds, is penalised beyond what the row would get alone.
    """
    tokenizer, model = loaded.tokenizer, loaded.model
    width = max(len(prompt.ids) for prompt in prompts)
    pads = [width - len(prompt.ids) for prompt in prompts]
    ids = torch.tensor(
        [[tokenizer.pad_token_id] * pad + prompt.ids for pad, prompt in zip(pads, prompts, strict=True)]
    )
    mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
    limits = torch.tensor([prompt.limit for prompt in prompts], device=model.device)
    with torch.inference_mode():
        sequences = model.eval().generate(
            ids.to(model.device), attention_mask=mask.to(model.device), max_new_tokens=int(limits.max()),
            min_new_tokens=config.min_new_tokens or None, repetition_penalty=config.repetition_penalty,
            do_sample=False, temperature=None, top_p=None, top_k=None,
            logits_processor=_sampler([prompt.seed for prompt in prompts], config, model.device),
            stopping_criteria=StoppingCriteriaList([_RowLimits(width, limits)]),
        )  # fmt: skip
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    rows = sequences[:, width:].tolist()
    return [_read(row[: prompt.limit], ends, tokenizer) for row, prompt in zip(rows, prompts, strict=True)]


def _read(new: list[int], ends: set[int], tokenizer: Any) -> Decoded:
    stop = next((place for place, token in enumerate(new) if token in ends), None)
    kept = new if stop is None else new[:stop]
    return Decoded(tokenizer.decode(kept, skip_special_tokens=True).strip(), len(kept), stop is None)


def _sampler(seeds: Sequence[int], config: GenerationConfig, device: torch.device) -> LogitsProcessorList:
    """What makes greedy search draw from the model, in transformers' order: temperature, then top p."""
    if config.temperature == 0:
        return LogitsProcessorList()
    chain: list[LogitsProcessor] = [TemperatureLogitsWarper(config.temperature)]
    if config.top_p < 1:
        chain.append(TopPLogitsWarper(config.top_p))
    return LogitsProcessorList([*chain, RowSampler(seeds, device)])


class RowSampler(LogitsProcessor):
    """Adds Gumbel noise to the scores, from a generator per row: the largest sum is a draw from their softmax.

    Unlike sampling in transformers, a row's draws depend neither on its batch mates nor on what was drawn before it.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str) -> None:
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(b, t), (b, vocabulary) -> (b, vocabulary)."""
        waits = torch.stack([
            torch.empty(scores.shape[1], device=scores.device).exponential_(generator=generator)
            for generator in self._generators
        ])  # fmt: skip
        return scores - waits.clamp_min_(SMALLEST_WAIT).log()


class _RowLimits(StoppingCriteria):
    """Ends each row at its own number of new tokens."""

    def __init__(self, width: int, limits: torch.Tensor) -> None:
        self._width, self._limits = width, limits

    def __call__(self, input_ids: torch.Tensor, scores: Any, **others: Any) -> torch.Tensor:
        return self._limits <= input_ids.shape[1] - self._width
