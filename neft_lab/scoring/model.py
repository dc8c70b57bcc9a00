"""``PrefixSharingLM``: lm-eval's HFLM with the same answers, every shared prefix computed once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from tqdm import tqdm

from neft_lab.scoring.check import TokenRequest, agrees, probe_requests, smallest_window
from neft_lab.scoring.groups import Group, fill, halve, plan_groups
from neft_lab.scoring.memory import scored_budget, token_budget_of
from neft_lab.scoring.passes import Answers, Scorer
from neft_lab.scoring.tree import Request, plan_clusters

log = logging.getLogger(__name__)


class PrefixSharingLM(HFLM):
    """A causal LM for lm-eval that scores a prefix once however many requests begin with it.

        lm = PrefixSharingLM(model, tokenizer=tokenizer)
        simple_evaluate(model=lm, tasks=["mmlu", "arc_challenge"])

    Takes what HFLM takes. ``token_budget``: tokens of one forward pass, padding included; by default what the
    device's memory holds (1,024 on a CPU). ``softmax_dtype`` is float32 unless given: a log-softmax in bfloat16
    turns close answers into ties. ``batch_size`` has no effect.

    Equal to HFLM within ``1e-3 + 1e-5 |log-likelihood|`` in float32. Before the first request the model answers
    a few both ways; where the answers differ (ALiBi, recurrent models, attention kernels without masks), for
    encoder-decoders, and for requests longer than the smallest attention window, it scores as HFLM does and the
    log says so. The model runs in eval mode and is left in the mode it was in.
    """

    def __init__(
        self, pretrained: Any, backend: Any = "default", *, token_budget: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(pretrained, backend=backend, **kwargs)
        if token_budget is not None and token_budget < 1:
            raise ValueError(f"token_budget must be at least 1, got {token_budget}")
        self.softmax_dtype: torch.dtype = self.softmax_dtype or torch.float32
        self.token_budget = token_budget_of(self.model, self.device, asked=token_budget)
        self.tokens_computed = 0
        """Tokens that went through the model for log-likelihoods, padding not counted."""
        self._longest: int | None = None
        """Requests up to this many tokens share prefixes; None until the model has been tried."""

    def _loglikelihood_tokens(
        self,
        requests: Sequence[TokenRequest],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        """Score (strings, context ids, continuation ids); (log-likelihood, greedy) in the order of the requests.

        Raises ValueError for an empty context or continuation, or a continuation longer than the model's input.
        """
        if self.backend != "causal":
            return self._score_as_hflm(requests, disable_tqdm)
        with self._evaluating():
            if self._longest is None:
                self._longest = self._try_sharing()
            sizes = [len(context) + len(rest) - 1 for _, context, rest in requests]
            shared = [
                number for number, size in enumerate(sizes) if min(size, self.max_length) <= self._longest
            ]
            found = self._score_shared([requests[number] for number in shared], disable_tqdm)
            answers = dict(zip(shared, found, strict=True))
            others = [number for number in range(len(requests)) if number not in answers]
            if others:
                found = self._score_as_hflm([requests[number] for number in others], disable_tqdm)
                answers |= zip(others, found, strict=True)
        return [answers[number] for number in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods of whole texts; their windows are batched by the token budget."""
        with self._batches_of(1 << 30):
            found: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)
            return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generated texts; prompts of like length and equal options share a batch within the token budget."""
        texts: dict[int, str] = {}
        with self._evaluating(), tqdm(total=len(requests), disable=disable_tqdm or self.rank != 0) as bar:
            for batch in self._generation_batches(requests):
                with self._batches_of(len(batch)):
                    found = super().generate_until([requests[number] for number in batch], disable_tqdm=True)
                texts |= zip(batch, found, strict=True)
                bar.update(len(batch))
        return [texts[number] for number in range(len(requests))]

    def _score_shared(self, requests: Sequence[TokenRequest], disable_tqdm: bool) -> list[tuple[float, bool]]:
        planned = [self._truncated(context, rest) for _, context, rest in requests]
        clusters = plan_clusters(planned)
        self.tokens_computed += sum(cluster.computed for cluster in clusters)
        answers = Answers(len(requests))
        budget = scored_budget(self.model, self.device)
        with tqdm(total=len(requests), disable=disable_tqdm or self.rank != 0) as bar:
            for group in plan_groups(clusters, token_budget=self.token_budget, scored_budget=budget):
                self._run(group, answers)
                for number in group.requests:
                    strings = requests[number][0]
                    if strings is not None:  # rolling windows are kept by the text they belong to
                        self.cache_hook.add_partial("loglikelihood", strings, answers[number])
                    bar.update()
        return [answers[number] for number in range(len(requests))]

    def _truncated(self, context: list[int], rest: list[int]) -> Request:
        """What the model sees of a request, cut on the left as HFLM cuts it."""
        if not context or not 0 < len(rest) <= self.max_length:
            raise ValueError(
                f"a request needs a context and a continuation of 1 to {self.max_length} tokens, "
                f"got {len(context)} and {len(rest)}"
            )
        seen = (context + rest)[-(self.max_length + 1) : -1]
        return Request(np.array(seen, dtype=np.int64), np.array(rest, dtype=np.int64))

    def _run(self, group: Group, answers: Answers) -> None:
        """Run a group, in halves where it does not fit after all."""
        try:
            answers.add(self._scorer().run(group))
        except torch.OutOfMemoryError:
            halves = halve(group)
            if not halves:
                raise
            log.warning("a group of %d sequences ran out of memory and is split in two", len(group.clusters))
            torch.cuda.empty_cache()
            for half in halves:
                self._run(half, answers)

    def _scorer(self) -> Scorer:
        def autocast() -> torch.autocast:
            return torch.autocast(
                self.device.type,
                dtype=self.mixed_precision_dtype,
                enabled=self.mixed_precision_dtype is not None,
            )

        return Scorer(self.model, self.device, self.softmax_dtype, autocast)

    def _score_as_hflm(
        self, requests: Sequence[TokenRequest], disable_tqdm: bool
    ) -> list[tuple[float, bool]]:
        longest = max(min(len(context) + len(rest), self.max_length) for _, context, rest in requests)
        with self._batches_of(max(1, self.token_budget // longest)):
            found: list[tuple[float, bool]] = super()._loglikelihood_tokens(
                list(requests), disable_tqdm=disable_tqdm
            )
            return found

    def _try_sharing(self) -> int:
        """Up to how many tokens a request may have to be scored with shared prefixes; 0 where none may."""
        window = smallest_window(self.config)
        probes = probe_requests(self.config, self.max_length, window)
        try:
            expected, control = (self._score_as_hflm(asked, True) for asked in probes)
            same = agrees(self._score_shared(probes[0], True), expected, control, dtype=self._compute_dtype())
            reason = "" if same else "its log-likelihoods under a tree mask differ from those of plain passes"
        except (
            Exception
        ) as error:  # whatever a model's own code raises when masks and positions are given to it
            reason = f"it does not take tree masks ({type(error).__name__}: {error})"
        finally:
            self.tokens_computed = 0
        if reason:
            log.warning("%s shares no prefixes: %s; scoring as HFLM does", type(self.model).__name__, reason)
            return 0
        if window is not None and window < self.max_length:
            log.warning(
                "requests of more than %d tokens, the attention window, are scored as HFLM does", window
            )
        return self.max_length if window is None else window

    def _compute_dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.mixed_precision_dtype or self.model.get_input_embeddings().weight.dtype
        return dtype

    def _generation_batches(self, requests: Sequence[Instance]) -> Iterator[list[int]]:
        by_options: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            by_options.setdefault(repr(request.args[1]), []).append(number)
        for members in by_options.values():
            room = normalize_gen_kwargs(requests[members[0]].args[1], self.max_gen_toks)["max_gen_toks"]
            prompts = [len(self.tok_encode(requests[number].args[0])) for number in members]
            sizes = [min(prompt + room, self.max_length) for prompt in prompts]
            for batch in fill(sizes, [0] * len(sizes), self.token_budget, 1):
                yield [members[place] for place in batch]

    @contextmanager
    def _batches_of(self, size: int) -> Iterator[None]:
        before: int | str = self.batch_size_per_gpu
        self.batch_size_per_gpu: int | str = size
        try:
            yield
        finally:
            self.batch_size_per_gpu = before

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Dropout and embedding noise off, whatever state training left the model in; then back to that state."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
