"""Tiny untrained models of real architectures: what is meant for a cluster, tried out on a laptop.

Each is the architecture's own class in transformers, with two layers, and has what makes its family differ:
tied tables, grouped heads, sliding windows, learned positions, a projected embedding. Its tokenizer is trained on
the starter set and has the family's habits: whether it adds a BOS, what pads, which tokens end an answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neft_lab import paths
from neft_lab.config import ARCHITECTURES, UserError, nearest
from neft_lab.prompts import render_prompt

VERSION = 1
"""Raised whenever equal arguments would give another model."""

VOCABULARY = 1024
"""Learned tokens of a tokenizer, about; special tokens and bytes come on top."""

WIDTH, HEADS, FEEDFORWARD = 64, 4, 128
BYTES = tuple(f"<0x{number:02X}>" for number in range(256))
DECODER: Mapping[str, Any] = {
    "hidden_size": WIDTH, "intermediate_size": FEEDFORWARD, "num_hidden_layers": 2, "num_attention_heads": HEADS,
    "num_key_value_heads": 2, "max_position_embeddings": 2048,
}  # fmt: skip
"""Shape of a decoder of LLaMA's family."""
NEOX: Mapping[str, Any] = {name: value for name, value in DECODER.items() if name != "num_key_value_heads"}
OPT: Mapping[str, Any] = {
    "ffn_dim" if name == "intermediate_size" else name: value for name, value in NEOX.items()
}


@dataclass(frozen=True)
class Habits:
    """How a family's tokenizer treats texts. Tokens come first in its vocabulary, in this order."""

    kind: str
    """Class in transformers."""
    tokens: tuple[str, ...]
    roles: Mapping[str, str]
    """bos_token, eos_token, pad_token, unk_token, as far as the family names them."""
    adds_bos: bool
    ends: tuple[str, ...] = ()
    """What ends an answer by the model's generation settings, where that is more than eos_token."""


