from __future__ import annotations
from typing import Any
from lm_eval.models.huggingface import HFLM


class PrefixSharingLM(HFLM):
    def __init__(self, pretrained: Any, backend: Any = "default", *, token_budget: int | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("softmax_dtype", "float32")
        super().__init__(pretrained, backend, **kwargs)
