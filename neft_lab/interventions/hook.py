"""The one place where a model's input embeddings are changed while it trains.

That is where the input embedding module returns, by a forward hook, for every decoder family:

- LLaMA, SmolLM, Mistral, Qwen: the input of layer 0 is the changed embedding.
- OPT: before the learned positions are added, and before ``project_in`` where the model has one (opt-350m),
  so that d is the width of the embedding and not of the layers.
- Gemma: after the scaling by sqrt(d), which the embedding module of transformers does itself.

Adapters (LoRA on any layer, a trainable copy of the embedding) sit inside that module. Checkpointed, sharded
and quantised blocks start behind it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from neft_lab.noise import Examples, example_generators, locate_examples
from neft_lab.noise.dose import Dose, DoseSums


@dataclass(frozen=True)
class MicroBatch:
    """What a hook is told of the pass to come; masks (b, t) are on the host.

    example_ids: one per row, or per segment where rows are packed.
    """

    attention_mask: Tensor
    segment_ids: Tensor | None
    place_mask: Tensor | None
    example_ids: list[int | str]
    epoch: int
    draw: int
    progress: float

    @property
    def examples(self) -> Examples:
        """Where its examples are."""
        return locate_examples(self.attention_mask, self.segment_ids)

    def generators(self, *, seed: int, device: torch.device, stream: str) -> list[torch.Generator]:
        """One per example, of a stream beside the noise's: they depend on neither batch mates nor a resume."""
        return example_generators(
            self.example_ids, seed=seed, epoch=self.epoch, draw=self.draw, device=device, stream=stream
        )


class EmbeddingHook(ABC):
    """Changes the input embeddings of a model that trains, once per armed micro-batch.

        with hook:
            for batch in micro_batches:
                hook.arm(batch.attention_mask, batch.example_ids, epoch=epoch)
                model(...).loss.backward()
        hook.check(len(micro_batches))

    Embeddings are changed only in training mode, with gradients enabled, in the first pass after ``arm``:
    never in evaluation, generation or a loss probe. A hook that is not ``active`` is never placed. On exit
    it is gone, and a saved model never had it. Hooks change the embeddings in the order of their blocks.

    model: a causal LM of transformers, as it is, under PEFT, or wrapped for data-parallel training. Adapters
    come first: they may replace the embedding module.
    """

    what: str
    """What is added or done, for messages."""

    def __init__(self, model: nn.Module, *, active: bool, asked: str) -> None:
        """Take ``asked``, the configuration that asks for the hook, for the message of ``check``."""
        self.embedding = _input_embedding(model)
        self.active = active
        self._asked = asked
        self._handle: RemovableHandle | None = None
        self._waiting: MicroBatch | None = None
        self.armed = 0
        self.fired = 0

    @abstractmethod
    def change(self, embeddings: Tensor, batch: MicroBatch) -> Tensor:
        """Return the changed embeddings (b, t, d) of one micro-batch."""

    def __enter__(self) -> Self:
        if self.active:
            self._handle = self.embedding.register_forward_hook(self._fire)
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

        Raises RuntimeError if the micro-batch armed before this one ran past the hook.
        """
        if not self.active:
            return
        if self._handle is None:
            raise RuntimeError(f"{self.what} was armed outside its `with` block: no hook is in place")
        if self._waiting is not None:
            raise RuntimeError(
                f"{self.what} was armed for micro-batch {self.armed}, which ran without it: run the model "
                "in training mode, with gradients, on input_ids (inputs_embeds passes the embedding by)"
            )
        self._waiting = MicroBatch(
            attention_mask.cpu(),
            None if segment_ids is None else segment_ids.cpu(),
            None if place_mask is None else place_mask.cpu(),
            list(example_ids),
            epoch,
            draw,
            progress,
        )
        self.armed += 1

    def check(self, expected: int) -> None:
        """Raise RuntimeError unless ``expected`` training micro-batches were armed and all were changed."""
        if not self.active or self.armed == self.fired == expected:
            return
        raise RuntimeError(
            f"{self._asked}, but of {expected} training micro-batches {self.armed} were armed and "
            f"{self.fired} got {self.what}: arm each once, before its forward pass in training mode"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep for ``check`` to go on; one per process."""
        return {"armed": self.armed, "fired": self.fired}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``. What is drawn needs no state."""
        self.armed, self.fired = state["armed"], state["fired"]

    def _fire(self, module: nn.Module, inputs: tuple[Any, ...], embeddings: Tensor) -> Tensor | None:
        batch = self._waiting
        if batch is None or not module.training or not torch.is_grad_enabled():
            return None
        changed = self.change(embeddings, batch)
        self._waiting = None
        self.fired += 1
        return changed


class MeasuredHook(EmbeddingHook):
    """A hook that adds something to the embeddings, and measures the dose of what it added."""

    def __init__(self, model: nn.Module, *, active: bool, asked: str) -> None:
        super().__init__(model, active=active, asked=asked)
        self._sums = DoseSums()

    def dose(self) -> Dose:
        """Return the dose given so far, over all passes and processes.

        Under torch.distributed this is a collective call: make it on every process.
        """
        return self._sums.read(next(self.embedding.parameters()).device)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep for ``check`` and ``dose`` to go on; one per process."""
        return {**super().state_dict(), "sums": self._sums.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``. What is drawn needs no state."""
        super().load_state_dict(state)
        self._sums = DoseSums(torch.tensor(state["sums"], dtype=torch.float64))


def _input_embedding(model: nn.Module) -> nn.Module:
    inner = getattr(model, "module", None)
    if not hasattr(model, "get_input_embeddings") and isinstance(inner, nn.Module):
        model = inner
    found = getattr(model, "get_input_embeddings", lambda: None)()
    if not isinstance(found, nn.Module):
        raise TypeError(f"{type(model).__name__} has no input embedding: noise needs get_input_embeddings()")
    return found
