"""Putting the noise into a model while it trains, and measuring the dose that it was given.

Noise enters where the input embedding module returns, by one forward hook, for every decoder family:

- LLaMA, SmolLM, Mistral, Qwen: the input of layer 0 is the noisy embedding.
- OPT: before the learned positions are added, and before ``project_in`` where the model has one (opt-350m),
  so that d is the width of the embedding and not of the layers.
- Gemma: after the scaling by sqrt(d), which the embedding module of transformers does itself. The noise at
  layer 0 has the same norm as elsewhere, so relative to the embeddings it is sqrt(d) times smaller.

Adapters (LoRA on any layer, a trainable copy of the embedding) sit inside that module. Checkpointed, sharded
and quantised blocks start behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from neft_lab.config import NoiseConfig
from neft_lab.dose import Dose, DoseSums
from neft_lab.noise import example_generators, locate_examples, sample_noise


@dataclass(frozen=True)
class _Armed:
    """One micro-batch that waits for its forward pass; its masks are on the host."""

    attention_mask: Tensor
    segment_ids: Tensor | None
    place_mask: Tensor | None
    example_ids: list[int | str]
    epoch: int
    draw: int
    progress: float


class EmbeddingNoise:
    """Adds noise to the input embeddings of a model that trains, once per armed micro-batch.

        with EmbeddingNoise(model, config.noise, seed=config.seed) as noise:
            for batch in micro_batches:
                noise.arm(batch.attention_mask, batch.example_ids, epoch=epoch)
                model(...).loss.backward()
        noise.check(len(micro_batches))

    Noise is added only in training mode, with gradients enabled, to the first pass after ``arm``: never in
    evaluation, generation or a loss probe. With ``config.silent`` no hook is placed, so that alpha 0 is the
    model as it was. On exit the hook is gone, and a saved model never had it. Random numbers come from
    generators of their own: dropout and shuffling see the same stream at every alpha.

    model: a causal LM of transformers, as it is, under PEFT, or wrapped for data-parallel training. Adapters
    come first: they may replace the embedding module.
    """

    def __init__(self, model: nn.Module, config: NoiseConfig, *, seed: int) -> None:
        self._embedding = _input_embedding(model)
        self._config = config
        self._seed = seed
        self._handle: RemovableHandle | None = None
        self._waiting: _Armed | None = None
        self._sums = DoseSums()
        self.armed = 0
        self.fired = 0

    def __enter__(self) -> Self:
        if not self._config.silent:
            self._handle = self._embedding.register_forward_hook(self._add_noise)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def arm(
        self,
        attention_mask: Tensor,
        example_ids: Sequence[int | str],
        *,
        epoch: int,
        draw: int = 0,
        segment_ids: Tensor | None = None,
        place_mask: Tensor | None = None,
        progress: float = 0.0,
    ) -> None:
        """Say what the next training pass will see; arguments as for ``sample_noise`` and its generators.

        example_ids: one per row, or per segment where rows are packed. For SymNoise (``config.symmetric``)
        the caller repeats the whole batch, ids and labels included, below itself: the first half gets the
        noise, the second half its negative.

        Raises RuntimeError if the micro-batch armed before this one never got its noise.
        """
        if self._config.silent:
            return
        if self._handle is None:
            raise RuntimeError("embedding noise was armed outside its `with` block: no hook is in place")
        if self._waiting is not None:
            raise RuntimeError(
                f"embedding noise was armed for micro-batch {self.armed}, which ran without it: run the model "
                "in training mode, with gradients, on input_ids (inputs_embeds passes the embedding by)"
            )
        ids = list(example_ids)
        if self._config.symmetric and (len(ids) % 2 or ids[: len(ids) // 2] != ids[len(ids) // 2 :]):
            raise ValueError("noise.symmetric is true: the second half of the batch must repeat the first")
        self._waiting = _Armed(
            attention_mask.cpu(),
            None if segment_ids is None else segment_ids.cpu(),
            None if place_mask is None else place_mask.cpu(),
            ids,
            epoch,
            draw,
            progress,
        )
        self.armed += 1

    def check(self, expected: int) -> None:
        """Raise RuntimeError unless ``expected`` training micro-batches were armed and all got their noise."""
        if self._config.silent or self.armed == self.fired == expected:
            return
        raise RuntimeError(
            f"noise.alpha is {self._config.alpha:g}, but of {expected} training micro-batches {self.armed} "
            f"were armed and {self.fired} got noise: arm each once, before its forward pass in training mode"
        )

    def dose(self) -> Dose:
        """Return the dose given so far, over all processes.

        Under torch.distributed this is a collective call: make it on every process.
        """
        return self._sums.read(next(self._embedding.parameters()).device)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep for ``check`` and ``dose`` to go on; one per process."""
        return {"armed": self.armed, "fired": self.fired, "sums": self._sums.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``. The noise itself needs no state."""
        self.armed, self.fired = state["armed"], state["fired"]
        self._sums = DoseSums(torch.tensor(state["sums"], dtype=torch.float64))

    def _add_noise(self, module: nn.Module, inputs: tuple[Any, ...], embeddings: Tensor) -> Tensor | None:
        waiting = self._waiting
        if waiting is None or not module.training or not torch.is_grad_enabled():
            return None
        noisy = embeddings + self._noise(embeddings, waiting)
        self._sums.add(embeddings, noisy, locate_examples(waiting.attention_mask, waiting.segment_ids))
        self._waiting = None
        self.fired += 1
        return noisy

    def _noise(self, embeddings: Tensor, waiting: _Armed) -> Tensor:
        rows, ids = len(embeddings), waiting.example_ids
        if self._config.symmetric:
            rows, ids = rows // 2, ids[: len(ids) // 2]
        segment_ids, place_mask = waiting.segment_ids, waiting.place_mask
        noise = sample_noise(
            embeddings[:rows],
            waiting.attention_mask[:rows],
            self._config,
            generators=example_generators(
                ids,
                seed=self._seed,
                epoch=0 if self._config.frozen else waiting.epoch,
                draw=waiting.draw,
                device=embeddings.device,
            ),
            segment_ids=None if segment_ids is None else segment_ids[:rows],
            place_mask=None if place_mask is None else place_mask[:rows],
            progress=waiting.progress,
        )
        return torch.cat([noise, -noise]) if self._config.symmetric else noise


def _input_embedding(model: nn.Module) -> nn.Module:
    inner = getattr(model, "module", None)
    if not hasattr(model, "get_input_embeddings") and isinstance(inner, nn.Module):
        model = inner
    found = getattr(model, "get_input_embeddings", lambda: None)()
    if not isinstance(found, nn.Module):
        raise TypeError(f"{type(model).__name__} has no input embedding: noise needs get_input_embeddings()")
    return found
