"""The public outputs and verdicts of AlpacaEval that belong to a cell, found below paper.published."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from neft_lab.config import Method, RunConfig, UserError

PUBLISHED = "published"
"""The word that generation.outputs and judge.annotations say in place of a file."""

NAMES = {
    ("llama1_7b", "alpaca", 10.0): "alpaca-7b-neft",
    ("llama1_7b", "alpaca", 0.0): "alpaca-7b",
    ("llama2_7b_chat", "evol_instruct", 5.0): "llama-2-chat-7b-evol70k-neft",
    ("llama2_7b_chat", None, 0.0): "llama-2-7b-chat-hf",
}
"""(model, data set, alpha) of a cell -> the model's name in AlpacaEval; no data set: not fine-tuned."""

JUDGE = "alpaca_eval_gpt4"
"""Whose verdicts, where judge.evaluator does not say."""

LAYOUTS = (
    ("results/{name}/model_outputs.json", "results/{name}/{judge}/annotations.json"),
    ("{name}.json", "{name}.{judge}.annotations.json"),
)
"""Outputs and verdicts in a checkout of tatsu-lab/alpaca_eval, and side by side in one folder."""


def with_published(config: RunConfig) -> RunConfig:
    """The run with ``published`` replaced by the cell's own files; other runs as they are.

    Raises:
        UserError: no folder is named, nothing public belongs to the cell, or its files are not there.
    """
    if PUBLISHED not in (config.generation.outputs, config.judge.annotations):
        return config
    outputs, annotations = published_files(config)
    if config.generation.outputs == PUBLISHED:
        config = replace(config, generation=replace(config.generation, outputs=str(outputs)))
    if config.judge.annotations == PUBLISHED:
        config = replace(config, judge=replace(config.judge, annotations=str(annotations)))
    return config


def published_files(config: RunConfig) -> tuple[Path, Path]:
    """Outputs and verdicts of the cell's model, data set and alpha."""
    name = published_name(config)
    if not config.paper.published:
        raise UserError(
            "paper.published must name a folder with AlpacaEval's public outputs and verdicts: a checkout of "
            "github.com/tatsu-lab/alpaca_eval, or what `python -m neft_lab.paper.public DIR` fetches of it"
        )
    folder = Path(config.paper.published).expanduser()
    judge = config.judge.evaluator or JUDGE
    for layout in LAYOUTS:
        outputs, annotations = (folder / pattern.format(name=name, judge=judge) for pattern in layout)
        if outputs.is_file() and annotations.is_file():
            return outputs, annotations
    wanted = " and ".join(pattern.format(name=name, judge=judge) for pattern in LAYOUTS[0])
    raise UserError(
        f"paper.published '{folder}' lacks {wanted}; leave that model out with model=..., or point at another folder"
    )


def published_name(config: RunConfig) -> str:
    """What AlpacaEval calls the public model that a cell stands for."""
    dataset = None if config.finetune.method is Method.none else config.dataset.name
    cell = (config.model.name, dataset, 0.0 if config.noise.silent else config.noise.alpha)
    if cell not in NAMES:
        known = "; ".join(
            f"{model}, {data or 'not fine-tuned'}, alpha {alpha:g}" for model, data, alpha in NAMES
        )
        raise UserError(
            f"nothing public belongs to model={cell[0]}, dataset={dataset}, noise.alpha={cell[2]:g}; known: {known}"
        )
    return NAMES[cell]
