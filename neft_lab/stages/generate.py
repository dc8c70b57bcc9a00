"""The generate stage: a model's answers to evaluation instructions, in AlpacaEval's outputs format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neft_lab.batching import plan_batches, plan_digest
from neft_lab.config import GenerationConfig, GenerationSource, UserError
from neft_lab.datasets import Instruction, load_instructions
from neft_lab.journal import BatchJournal
from neft_lab.progress import Progress
from neft_lab.prompts import render_prompt
from neft_lab.stages import GenerateInputs, Inputs, Metrics
from neft_lab.store import read_json, write_json

if TYPE_CHECKING:
    from neft_lab.decoding import Decoded, Prompt


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
                "output": answer.text,
                "generator": output.name,
                "dataset": asked.dataset,
            }
            for asked, answer in zip(instructions, answers, strict=True)
        ]
        metrics = {"output_tokens": sum(answer.tokens for answer in answers) / len(answers),
                   "cut_share": 100 * sum(answer.cut for answer in answers) / len(answers)}  # fmt: skip
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


def _answer(
    instructions: Sequence[Instruction],
    config: GenerationConfig,
    inputs: Inputs,
    output: Path,
    progress: Progress,
) -> list[Decoded]:
    """One answer per instruction, in their order: where several are sampled, the longest in characters."""
    from neft_lab.models import load_trained

    assert inputs.train is not None
    loaded = load_trained(inputs.train, precision=config.precision.name, device=inputs.device)
    texts = [_prompt(asked.instruction, config) for asked in instructions]
    ids = [loaded.tokenizer(text)["input_ids"][-config.max_prompt_tokens :] for text in texts]
    drawn = _decode(loaded, _prompts(ids, config), texts, config, output / "answers.jsonl", progress)
    groups = [drawn[start : start + config.best_of] for start in range(0, len(drawn), config.best_of)]
    return [max(group, key=lambda answer: len(answer.text)) for group in groups]


def _prompt(instruction: str, config: GenerationConfig) -> str:
    asked = f"{instruction}\n{config.meta_prompt}" if config.meta_prompt else instruction
    return render_prompt(config.template, asked) + config.prompt_suffix


def _prompts(ids: Sequence[list[int]], config: GenerationConfig) -> list[Prompt]:
    """All answers to decode, those of one instruction side by side."""
    from neft_lab.decoding import Prompt, row_seed

    total = config.max_total_tokens
    limits = [min(config.max_new_tokens, total - len(row)) if total else config.max_new_tokens for row in ids]
    return [
        Prompt(row, limit, row_seed(config.seed, number, draw))
        for number, (row, limit) in enumerate(zip(ids, limits, strict=True))
        for draw in range(config.best_of)
    ]


def _decode(
    loaded: Any,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    config: GenerationConfig,
    journal: Path,
    progress: Progress,
) -> list[Decoded]:
    """Decode in batches planned ahead; a pass that was stopped goes on behind its last whole batch."""
    from neft_lab.decoding import Decoded, decode_batch

    batches = plan_batches(
        [len(prompt.ids) for prompt in prompts],
        token_budget=config.token_budget,
        extra=max(prompt.limit for prompt in prompts),
    )
    with BatchJournal(journal, plan=plan_digest(batches, texts)) as finished:
        done = sum(len(batches[number]) for number in finished.finished)
        progress.start(len(prompts), unit="answer", done=done)
        for number, batch in enumerate(batches):
            if number not in finished.finished:
                answers = decode_batch(loaded, [prompts[row] for row in batch], config)
                finished.append(number, [astuple(answer) for answer in answers])
                progress.advance(len(batch))
    found: dict[int, Decoded] = {}
    for number, batch in enumerate(batches):
        answers = [Decoded(*values) for values in finished.finished[number]]
        found.update(zip(batch, answers, strict=True))
    journal.unlink()
    return [found[row] for row in range(len(prompts))]
