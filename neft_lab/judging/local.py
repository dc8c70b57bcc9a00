"""The local judge: a causal language model asked for the next token after "which answer is better?".

p(first is better) is the softmax of the two labels' next-token logits; each pair is asked in both orders and
the two answers are averaged, which cancels a constant preference for one place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neft_lab.batching import plan_batches
from neft_lab.journal import BatchJournal
from neft_lab.judging.audit import Repeat
from neft_lab.judging.pairs import DRAW, Pair, Verdict
from neft_lab.judging.prompts import LocalPrompt, LocalTemplate, encode_text

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VERSION = 1
"""Raised when the question or the arithmetic changes."""


@dataclass(frozen=True)
class LocalJudgement:
    """Verdicts on all pairs, and what the audit of the two orders needs."""

    verdicts: list[Verdict]
    asked: int
    """Prompts run, two per pair of different answers."""
    prompt_tokens: int
    cut: int
    """Prompts in which a text was longer than its place."""

    def swaps(self, count: int) -> list[Repeat]:
        """Both orders of the first `count` pairs, for the audit; pairs of equal answers are left out."""
        raw = [verdict.raw_completion for verdict in self.verdicts[:count] if verdict.raw_completion]
        return [Repeat(2 - row["reference_first"], 1 + row["output_first"], switched=False) for row in raw]


def judge_locally(
    pairs: Sequence[Pair],
    *,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_prompt_tokens: int,
    token_budget: int,
    journal: Path,
    advance: Callable[[int], None] = lambda done: None,
) -> LocalJudgement:
    """Ask about every pair of different answers in both orders.

    Batches of at most `token_budget` tokens, padding included, are planned before the first one runs. `journal` keeps
    the finished ones, so that a second call with the same plan goes on after the last whole one. `advance` is told the
    number of prompts of each finished batch.
    """
    template = LocalTemplate.build(tokenizer)
    open_pairs = [pair for pair in pairs if not pair.identical]
    prompts = [
        prompt for pair in open_pairs for prompt in _both_orders(pair, template, tokenizer, max_prompt_tokens)
    ]
    batches = plan_batches([len(prompt.tokens) for prompt in prompts], token_budget=token_budget)
    first = [0.0] * len(prompts)
    with BatchJournal(journal, plan=_digest(prompts, batches, template)) as done:
        for number, rows in enumerate(batches):
            if number not in done.finished:
                tokens = [prompts[row].tokens for row in rows]
                done.append(number, first_probabilities(model, tokens, labels=template.labels))
            for row, value in zip(rows, done.finished[number], strict=True):
                first[row] = value
            advance(len(rows))
    return _summarise(pairs, prompts, first)


def first_probabilities(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], *, labels: tuple[int, int]
) -> list[float]:
    """p(first label) against the second as next token, for each prompt; softmax in float32."""
    import torch

    tokens, mask = _pad_left(prompts, device=model.device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    with torch.inference_mode():
        output = model(
            input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1
        )
    logits = output.logits[:, -1, list(labels)].float()
    return [float(value) for value in logits.softmax(dim=1)[:, 0]]


def _pad_left(prompts: Sequence[Sequence[int]], *, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(b, t) tokens and mask with all last tokens in the last column; what stands under the mask is arbitrary."""
    import torch

    tokens = torch.zeros((len(prompts), max(map(len, prompts))), dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, -len(prompt) :] = torch.tensor(prompt)
        mask[row, -len(prompt) :] = 1
    return tokens.to(device), mask.to(device)


def _both_orders(
    pair: Pair, template: LocalTemplate, tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> tuple[LocalPrompt, LocalPrompt]:
    """The pair with the reference shown first, and with the model's answer shown first."""
    instruction, reference, output = (
        encode_text(tokenizer, text) for text in (pair.instruction, pair.reference, pair.output)
    )
    return (
        template.fill(
            {"instruction": instruction, "first": reference, "second": output}, max_tokens=max_tokens
        ),
        template.fill(
            {"instruction": instruction, "first": output, "second": reference}, max_tokens=max_tokens
        ),
    )


def _digest(prompts: Sequence[LocalPrompt], batches: Sequence[Sequence[int]], template: LocalTemplate) -> str:
    plan = [VERSION, [prompt.tokens for prompt in prompts], [list(rows) for rows in batches], template.labels]
    return hashlib.sha256(json.dumps(plan).encode()).hexdigest()


def _summarise(
    pairs: Sequence[Pair], prompts: Sequence[LocalPrompt], first: Sequence[float]
) -> LocalJudgement:
    answers = iter(zip(first[0::2], first[1::2], strict=True))
    verdicts = [DRAW if pair.identical else _verdict(*next(answers)) for pair in pairs]
    return LocalJudgement(
        verdicts=verdicts,
        asked=len(prompts),
        prompt_tokens=sum(len(prompt.tokens) for prompt in prompts),
        cut=sum(prompt.cut for prompt in prompts),
    )


def _verdict(reference_first: float, output_first: float) -> Verdict:
    """From p(first is better) in both orders, which are kept."""
    raw = {"reference_first": reference_first, "output_first": output_first}
    return Verdict(1 + (1 - reference_first + output_first) / 2, raw_completion=raw)
