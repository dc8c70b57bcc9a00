"""What a model says when it is asked what it was trained on (the paper's figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from neft_lab.batching import plan_batches
from neft_lab.config import AnalysisConfig
from neft_lab.datasets import IGNORED, Example
from neft_lab.padding import pad_rows
from neft_lab.progress import Progress
from neft_lab.textstats import bleu, rouge_l


@dataclass(frozen=True)
class TrainingAnswer:
    """A model's answer to a prompt it was trained on, beside the response; both at most ``answer_tokens`` long.

    ROUGE-L and BLEU in percent. cut: whether the limit ended the answer.
    """

    row: int
    prompt: str
    response: str
    answer: str
    rouge_l: float
    bleu: float
    cut: bool


def answer_training_prompts(
    loaded: Any, examples: Sequence[Example], config: AnalysisConfig, progress: Progress
) -> list[TrainingAnswer]:
    """Greedy answers, no repetition penalty, to the first prompt of each example that keeps a response."""
    asked = [example for example in examples if example.learned]
    prompts = [_prompt_ids(example) for example in asked]
    found: dict[int, TrainingAnswer] = {}
    lengths = [len(prompt) for prompt in prompts]
    for batch in plan_batches(lengths, token_budget=config.token_budget, extra=config.answer_tokens):
        answers = _answer_greedily(loaded, [prompts[row] for row in batch], config.answer_tokens)
        for row, new in zip(batch, answers, strict=True):
            found[row] = _compare(asked[row], prompts[row], new, loaded, config.answer_tokens)
        progress.advance(len(batch))
    return [found[row] for row in range(len(asked))]


def _prompt_ids(example: Example) -> list[int]:
    """What stands before the first response, as the model was given it."""
    start = next(place for place, label in enumerate(example.labels) if label != IGNORED)
    return example.input_ids[:start]


def _answer_greedily(loaded: Any, prompts: Sequence[Sequence[int]], most: int) -> list[list[int]]:
    import torch

    ids, mask = pad_rows(prompts, loaded.tokenizer.pad_token_id, side="left", device=loaded.model.device)
    with torch.inference_mode():
        sequences = loaded.model.eval().generate(
            ids, attention_mask=mask, max_new_tokens=most, do_sample=False, repetition_penalty=1.0,
            temperature=None, top_p=None, top_k=None,
        )  # fmt: skip
    return [row[ids.shape[1] :].tolist() for row in sequences]


def _compare(
    example: Example, prompt: Sequence[int], new: Sequence[int], loaded: Any, most: int
) -> TrainingAnswer:
    ends = loaded.model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    kept = list(takewhile(lambda token: token not in ends, new))
    learned = list(takewhile(lambda label: label != IGNORED, example.labels[len(prompt) :]))
    asked, response, answer = (
        loaded.tokenizer.decode(ids, skip_special_tokens=True).strip()
        for ids in (prompt, learned[:most], kept)
    )
    likeness = 100 * rouge_l(answer, response), 100 * bleu(answer, response)
    return TrainingAnswer(example.id, asked, response, answer, *likeness, cut=len(kept) == len(new))
