"""Answers are asked for in the template a model was trained with, where the configuration says so."""

from __future__ import annotations

from dataclasses import replace

from neft_lab.config import RunConfig

TRAINED = "trained"
"""The word that generation.template says in place of a template."""


def with_trained_template(config: RunConfig) -> RunConfig:
    """The run with ``trained`` replaced by the data set's template; the suffix belongs to Alpaca's alone."""
    if config.generation.template != TRAINED:
        return config
    template = config.dataset.template
    suffix = config.generation.prompt_suffix if template == "alpaca" else ""
    return replace(config, generation=replace(config.generation, template=template, prompt_suffix=suffix))
