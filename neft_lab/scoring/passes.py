"""Running planned groups through a model: stems, rows under a tree mask, logits only where they are scored."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from neft_lab.scoring.groups import Group
from neft_lab.scoring.memory import release_freed
from neft_lab.scoring.tree import Row, Scored

CPU_LOGITS, GPU_LOGITS = 1 << 20, 1 << 23
"""Logits whose log-softmax is taken at once. On a CPU their float32 copy stays in the cache, which halves the time."""


@dataclass(frozen=True)
class Part:
    """What one pass found: for each scored position its request, log-probability, and whether it is the likeliest."""

    requests: np.ndarray
    logprobs: np.ndarray
    greedy: np.ndarray


class Answers:
    """Log-likelihoods and greedy flags, by request, as passes add to them."""

    def __init__(self, requests: int) -> None:
        self._loglikelihoods = np.zeros(requests)
        self._greedy = np.ones(requests, dtype=bool)

    def add(self, parts: Sequence[Part]) -> None:
        for part in parts:
            np.add.at(self._loglikelihoods, part.requests, part.logprobs)
            np.logical_and.at(self._greedy, part.requests, part.greedy)

    def __getitem__(self, request: int) -> tuple[float, bool]:
        return float(self._loglikelihoods[request]), bool(self._greedy[request])


@dataclass(frozen=True)
class Scorer:
    """A causal LM in eval mode, ready to run groups.

    softmax_dtype: of the log-softmax. autocast: makes a fresh autocast context for each pass.
    """

    model: Any
    device: torch.device
    softmax_dtype: torch.dtype
    autocast: Callable[[], Any]

    def run(self, group: Group) -> list[Part]:
        """Compute one group: its stems in an ordinary causal pass, then its batches of rows."""
        tokens = self._pad([cluster.stem for cluster in group.clusters])  # nobody sees padding on the right
        scored = [cluster.scored for cluster in group.clusters]
        if not group.batches:
            return self._forward(scored, input_ids=tokens, use_cache=False)
        stems = DynamicCache()  # without the config: sliding layers keep all their keys too
        parts = self._forward(scored, input_ids=tokens, past_key_values=stems, use_cache=True)
        lengths = [len(cluster.stem) for cluster in group.clusters]
        for batch in group.batches:
            parts += self._run_rows(batch, stems, lengths)
        return parts

    def _run_rows(self, batch: Sequence[tuple[int, Row]], stems: Cache, lengths: Sequence[int]) -> list[Part]:
        owners, rows = [owner for owner, _ in batch], [row for _, row in batch]
        tokens = self._pad([row.tokens for row in rows])
        options: dict[str, Any] = {
            "input_ids": tokens,
            "past_key_values": _Stems(stems, owners),
            "use_cache": True,
        }
        if self._takes_positions:
            options["position_ids"] = self._pad([row.depths for row in rows])
        options["attention_mask"] = self._mask(
            rows, [lengths[owner] for owner in owners], max(lengths), tokens.shape[1]
        )
        return self._forward([row.scored for row in rows], **options)

    def _pad(self, sequences: Sequence[np.ndarray]) -> Tensor:
        table = np.zeros((len(sequences), max(map(len, sequences))), dtype=np.int64)
        for number, sequence in enumerate(sequences):
            table[number, : len(sequence)] = sequence
        return torch.from_numpy(table).to(self.device)

    def _mask(self, rows: Sequence[Row], lengths: Sequence[int], stem: int, width: int) -> Tensor:
        """What each token of each row may see: (b, 1, t, stem + t), boolean for sdpa, else added to the scores."""
        seen = np.zeros((len(rows), 1, width, stem + width), dtype=bool)
        for table, row, length in zip(seen[:, 0], rows, lengths, strict=True):
            table[:, :length] = True
            _mark_ancestors(table[:, stem:], row)
        mask = torch.from_numpy(seen).to(self.device)
        if getattr(self.model.config, "_attn_implementation", None) == "sdpa":
            return mask
        dtype = self.model.get_input_embeddings().weight.dtype
        return torch.zeros(mask.shape, dtype=dtype, device=self.device).masked_fill_(
            ~mask, torch.finfo(dtype).min
        )

    @property
    def _takes_positions(self) -> bool:
        bare = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return "position_ids" in inspect.signature(bare.forward).parameters

    def _forward(self, scored: Sequence[Scored], **options: Any) -> list[Part]:
        """One pass over (b, t) tokens, which leaves no memory behind."""
        parts = self._pass(scored, **options)
        release_freed(self.device)
        return parts

    def _pass(self, scored: Sequence[Scored], **options: Any) -> list[Part]:
        """Only the scored positions go through the output head."""
        width = options["input_ids"].shape[1]
        places = np.concatenate([row * width + one.positions for row, one in enumerate(scored)])
        flat, pairs = np.unique(places, return_inverse=True)
        chosen = torch.from_numpy(flat).to(self.device)
        with torch.no_grad(), self.autocast(), _head_sees(self.model, chosen):
            logits = self.model(**options).logits.flatten(0, 1)
        if len(logits) != len(flat):  # a model whose head could not be reached
            logits = logits[chosen.to(logits.device)]
        targets = np.concatenate([one.targets for one in scored])
        requests = np.concatenate([one.requests for one in scored])
        order = np.argsort(pairs, kind="stable")
        return list(self._look_up(logits, pairs[order], targets[order], requests[order]))

    def _look_up(
        self, logits: Tensor, pairs: np.ndarray, targets: np.ndarray, requests: np.ndarray
    ) -> Iterator[Part]:
        """logits: (n, vocabulary). ``pairs`` rises and says in which row each target is looked up."""
        held = CPU_LOGITS if logits.device.type == "cpu" else GPU_LOGITS
        step = max(1, held // logits.shape[-1])
        for first in range(0, len(logits), step):
            low, high = np.searchsorted(pairs, [first, first + step])
            logprobs = torch.log_softmax(logits[first : first + step], dim=-1, dtype=self.softmax_dtype)
            rows = torch.from_numpy(pairs[low:high] - first).to(logits.device)
            wanted = torch.from_numpy(targets[low:high]).to(logits.device)
            greedy = logprobs.argmax(dim=-1)[rows] == wanted
            found = logprobs[rows, wanted].double()
            yield Part(requests[low:high], found.cpu().numpy(), greedy.cpu().numpy())


def _mark_ancestors(table: np.ndarray, row: Row) -> None:
    """Fill (t, t): each token sees itself and the tokens on its way back to the stem; padding sees itself."""
    np.fill_diagonal(table, True)
    for run in row.runs:
        block = slice(run.start, run.start + run.length)
        if run.parent >= 0:
            table[block] |= table[run.parent]
        table[block, block] = np.tri(run.length, dtype=bool)


@contextmanager
def _head_sees(model: Any, places: Tensor) -> Iterator[None]:
    """Let only some positions of the flattened (b, t) hidden states reach the output head.

    What a model does to its logits afterwards (scaling, soft capping) stays as it is.
    """
    head = model.get_output_embeddings()
    if head is None:
        yield
        return

    def choose(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden: Tensor = inputs[0]
        return (hidden.flatten(0, 1)[places.to(hidden.device)].unsqueeze(0), *inputs[1:])

    handle = head.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()


class _Stems(Cache):
    """Keys and values of stems, laid out for rows; what a pass adds is used by it and not kept."""

    def __init__(self, stems: Cache, owners: Sequence[int]) -> None:
        super().__init__(layers=[_StemLayer(layer.keys, layer.values, owners) for layer in stems.layers])


class _StemLayer(DynamicLayer):
    def __init__(self, keys: Tensor, values: Tensor, owners: Sequence[int]) -> None:
        super().__init__()
        self.keys, self.values = _laid_out(keys, owners), _laid_out(values, owners)
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


def _laid_out(states: Tensor, owners: Sequence[int]) -> Tensor:
    """(stems, heads, s, d) -> (b, heads, s, d) without a copy where the layout allows it."""
    if len(states) == 1:
        return states.expand(len(owners), -1, -1, -1)
    if list(owners) == list(range(len(states))):
        return states
    return states[torch.tensor(owners, device=states.device)]
