"""Traps of tokenizers: no pad token, a pad token that ends answers, an end token that nothing stops at."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig

PAD = "[PAD]"
MADE_FOR_PADDING = (PAD, "<pad>", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>")
"""Tokens for padding that published vocabularies have without naming them as pad_token (Llama 3.1: the last)."""


def settle_padding(model: Any, tokenizer: Any) -> None:
    """Settle the tokenizer (see ``settle_tokenizer``), give its tokens rows in the model, and tell the model.

    Answers end at the tokenizer's end token, which the training texts end with, and at those that the model's
    generation settings name beside it (Llama 3, Qwen).
    """
    settle_tokenizer(tokenizer)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        _grow(model, len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    generation = getattr(model, "generation_config", None) or GenerationConfig()
    generation.pad_token_id = tokenizer.pad_token_id
    generation.eos_token_id = _ends(generation.eos_token_id, tokenizer.eos_token_id)
    model.generation_config = generation


def settle_tokenizer(tokenizer: Any) -> None:
    """Give the tokenizer a pad token that is not its end token, padding on the right, and no end token of its own.

    With pad = end, collators and masks drop the end of every answer. A token of the vocabulary made for padding
    serves; else, where pad = end, the unknown token (SmolLM2); else a new one (LLaMA, as in the paper's code).
    A tokenizer that ends every text with an end token would end prompts, and training texts twice.
    """
    if getattr(tokenizer, "add_eos_token", False):
        tokenizer.add_eos_token = False
    tokenizer.padding_side = "right"
    ends = (tokenizer.eos_token_id, tokenizer.bos_token_id)
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return
    vocabulary = tokenizer.get_vocab()
    found = [token for token in MADE_FOR_PADDING if vocabulary.get(token, ends[0]) not in ends]
    if not found and tokenizer.pad_token_id is not None and tokenizer.unk_token_id not in (None, *ends):
        found = [tokenizer.unk_token]
    tokenizer.add_special_tokens({"pad_token": found[0] if found else PAD})


def _ends(known: int | list[int] | None, end: int | None) -> int | list[int] | None:
    """The ids that end an answer: those known, and the one that training texts end with."""
    ids = known if isinstance(known, list) else [] if known is None else [known]
    if end is not None and end not in ids:
        ids = [*ids, end]
    return ids[0] if len(ids) == 1 else ids or None


def _grow(model: Any, size: int) -> None:
    """Add rows to the tables, each the mean of those that were there (the paper's code, ``utils.py``)."""
    known = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(size, mean_resizing=False)
    tables = {
        id(layer.weight): layer.weight
        for layer in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    with torch.no_grad():
        for weight in tables.values():
            weight[known:] = weight[:known].float().mean(dim=0).to(weight.dtype)
