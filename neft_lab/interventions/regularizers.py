"""Rivals of the noise on the side of the loss: what a token's loss is, and how much every token counts.

The loss of a step is ``sum(w * l) / sum(w)`` over its tokens, ``l`` from ``token_losses`` and ``w`` from
``label_weights``; the parts of a configuration add up, and stack with noise. What acts on the embeddings is in
``embedding_dropout`` and ``freelb``, weight decay is ``finetune.weight_decay``.

Shapes: ``n`` tokens that carry loss, ``v`` vocabulary. Notation: ``y`` target, ``p`` the model's distribution over
the vocabulary, ``p_0`` that of the untouched model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from neft_lab.config import RegularizerConfig, UserError
from neft_lab.datasets import IGNORED


class Labelled(Protocol):
    """What ``label_weights`` reads of an example; one entry per token each."""

    @property
    def input_ids(self) -> list[int]: ...

    @property
    def labels(self) -> list[int]:
        """IGNORED outside the responses."""

    @property
    def prompt_text_mask(self) -> list[int]:
        """1 on the tokens of instruction and input, 0 on the template and the response."""


def token_losses(
    logits: Tensor, targets: Tensor, config: RegularizerConfig, *, base_logits: Tensor | None = None
) -> Tensor:
    """Return the loss (n,) of every token in nats, in the logits' dtype but at least float32.

    logits (n, v), targets (n,). base_logits (n, v): those of the untouched model at the same tokens; needed
    where ``config.kl`` is above 0, and no gradient reaches them.

        (1 - e) * -log p_y  -  e/v * sum_k log p_k  -  b * H(p)  +  c * KL(p || p_0)

    - e, ``label_smoothing``: the target becomes (1 - e) one-hot plus e uniform (Szegedy et al. 2016; torch's and
      transformers' rule).
    - b, ``entropy``: H(p) = -sum_k p_k log p_k is subtracted (Pereyra et al. 2017, arXiv 1701.06548).
    - c, ``kl``: KL(p || p_0) = sum_k p_k (log p_k - log p_0k), the expectation under the model that trains: mass
      where the untouched model has none is dear, and missing one of its modes is cheap.

    With all three 0 this is the cross-entropy, bit for bit. Raises ValueError where base_logits are missing.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    logits = logits.to(dtype)
    losses = functional.cross_entropy(
        logits, targets, reduction="none", label_smoothing=config.label_smoothing
    )
    if not config.entropy and not config.kl:
        return losses
    log_p = functional.log_softmax(logits, dim=-1)
    negative_entropy = (log_p.exp() * log_p).sum(dim=-1)
    if config.entropy:
        losses = losses + config.entropy * negative_entropy
    if config.kl:
        if base_logits is None:
            raise ValueError("regularizer.kl is above 0: pass base_logits, those of the untouched model")
        log_base = functional.log_softmax(base_logits.detach().to(dtype), dim=-1)
        losses = losses + config.kl * (negative_entropy - (log_p.exp() * log_base).sum(dim=-1))
    return losses


def is_cross_entropy(config: RegularizerConfig) -> bool:
    """Whether ``token_losses`` is the plain cross-entropy."""
    return not (config.label_smoothing or config.entropy or config.kl)


def label_weights(example: Labelled, config: RegularizerConfig, *, eos_id: int) -> list[float]:
    """Return the loss weight of every token of an example as a target; 0 where it is not learned.

    Response tokens count 1 and a response's end token (``eos_id``) ``config.eos_weight``. Tokens of the
    instruction and its input count ``config.prompt_loss`` (instruction modelling, arXiv 2405.14394: 1); those of
    the template count nothing. The first token is nobody's target. An example that was cut has no end token.
    """
    weights = [
        _weight(label, text, config, eos_id=eos_id)
        for label, text in zip(example.labels, example.prompt_text_mask, strict=True)
    ]
    return [0.0, *weights[1:]]


def require_ends(examples: Iterable[Labelled], config: RegularizerConfig, *, eos_id: int) -> None:
    """Raise UserError where the end token's weight was changed and no response has one: it would do nothing."""
    if config.eos_weight == 1 or any(label == eos_id for example in examples for label in example.labels):
        return
    raise UserError(
        f"regularizer.eos_weight is {config.eos_weight:g}, but no response of this data ends in the tokenizer's end "
        "token: they are all cut, or dataset.template ends them otherwise; raise finetune.max_length or change the template"
    )


def _weight(label: int, text: int, config: RegularizerConfig, *, eos_id: int) -> float:
    if label == IGNORED:
        return config.prompt_loss if text else 0.0
    return config.eos_weight if label == eos_id else 1.0
