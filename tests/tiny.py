"""Tiny random models of the real architecture classes, with a tokenizer trained on the starter set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from neft_lab.paths import STARTER_DIR


def make_tokenizer(*, vocabulary: int = 384) -> Any:
    """A byte-level BPE tokenizer with <s>, </s>, <pad>, <unk>; no BOS is added, as SmolLM2's does not."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<unk>", "<s>", "</s>", "<pad>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    rows = [
        json.loads(line) for line in (STARTER_DIR / "train.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    tokenizer.train_from_iterator([row["output"] for row in rows[:48]], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def make_tiny_llama(folder: Path, *, seed: int = 0, tied: bool = True) -> Path:
    """Save a random Llama of two layers, width 32, and its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=tied,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
