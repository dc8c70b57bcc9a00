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

from neft_lab.scoring.tree import Cluster, Group, Row, Scored

LOGIT_ROWS = 128
"""Positions whose log-softmax is taken at once; keeps its float32 copy small."""


class Tally:
    """Sums of log-probabilities and whether every target was the likeliest token, by request."""

    def __init__(self, requests: int) -> None:
        self.loglikelihoods = np.zeros(requests)
        self.greedy = np.ones(requests, dtype=bool)

    def add(self, requests: np.ndarray, logprobs: Tensor, greedy: Tensor) -> None:
        np.add.at(self.loglikelihoods, requests, logprobs.double().cpu().numpy())
        np.logical_and.at(self.greedy, requests, greedy.cpu().numpy())


@dataclass(frozen=True)
class Scorer:
    """A causal LM in eval mode, ready to run groups.

    softmax_dtype: of the log-softmax. autocast: makes a fresh autocast context for each pass.
    """

    model: nn.Module
    device: torch.device
    softmax_dtype: torch.dtype
    autocast: Callable[[], Any]

    def run(self, group: Group, tally: Tally) -> None:
        """Compute one group and add its scores."""
        stems = self._run_stems(group.clusters, tally, keep=bool(group.batches))
        lengths = [len(cluster.stem) for cluster in group.clusters]
        for batch in group.batches:
            self._run_rows(batch, stems, lengths, tally)

    def _run_stems(self, clusters: Sequence[Cluster], tally: Tally, *, keep: bool) -> Cache:
        """An ordinary causal pass; padding on the right is seen by nobody."""
        tokens = self._pad([cluster.stem for cluster in clusters])
        cache = DynamicCache()  # without the config: sliding layers keep all their keys too
        chosen = [cluster.scored for cluster in clusters]
        self._forward(chosen, tokens.shape[1], tally, input_ids=tokens, past_key_values=cache if keep else None, use_cache=keep)
        return cache

    def _run_rows(self, batch: Sequence[tuple[int, Row]], stems: Cache, lengths: Sequence[int], tally: Tally) -> None:
        owners, rows = [owner for owner, _ in batch], [row for _, row in batch]
        tokens = self._pad([row.tokens for row in rows])
        options: dict[str, Any] = {"input_ids": tokens, "past_key_values": _Stems(stems, owners), "use_cache": True}
        if self._takes_positions:
            options["position_ids"] = self._pad([row.depths for row in rows])
        options["attention_mask"] = self._mask(rows, [lengths[owner] for owner in owners], max(lengths), tokens.shape[1])
        self._forward([row.scored for row in rows], tokens.shape[1], tally, **options)

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
        return torch.zeros(mask.shape, dtype=dtype, device=self.device).masked_fill_(~mask, torch.finfo(dtype).min)

    @property
    def _takes_positions(self) -> bool:
        bare = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return "position_ids" in inspect.signature(bare.forward).parameters

    def _forward(self, scored: Sequence[Scored], width: int, tally: Tally, **options: Any) -> None:
        """One pass over (b, t) tokens; only the scored positions go through the output head."""
        places = np.concatenate([row * width + one.positions for row, one in enumerate(scored)])
        flat, pairs = np.unique(places, return_inverse=True)
        with torch.no_grad(), self.autocast(), _head_sees(self.model, torch.from_numpy(flat).to(self.device)):
            logits = self.model(**options).logits
        if len(flat) == 0:
            return
        logits = logits.flatten(0, 1)
        if len(logits) != len(flat):  # a model whose head could not be reached
            logits = logits[torch.from_numpy(flat).to(logits.device)]
        targets = np.concatenate([one.targets for one in scored])
        requests = np.concatenate([one.requests for one in scored])
        order = np.argsort(pairs, kind="stable")
        self._score(logits, pairs[order], targets[order], requests[order], tally)

    def _score(self, logits: Tensor, pairs: np.ndarray, targets: np.ndarray, requests: np.ndarray, tally: Tally) -> None:
        """logits: (n, vocabulary); ``pairs`` rises and says which row a target is looked up in."""
        for first in range(0, len(logits), LOGIT_ROWS):
            low, high = np.searchsorted(pairs, [first, first + LOGIT_ROWS])
            logprobs = torch.log_softmax(logits[first : first + LOGIT_ROWS], dim=-1, dtype=self.softmax_dtype)
            rows = torch.from_numpy(pairs[low:high] - first).to(logits.device)
            wanted = torch.from_numpy(targets[low:high]).to(logits.device)
            greedy = logprobs.argmax(dim=-1)[rows] == wanted
            tally.add(requests[low:high], logprobs[rows, wanted], greedy)


def _mark_ancestors(table: np.ndarray, row: Row) -> None:
    """Fill (t, t): each token sees itself and the tokens on its way back to the stem; padding sees itself."""
    np.fill_diagonal(table, True)
    for run in row.runs:
        block = slice(run.start, run.start + run.length)
        if run.parent >= 0:
            table[block] |= table[run.parent]
        table[block, block] = np.tri(run.length, dtype=bool)


@contextmanager
def _head_sees(model: nn.Module, places: Tensor) -> Iterator[None]:
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

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


def _laid_out(states: Tensor, owners: Sequence[int]) -> Tensor:
    """(stems, heads, s, d) -> (b, heads, s, d) without a copy where the layout allows it."""
    if len(states) == 1:
        return states.expand(len(owners), -1, -1, -1)
    if list(owners) == list(range(len(states))):
        return states
    return states[torch.tensor(owners, device=states.device)]
