"""What is done to the loss beside the noise; every part stacks with noise and with the others."""

from __future__ import annotations

from dataclasses import dataclass

from neft_lab.config.rules import key, require


@dataclass
class RegularizerConfig:
    """0 leaves a part out, and ``eos_weight: 1`` is the plain loss; formulas are in ``neft_lab/interventions/regularizers.py``."""

    name: str = key()
    label_smoothing: float = key()
    entropy: float = key()
    """Weight of the entropy of the model's distribution, subtracted from the loss."""
    kl: float = key()
    """Weight of the divergence from the untouched model."""
    prompt_loss: float = key()
    """Loss weight of a prompt's own tokens, those of the template apart (instruction modelling)."""
    eos_weight: float = key()
    """Loss weight of the token that ends a response; 0 masks it."""
    embedding_dropout: float = key()
    freelb_steps: int = key()
    """Passes per optimizer step, each with the perturbation moved up the gradient; 0 is no adversary."""
    freelb_start: float = key()
    """Size of the first perturbation, in the units of noise.alpha."""
    freelb_step_size: float = key()
    """L2 length of one step up the gradient, per example."""
    freelb_max_norm: float = key()
    """L2 ball that holds an example's perturbation; 0 is no ball."""

    def __post_init__(self) -> None:
        for name in ("entropy", "kl", "eos_weight", "freelb_start", "freelb_step_size", "freelb_max_norm"):
            require(getattr(self, name) >= 0, f"regularizer.{name}", getattr(self, name), "must be >= 0")
        for name in ("label_smoothing", "embedding_dropout"):
            value = getattr(self, name)
            require(0 <= value < 1, f"regularizer.{name}", value, "must be at least 0 and below 1")
        require(
            0 <= self.prompt_loss <= 1, "regularizer.prompt_loss", self.prompt_loss, "must be from 0 to 1"
        )
        require(self.freelb_steps >= 0, "regularizer.freelb_steps", self.freelb_steps, "must be >= 0")
        # what would be read and do nothing is a mistake: nobody sees it in the results
        for name, least in (("freelb_start", 1), ("freelb_step_size", 2), ("freelb_max_norm", 2)):
            value = getattr(self, name)
            rule = f"needs regularizer.freelb_steps of at least {least}"
            require(not value or self.freelb_steps >= least, f"regularizer.{name}", value, rule)
