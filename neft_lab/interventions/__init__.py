"""All that is done to a model's passes while it trains, in one place and in one order.

The embeddings lose some of their numbers (dropout), then get the noise, then FreeLB's perturbation; the untouched
model stands beside where a divergence from it is part of the loss. Each part is off unless its configuration asks for
it, and a part that was asked for and did not act in every pass fails the training.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Self

from torch import Tensor, nn

from neft_lab.config import NoiseConfig, RegularizerConfig
from neft_lab.interventions.dropout import EmbeddingDropout
from neft_lab.interventions.freelb import FreeLB
from neft_lab.interventions.hook import EmbeddingHook
from neft_lab.interventions.noise import EmbeddingNoise
from neft_lab.interventions.untouched import UntouchedModel


class Interventions:
    """What noise and regularizers do to the passes of a training.

        with Interventions(model, config.noise, config.regularizer, seed=config.seed) as interventions:
            for batch in micro_batches:
                for _ in interventions.passes(batch.attention_mask, batch.example_ids, epoch=epoch):
                    (model(...).loss / interventions.steps).backward()
        interventions.check(len(micro_batches))

    model: as for ``EmbeddingHook``, untouched when the block begins. Where its whole weights train and
    ``regularizer.kl`` is above 0, a copy of it is kept beside it.
    """

    def __init__(
        self, model: nn.Module, noise: NoiseConfig, regularizer: RegularizerConfig, *, seed: int
    ) -> None:
        self.noise_config = noise
        self.regularizer = regularizer
        self.dropout = EmbeddingDropout(model, regularizer.embedding_dropout, seed=seed)
        self.noise = EmbeddingNoise(model, noise, seed=seed)
        self.adversary = FreeLB(model, regularizer, seed=seed)
        self.untouched: UntouchedModel | None = None
        """Inside the block, where ``regularizer.kl`` is above 0."""
        self._model = model
        self._placed = ExitStack()

    @property
    def steps(self) -> int:
        """Passes per micro-batch; each counts its share of the loss."""
        return self.adversary.steps

    @property
    def _hooks(self) -> dict[str, EmbeddingHook]:
        return {"dropout": self.dropout, "noise": self.noise, "adversary": self.adversary}

    def __enter__(self) -> Self:
        if self.regularizer.kl:
            self.untouched = _untouched(self._model)
        for hook in self._hooks.values():
            self._placed.enter_context(hook)
        return self

    def __exit__(self, *told: object) -> None:
        self._placed.close()
        self.untouched = None

    def passes(
        self, attention_mask: Tensor, example_ids: Sequence[int | str], **options: Any
    ) -> Iterator[int]:
        """Yield the number of each pass of one micro-batch; arguments as for ``EmbeddingHook.arm``."""
        for number in self.adversary.passes(attention_mask, example_ids, **options):
            self.dropout.arm(attention_mask, example_ids, **options)
            self.noise.arm(attention_mask, example_ids, **options)
            yield number

    def check(self, micro_batches: int) -> None:
        """Raise RuntimeError unless every part that was asked for acted in every pass of so many micro-batches."""
        for hook in self._hooks.values():
            hook.check(micro_batches * self.steps)

    def doses(self) -> dict[str, float]:
        """The noise that was given; under FreeLB its perturbations, and examples by passes that had one.

        Under torch.distributed this is a collective call: make it on every process.
        """
        noise = self.noise.dose()
        told = {
            "mean_noise_norm": noise.mean_noise_norm,
            "noise_to_embedding_rms": noise.noise_to_embedding_rms,
            "equivalent_alpha": noise.equivalent_alpha,
        }
        if self.adversary.active:
            perturbed = self.adversary.dose()
            told["mean_perturbation_norm"] = perturbed.mean_noise_norm
            told["perturbed_examples"] = perturbed.examples
        return told

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep for ``check`` and the doses to go on; one per process."""
        return {name: hook.state_dict() for name, hook in self._hooks.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``. What is drawn needs no state."""
        for name, hook in self._hooks.items():
            hook.load_state_dict(state[name])


def _untouched(model: nn.Module) -> UntouchedModel:
    if hasattr(model, "disable_adapter"):
        return UntouchedModel(model, None)
    return UntouchedModel(model, copy.deepcopy(model).requires_grad_(False))