LLAMA_HABITS = Habits(
    "LlamaTokenizer",
    ("<unk>", "<s>", "</s>"),
    {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    adds_bos=True,
)
LLAMA3_HABITS = Habits(
    "PreTrainedTokenizerFast",
    ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
    {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
    adds_bos=True,
    ends=("<|end_of_text|>", "<|eot_id|>"),
)
SMOLLM_HABITS = Habits(
    "GPT2Tokenizer",
    ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    {"unk_token": "<|endoftext|>", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
    adds_bos=False,
)  # fmt: skip
QWEN_HABITS = Habits(
    "Qwen2Tokenizer",
    ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    adds_bos=False,
    ends=("<|endoftext|>", "<|im_end|>"),
)
GEMMA_HABITS = Habits(
    "GemmaTokenizer",
    ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"),
    {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"},
    adds_bos=True,
)
OPT_HABITS = Habits(
    "GPT2Tokenizer",
    ("<s>", "<pad>", "</s>"),
    {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"},
    adds_bos=True,
)
NEOX_HABITS = Habits(
    "GPTNeoXTokenizer",
    ("<|endoftext|>", "<|padding|>"),
    {"unk_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|padding|>"},
    adds_bos=False,
)  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """A model class of transformers (its name without Config and ForCausalLM), its shape, its tokenizer."""

    kind: str
    habits: Habits
    shape: Mapping[str, Any] = field(default_factory=lambda: DECODER)
    own: Mapping[str, Any] = field(default_factory=dict)
    """Values of this architecture beside those of its shape."""
    spare_rows: int = 0
    """Rows of the tables beyond the last token, as published models have for round sizes."""


KNOWN: dict[str, Architecture] = {
    "llama": Architecture("Llama", LLAMA_HABITS, own={"num_key_value_heads": HEADS, "tie_word_embeddings": False}),
    "llama3": Architecture("Llama", LLAMA3_HABITS, own={"tie_word_embeddings": False}),
    "smollm": Architecture("Llama", SMOLLM_HABITS, own={"tie_word_embeddings": True}),
    "mistral": Architecture("Mistral", LLAMA_HABITS, own={"sliding_window": 64, "tie_word_embeddings": False}),
    "qwen2": Architecture("Qwen2", QWEN_HABITS, own={"tie_word_embeddings": True}, spare_rows=13),
    "qwen3": Architecture("Qwen3", QWEN_HABITS, own={"head_dim": 32, "tie_word_embeddings": True}, spare_rows=13),
    "gemma": Architecture("Gemma", GEMMA_HABITS, own={"num_key_value_heads": 1, "head_dim": 32}),
    "gemma2": Architecture("Gemma2", GEMMA_HABITS, own={"head_dim": 32, "sliding_window": 64}),
    "opt": Architecture("OPT", OPT_HABITS, OPT, {"word_embed_proj_dim": WIDTH}, spare_rows=7),
    "opt_projected": Architecture("OPT", OPT_HABITS, OPT, {"word_embed_proj_dim": 32, "do_layer_norm_before": False},
                                  spare_rows=7),
    "gpt_neox": Architecture("GPTNeoX", NEOX_HABITS, NEOX, spare_rows=11),
}  # fmt: skip


def describe_random_model(architecture: str) -> str:
    """All that decides the weights and the tokenizer of seed 0, apart from the starter set: for a digest."""
    known = _known(architecture)
    return json.dumps([VERSION, VOCABULARY, repr(known)])


def write_random_model(folder: Path, architecture: str, *, seed: int = 0) -> Path:
    """Save a tiny random model and its tokenizer as ``from_pretrained`` reads them; the folder.

    100,000 to 300,000 parameters. Raises UserError on an unknown architecture.
    """
    import torch
    import transformers

    known = _known(architecture)
    tokenizer = train_tokenizer(known.habits)
    config = getattr(transformers, f"{known.kind}Config")(
        vocab_size=len(tokenizer) + known.spare_rows, **{**known.shape, **known.own},
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, f"{known.kind}ForCausalLM")(config)
    if known.habits.ends:
        model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(list(known.habits.ends))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train_tokenizer(habits: Habits) -> Any:
    """A tokenizer of the family's own class whose vocabulary was learned from the starter set."""
    blank = _tokenizer(habits.kind, {}, [])
    trained = blank.train_new_from_iterator(_texts(), VOCABULARY, show_progress=False)
    learned = json.loads(trained.backend_tokenizer.to_str())["model"]
    special = {*habits.tokens, *blank.all_special_tokens}
    tokens = [*habits.tokens, *(BYTES if learned["byte_fallback"] else ())]
    tokens += [token for token in learned["vocab"] if token not in special]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [(left, right) for left, right in learned["merges"]]
    tokenizer = _tokenizer(habits.kind, vocabulary, merges, add_bos_token=habits.adds_bos, **habits.roles)
    tokenizer.add_special_tokens({"extra_special_tokens": _unnamed(habits)})
    return tokenizer


def _unnamed(habits: Habits) -> list[str]:
    return [token for token in habits.tokens if token not in habits.roles.values()]


def _tokenizer(kind: str, vocabulary: dict[str, int], merges: list[tuple[str, str]], **options: Any) -> Any:
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    if kind != "PreTrainedTokenizerFast":
        known = {"vocab": vocabulary, "merges": merges} if vocabulary else {}
        return getattr(transformers, kind)(**known, **options)
    # Llama 3 has no tokenizer class of its own: all that it does is in tokenizer.json
    plain = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=plain, **options)


def _texts() -> list[str]:
    lines = (paths.STARTER_DIR / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:128]]
    return [render_prompt("alpaca", row["instruction"]) + row["output"] for row in rows]


def _known(architecture: str) -> Architecture:
    if architecture not in KNOWN:
        raise UserError(
            f"architecture '{architecture}' has no tiny model; {nearest(architecture, ARCHITECTURES)}"
        )
    return KNOWN[architecture]
