"""The analyze stage: what a model remembers of its training rows, and what noise does to its tokens.

Response losses (the paper's figure 4), answers to training prompts (figure 5), changed tokens (figure 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from neft_lab.batching import plan_batches
from neft_lab.config import SILENT, AnalysisConfig, DatasetConfig, NoiseKind
from neft_lab.datasets import IGNORED, Example, load_conversations, prepare_examples, tokenize
from neft_lab.metrics import mean_metrics
from neft_lab.models import load_trained
from neft_lab.noise import example_generators
from neft_lab.noise.dose import count_changed_tokens
from neft_lab.padding import pad_rows
from neft_lab.progress import Progress
from neft_lab.recall import answer_training_prompts
from neft_lab.sources import Source
from neft_lab.stages import AnalyzeInputs, Inputs, Metrics
from neft_lab.store import write_json


def analyze(config: AnalyzeInputs, inputs: Inputs, output: Path, progress: Progress) -> Metrics:
    """Measure a trained model in eval mode, noise off, on the first rows of its training set and on held-out ones.

    Writes ``losses.json``: mean response loss of each training row and held-out row, nats per token, null for a row
    without a response within the length; ``training_answers.json``: greedy answers to training prompts with their
    likeness to the response; ``flips.json``: how many tokens the paper's noise turns into others, by its alpha.

    Metrics: mean losses and mean likeness, percent, with their 95 % intervals over rows.
    """
    assert inputs.train is not None and config.analysis.max_length is not None
    analysis, metrics = config.analysis, dict[str, float]()
    loaded = load_trained(inputs.train, precision=analysis.precision.name, device=inputs.device)
    seen = prepare_examples(
        inputs.sources["dataset"], config.dataset, loaded.tokenizer, max_length=config.analysis.max_length
    ).examples
    flips = len(analysis.flip_alphas) if analysis.flip_tokens else 0
    progress.start(2 * analysis.rows + analysis.answers + flips, unit="probe")
    if analysis.rows:
        unseen = _held_out(inputs.sources["held_out"], config.dataset, loaded.tokenizer, analysis)
        sets = {"train_rows": seen[: analysis.rows], "held_out": unseen}
        losses = {name: response_losses(loaded, rows, analysis, progress) for name, rows in sets.items()}
        write_json(output / "losses.json", losses)
        for name, values in losses.items():
            metrics |= mean_metrics(f"{name}_loss", values)
    if analysis.answers:
        answers = answer_training_prompts(loaded, seen[: analysis.answers], analysis, progress)
        write_json(output / "training_answers.json", [asdict(answer) for answer in answers])
        for name in ("rouge_l", "bleu"):
            metrics |= mean_metrics(f"training_{name}", [getattr(answer, name) for answer in answers])
    if flips:
        write_json(output / "flips.json", count_flips(loaded.model, seen, analysis, progress))
    return metrics


def _held_out(
    source: Source, trained: DatasetConfig, tokenizer: Any, analysis: AnalysisConfig
) -> list[Example]:
    """Rows that nobody trains on, in the prompts of the training."""
    read = load_conversations(source, split="validation", format="alpaca", max_rows=analysis.rows)
    assert analysis.max_length is not None
    return tokenize(
        read,
        tokenizer,
        template=trained.template,
        max_length=analysis.max_length,
        response_prefix=trained.response_prefix,
    )


def response_losses(
    loaded: Any, examples: Sequence[Example], config: AnalysisConfig, progress: Progress
) -> list[float | None]:
    """Mean cross-entropy over the response tokens of each example, in nats; log-softmax in float32."""
    found: list[float | None] = [None] * len(examples)
    pad_id, device = loaded.tokenizer.pad_token_id, loaded.model.device
    lengths = [len(example.input_ids) for example in examples]
    for batch in plan_batches(lengths, token_budget=config.token_budget):
        rows = [examples[row] for row in batch]
        ids, mask = pad_rows([one.input_ids for one in rows], pad_id, side="right", device=device)
        labels, _ = pad_rows([one.labels for one in rows], IGNORED, side="right", device=device)
        with torch.inference_mode():
            logits = loaded.model.eval()(input_ids=ids, attention_mask=mask).logits[:, :-1]
        targets = labels[:, 1:]
        losses = functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
        means = losses.sum(dim=1) / (targets != IGNORED).sum(dim=1)
        for row, value in zip(batch, means.tolist(), strict=True):
            found[row] = value if examples[row].learned else None
        progress.advance(len(batch))
    return found


def count_flips(
    model: Any, examples: Sequence[Example], config: AnalysisConfig, progress: Progress
) -> dict[str, Any]:
    """Tokens of some training rows that end nearer to another vocabulary row, under the paper's noise by alpha."""
    rows: list[list[int]] = []
    for example in takewhile(lambda _: sum(map(len, rows)) < config.flip_tokens, examples):
        rows.append(example.input_ids)
    ids, mask = pad_rows(rows, 0, side="right", device=model.device)
    counted, changed = 0, []
    for alpha in config.flip_alphas:
        noise = replace(SILENT, name="uniform", kind=NoiseKind.uniform, alpha=alpha)
        found = count_changed_tokens(
            model.get_input_embeddings(), ids, mask, noise, limit=config.flip_tokens,
            generators=example_generators(range(len(rows)), seed=0, epoch=0, device=model.device),
        )  # fmt: skip
        counted = found.tokens
        changed.append(found.changed)
        progress.advance()
    return {"alphas": config.flip_alphas, "changed": changed, "tokens": counted}
