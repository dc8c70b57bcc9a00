"""Batches planned ahead: by length, within a token budget, the same every time.

In bfloat16 a row's result depends on its batch mates, so a resumed pass must form the very same batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from neft_lab.store import canonical_json


def plan_batches(lengths: Sequence[int], *, token_budget: int, extra: int = 0) -> list[list[int]]:
    """Row numbers in batches of at most ``token_budget`` tokens, padding included, longest rows first.

    ``extra`` tokens are added to every row (what a row will generate). A row over the budget stands alone.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    for row in order:
        width = (lengths[batches[-1][0]] if batches else 0) + extra
        if batches and (len(batches[-1]) + 1) * width <= token_budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def plan_digest(batches: Sequence[Sequence[int]], texts: Sequence[str]) -> str:
    """A digest of what the batches hold; a journal of another plan is not resumed."""
    return hashlib.sha256(canonical_json([list(map(list, batches)), list(texts)]).encode()).hexdigest()[:16]
