"""The analyze stage: how well a model knows its training rows, and rows it has not seen (the paper's figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neft_lab.batching import plan_batches
from neft_lab.config import AnalysisConfig
from neft_lab.datasets import Example, load_conversations, tokenize
from neft_lab.progress import Progress
from neft_lab.stages import AnalyzeInputs, Inputs, Metrics
from neft_lab.store import write_json


def analyze(config: AnalyzeInputs, inputs: Inputs, output: Path, progress: Progress) -> Metrics:
    """Write ``losses.json``: the mean response loss of each row (nats per token), eval mode, noise off.

    Metrics: the means over training rows and over held-out rows, with their 95 % intervals over rows.
    """
    from neft_lab.models import load_trained

    assert inputs.train is not None
    loaded = load_trained(inputs.train, precision=config.analysis.precision.name, device=inputs.device)
    losses = {}
    progress.start(2, unit="set of rows")
    for name, source, split in (
        ("train_rows", inputs.sources["dataset"], config.dataset.split),
        ("held_out", inputs.sources["held_out"], "validation"),
    ):
        format = config.dataset.format if name == "train_rows" else "alpaca"
        template = config.dataset.template
        rows = load_conversations(source, split=split, format=format, max_rows=config.analysis.rows)
        examples = tokenize(rows, loaded.tokenizer, template=template, max_length=512)
        losses[name] = response_losses(loaded.model, examples, config.analysis, loaded.tokenizer.pad_token_id)
        progress.advance()
    write_json(output / "losses.json", losses)
    return _metrics(losses)


def response_losses(
    model: Any, examples: Sequence[Example], config: AnalysisConfig, pad_id: int
) -> list[float]:
    """Mean cross-entropy over the response tokens of each example, in nats; log-softmax in float32."""
    import torch
    from torch.nn import functional

    from neft_lab.trainer import Collator

    collate, found = Collator(pad_id), [0.0] * len(examples)
    model.eval()
    for batch in plan_batches(
        [len(example.input_ids) for example in examples], token_budget=config.token_budget
    ):
        inputs = collate([examples[row] for row in batch])
        with torch.inference_mode():
            logits = model(
                input_ids=inputs["input_ids"].to(model.device),
                attention_mask=inputs["attention_mask"].to(model.device),
            ).logits[:, :-1]
        targets = inputs["labels"][:, 1:].to(model.device)
        losses = functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
        means = losses.sum(dim=1) / (targets >= 0).sum(dim=1).clamp(min=1)
        for row, value in zip(batch, means.tolist(), strict=True):
            found[row] = value
    return found


def _metrics(losses: dict[str, list[float]]) -> Metrics:
    from neft_lab.statistics import mean_value

    metrics: Metrics = {}
    for name, values in losses.items():
        estimate = mean_value(values)
        metrics |= {f"{name}_loss": estimate.value, f"{name}_loss_low": estimate.low,
                    f"{name}_loss_high": estimate.high, f"{name}_loss_n": estimate.n}  # fmt: skip
    return metrics
