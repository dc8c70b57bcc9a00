"""The generate stage: a model's answers to evaluation instructions, in AlpacaEval's outputs format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neft_lab.batching import plan_batches, plan_digest
from neft_lab.config import GenerationConfig, GenerationSource, UserError
from neft_lab.datasets import Instruction, load_instructions
from neft_lab.journal import BatchJournal
from neft_lab.progress import Progress
from neft_lab.prompts import render_prompt
from neft_lab.stages import GenerateInputs, Inputs, Metrics
from neft_lab.store import read_json, write_json


def generate(config: GenerateInputs, inputs: Inputs, output: Path, progress: Progress) -> Metrics:
    """Write ``outputs.json``: one row {instruction, output, generator, dataset} per instruction, in their order.

    Metrics: mean output characters (AlpacaEval's avg_length, an integer), share of answers cut at the limit.
    """
    generation = config.generation
    if generation.source is GenerationSource.file:
        rows = _copied(Path(inputs.sources["outputs"].location), generation.limit)
        metrics: Metrics = {}
    else:
        instructions = load_instructions(inputs.sources["instructions"])[: generation.limit]
        answers = _answer(instructions, generation, inputs, output, progress)
        rows = [
            {
                "instruction": asked.instruction,
                "output": text,
                "generator": output.name,
                "dataset": asked.dataset,
            }
            for asked, (text, _, _) in zip(instructions, answers, strict=True)
        ]
        cut = sum(stopped_by_limit for _, _, stopped_by_limit in answers)
        metrics = {"output_tokens": sum(tokens for _, tokens, _ in answers) / len(answers),
                   "cut_share": 100 * cut / len(answers)}  # fmt: skip
    write_json(output / "outputs.json", rows)
    return metrics | {"output_characters": int(sum(len(row["output"]) for row in rows) / len(rows))}


def _copied(path: Path, limit: int | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_json(path)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not all(
            isinstance(row.get(name), str) for name in ("instruction", "output")
        ):
            raise UserError(
                f"generation.outputs: {path.name} row {number} must have texts 'instruction' and 'output'"
            )
    return rows[:limit]


Answer = tuple[str, int, bool]
"""Text, new tokens, and whether the limit cut it."""


def _answer(
    instructions: Sequence[Instruction],
    config: GenerationConfig,
    inputs: Inputs,
    output: Path,
    progress: Progress,
) -> list[Answer]:
    from transformers import set_seed

    from neft_lab.models import load_trained

    assert inputs.train is not None
    loaded = load_trained(inputs.train, precision=config.precision.name, device=inputs.device)
    prompts = [
        render_prompt(config.template, asked.instruction) + config.prompt_suffix for asked in instructions
    ]
    ids = [loaded.tokenizer(prompt)["input_ids"][-config.max_prompt_tokens :] for prompt in prompts]
    batches = plan_batches(
        [len(row) for row in ids], token_budget=config.token_budget, extra=config.max_new_tokens
    )
    journal = output / "answers.jsonl"
    with BatchJournal(journal, plan=plan_digest(batches, prompts)) as finished:
        done = sum(len(batches[number]) for number in finished.finished)
        progress.start(len(prompts), unit="answer", done=done)
        for number, batch in enumerate(batches):
            if number not in finished.finished:
                set_seed(number)  # sampling, where asked for, is the same after a resume
                finished.append(number, _generate_batch(loaded, [ids[row] for row in batch], config))
                progress.advance(len(batch))
    answers: dict[int, Answer] = {}
    for number, batch in enumerate(batches):
        answers.update(zip(batch, map(tuple, finished.finished[number]), strict=True))
    journal.unlink()
    return [answers[row] for row in range(len(prompts))]


def _generate_batch(loaded: Any, rows: Sequence[Sequence[int]], config: GenerationConfig) -> list[Answer]:
    """Left-padded greedy (or sampled) decoding of one batch."""
    import torch

    tokenizer, model = loaded.tokenizer, loaded.model
    longest = max(map(len, rows))
    ids = torch.tensor([[tokenizer.pad_token_id] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if config.temperature > 0:
        sampling = {"do_sample": True, "temperature": config.temperature, "top_p": config.top_p, "top_k": 0}
    with torch.inference_mode():
        sequences = model.eval().generate(
            ids.to(model.device), attention_mask=mask.to(model.device), max_new_tokens=config.max_new_tokens,
            repetition_penalty=config.repetition_penalty, **sampling,
        )  # fmt: skip
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    return [_read_answer(row[longest:].tolist(), ends, tokenizer) for row in sequences]


def _read_answer(new: list[int], ends: set[int], tokenizer: Any) -> Answer:
    stop = next((place for place, token in enumerate(new) if token in ends), None)
    kept = new if stop is None else new[:stop]
    return tokenizer.decode(kept, skip_special_tokens=True).strip(), len(kept), stop is None
