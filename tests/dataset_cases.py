"""Tokenizers of two kinds whose tokens are counted by hand, and rows in files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from neft_lab.config import DatasetConfig
from neft_lab.paths import PACKAGE_DIR
from neft_lab.plan import expand
from neft_lab.sources import Source, file_digest

REAL = PACKAGE_DIR.parent.parent / "shared" / "data"
"""Public sets that are not ours to ship; tests that read them skip where they are not beside the checkout."""


def byte_level(*merges: tuple[str, str], begin: str | None = None) -> Any:
    """GPT-2's kind: bytes, no begin mark unless given; OPT's begin mark is its end mark."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["</s>", *letters, *("".join(merge) for merge in merges)]
    vocabulary = {text: number for number, text in enumerate(words)}
    inner = Tokenizer(models.BPE(vocabulary, list(merges)))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if begin:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, 0)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")


def sentencepiece(*merges: tuple[str, str], ending: bool = False) -> Any:
    """LLaMA's kind: a blank is "▁" and stands before every text, no border between words, <s> is added."""
    from tokenizers import Tokenizer, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted({*map(chr, range(33, 127)), "▁", "\n"})
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    words = ["<unk>", "<s>", "</s>", *bytes_, *letters, *("".join(merge) for merge in merges)]
    vocabulary = {text: number for number, text in enumerate(words)}
    inner = Tokenizer(
        models.BPE(vocabulary, list(merges), unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    single, marks = ("<s> $A </s>", [("<s>", 1), ("</s>", 2)]) if ending else ("<s> $A", [("<s>", 1)])
    inner.post_processor = processors.TemplateProcessing(single=single, special_tokens=marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def dataset(option: str = "local", **changes: Any) -> DatasetConfig:
    """An option of conf/dataset as it is composed, with some fields changed."""
    return replace(_composed(option), **changes)


@lru_cache
def _composed(option: str) -> DatasetConfig:
    overrides = [f"dataset={option}", "judge=longest", "leaderboard=none"]
    path = [f"dataset.path={PACKAGE_DIR / 'starter' / 'train.jsonl'}"] if option == "local" else []
    return expand([*overrides, *path])[0].config.dataset


def stored(path: Path, rows: Sequence[Any]) -> Source:
    """Rows as a JSON file, and the source that names it."""
    path.write_text(json.dumps(rows), encoding="utf-8")
    return Source("file", str(path), digest=file_digest(path))
