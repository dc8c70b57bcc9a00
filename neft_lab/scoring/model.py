"""``PrefixSharingLM``: lm-eval's HFLM with the same answers, each shared prefix computed once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch import nn
from tqdm import tqdm

from neft_lab.scoring.passes import Scorer, Tally
from neft_lab.scoring.tree import Group, Request, plan_clusters, plan_groups

log = logging.getLogger(__name__)

TokenRequest = tuple[tuple[str, str] | None, list[int], list[int]]


class PrefixSharingLM(HFLM):
    def __init__(self, pretrained: Any, backend: Any = "default", *, token_budget: int | None = None, **kwargs: Any) -> None:
        super().__init__(pretrained, backend, **kwargs)
        self.token_budget = token_budget or 2048
        if self.softmax_dtype is None:
            self.softmax_dtype = torch.float32
        self.tokens_computed = 0

    def _loglikelihood_tokens(self, requests, disable_tqdm=False, override_bs=None):
        planned = [self._request(r) for r in requests]
        tally = Tally(len(planned))
        clusters = plan_clusters(planned)
        self.tokens_computed += sum(c.computed for c in clusters)
        from contextlib import nullcontext
        scorer = Scorer(self.model, self.device, self.softmax_dtype, nullcontext)
        for group in plan_groups(clusters, token_budget=self.token_budget, scored_budget=4096):
            scorer.run(group, tally)
        res = [(float(a), bool(b)) for a, b in zip(tally.loglikelihoods, tally.greedy)]
        return res

    def _request(self, r):
        _, ctx, cont = r
        return Request(np.array((ctx + cont)[-(self.max_length + 1):][:-1], dtype=np.int64), np.array(cont, dtype=np.int64))
