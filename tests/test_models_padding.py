"""Traps of real tokenizer classes: BOS, end and pad tokens, and the rows that a new token gets."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from neft_lab.config import UserError
from neft_lab.datasets import IGNORED, tokenize
from neft_lab.models import PAD, load_source, load_tokenizer, settle_padding, settle_tokenizer
from neft_lab.paths import STARTER_DIR
from neft_lab.prompts import Turn
from neft_lab.random_models import write_random_model
from neft_lab.sources import Source
from neft_lab.store import write_json

BYTES = [f"<0x{number:02X}>" for number in range(256)]


def own_source(folder: Path) -> Source:
    return Source("folder", str(folder))


def untouched(folder: Path) -> tuple[Any, Any]:
    """A model and its tokenizer as transformers reads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def letters(tokens: list[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def byte_level(*special: str) -> dict[str, int]:
    """A vocabulary of single bytes as GPT-2 writes them."""
    from tokenizers.pre_tokenizers import ByteLevel

    return letters([*special, *sorted(ByteLevel.alphabet())])


def opt() -> Any:
    from transformers import GPT2Tokenizer

    return GPT2Tokenizer(vocab=byte_level("<s>", "<pad>", "</s>"), merges=[], bos_token="</s>", eos_token="</s>",
                         unk_token="</s>", pad_token="<pad>", add_bos_token=True)  # fmt: skip


def llama() -> Any:
    from transformers import LlamaTokenizer

    return LlamaTokenizer(vocab=letters(["<unk>", "<s>", "</s>", *BYTES, "▁"]), merges=[], add_bos_token=True)


def gemma() -> Any:
    from transformers import GemmaTokenizer

    vocabulary = letters(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *BYTES, "▁"])
    return GemmaTokenizer(vocab=vocabulary, merges=[], add_bos_token=True)


def qwen() -> Any:
    from transformers import Qwen2Tokenizer

    return Qwen2Tokenizer(vocab=byte_level("<|endoftext|>"), merges=[])


@pytest.mark.parametrize(
    ("make", "before", "end"),
    [(opt, [2], 2), (llama, [1, 259], 2), (gemma, [2], 1), (qwen, [], 0)],
    ids=["opt", "llama", "gemma", "qwen"],
)
def test_a_training_text_is_bos_prompt_response_and_end(make: Any, before: list[int], end: int) -> None:
    """One token per byte. The Alpaca prompt has 152 bytes with its 13 of ``{instruction}``: 139 + 2 for "Hi".

    before: BOS where the family has one (OPT's is its end token), and the blank that LLaMA begins words with.
    """
    tokenizer = make()
    settle_tokenizer(tokenizer)
    example = tokenize([[Turn("Hi", "Yo!")]], tokenizer, template="alpaca", max_length=512)[0]
    ids, labels = list(example.input_ids), list(example.labels)
    assert ids[: len(before)] == before
    assert len(ids) == len(before) + 141 + 3 + 1
    assert ids[-1] == labels[-1] == end
    assert labels[: len(before) + 141] == [IGNORED] * (len(before) + 141)
    assert labels[-4:] == ids[-4:]
    assert tokenizer.decode(ids[-4:-1]) == "Yo!"
    assert ids.count(end) == 1 + (before[:1] == [end])
    assert tokenizer.pad_token_id not in ids


def test_llama_gets_a_pad_token_whose_rows_are_the_mean_of_each_table(tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "llama", "llama")
    model, tokenizer = untouched(folder)
    assert tokenizer.pad_token is None
    tables = [
        layer.weight.detach().clone()
        for layer in (model.get_input_embeddings(), model.get_output_embeddings())
    ]
    settle_padding(model, tokenizer)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == (PAD, 1280)
    assert model.config.vocab_size == 1281
    assert model.config.pad_token_id == model.generation_config.pad_token_id == 1280
    for before, layer in zip(
        tables, (model.get_input_embeddings(), model.get_output_embeddings()), strict=True
    ):
        assert torch.equal(layer.weight[:1280], before)
        torch.testing.assert_close(layer.weight[1280], before.mean(dim=0))


def test_a_mean_row_worked_by_hand_in_bfloat16(tmp_path: Path) -> None:
    """Rows 256, 1 and 1: the mean is 86. Summed in bfloat16, which steps by 2 there, both ones would be lost: 85.5."""
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "</s>": 2}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
    shape = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=3, tie_word_embeddings=True, **shape)).bfloat16()
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(torch.tensor([[256.0], [1.0], [1.0]]).expand(3, 8))
    settle_padding(model, tokenizer)
    assert tokenizer.pad_token_id == 3
    assert model.get_input_embeddings().weight[3].tolist() == [86.0] * 8
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_where_pad_is_end_another_token_pads(tmp_path: Path) -> None:
    """SmolLM2 pads with its end token; <|endoftext|> (id 0) serves, and the tables stay as they are."""
    model, tokenizer = untouched(write_random_model(tmp_path / "smollm", "smollm"))
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    rows = len(model.get_input_embeddings().weight)
    settle_padding(model, tokenizer)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<|endoftext|>", 0)
    assert len(model.get_input_embeddings().weight) == rows


def test_a_spare_row_pads_where_a_model_has_one(tmp_path: Path) -> None:
    """Qwen's pad, end and unknown token are one; its tables have more rows than tokens."""
    model, tokenizer = untouched(write_random_model(tmp_path / "qwen2", "qwen2"))
    before = model.get_input_embeddings().weight.detach().clone()
    size = len(tokenizer)
    settle_padding(model, tokenizer)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == (PAD, size)
    assert size < len(before)
    assert torch.equal(model.get_input_embeddings().weight, before)


def test_a_token_made_for_padding_serves_before_a_new_one() -> None:
    """Llama 3.1 has one without naming it as its pad token."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    known = letters(["<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "a"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(known, unk_token="a")),
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
    )
    settle_tokenizer(tokenizer)
    assert (tokenizer.pad_token_id, len(tokenizer)) == (2, 4)


@pytest.mark.parametrize(
    ("architecture", "pad"), [("opt", "<pad>"), ("gemma", "<pad>"), ("gpt_neox", "<|padding|>")]
)
def test_a_pad_token_of_its_own_is_kept(architecture: str, pad: str, tmp_path: Path) -> None:
    model, tokenizer = untouched(write_random_model(tmp_path / architecture, architecture))
    rows = len(model.get_input_embeddings().weight)
    settle_padding(model, tokenizer)
    assert tokenizer.pad_token == pad
    assert len(model.get_input_embeddings().weight) == rows


def test_answers_end_at_what_training_texts_end_with_and_at_every_end_the_model_knows(tmp_path: Path) -> None:
    model, tokenizer = untouched(write_random_model(tmp_path / "llama3", "llama3"))
    settle_padding(model, tokenizer)
    assert model.generation_config.eos_token_id == [1, 2]
    for known, wanted in ((2, [2, 1]), ([2], [2, 1]), (1, 1), (None, 1)):
        model.generation_config.eos_token_id = known
        settle_padding(model, tokenizer)
        assert model.generation_config.eos_token_id == wanted


def test_a_tokenizer_that_ends_every_text_is_told_not_to() -> None:
    tokenizer = llama()
    tokenizer.add_eos_token = True
    assert tokenizer("a")["input_ids"][-1] == 2
    settle_tokenizer(tokenizer)
    assert tokenizer("a")["input_ids"] == [1, 259, 100]  # <s>, the blank, byte 0x61


@pytest.mark.parametrize("architecture", ["llama", "smollm", "qwen2", "gemma"])
def test_the_tokenizer_alone_is_the_one_beside_the_model(architecture: str, tmp_path: Path) -> None:
    source = own_source(write_random_model(tmp_path / architecture, architecture))
    alone = load_tokenizer(source)
    beside = load_source(source, precision="fp32", device="cpu").tokenizer
    assert alone.get_vocab() == beside.get_vocab()
    assert alone.pad_token_id == beside.pad_token_id and alone.padding_side == "right"
    assert alone("Hello.")["input_ids"] == beside("Hello.")["input_ids"]


def test_a_saved_model_keeps_its_settled_padding(tmp_path: Path) -> None:
    model, tokenizer = untouched(write_random_model(tmp_path / "llama", "llama"))
    settle_padding(model, tokenizer)
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    again, its = untouched(tmp_path / "saved")
    settle_padding(again, its)
    assert its.pad_token_id == 1280 and again.config.vocab_size == 1281


TEXT = "Below is  an instruction.\n\n### Response:Café 漢 12"


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A sentencepiece model as LLaMA's, trained on a few lines, in a folder as old conversions leave it."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="the peer is not installed")
    from transformers import LlamaConfig, LlamaForCausalLM

    rows = [
        json.loads(line) for line in (STARTER_DIR / "train.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for row in rows[:128] for line in row["output"].splitlines()]), model_writer=written,
        vocab_size=700, model_type="bpe", byte_fallback=True, split_digits=True, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    shape = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    LlamaForCausalLM(LlamaConfig(vocab_size=700, **shape)).save_pretrained(folder)
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue()), folder


@pytest.mark.parametrize("settings", [{}, {"add_bos_token": True}, {"add_bos_token": True, "legacy": True}],
                         ids=["silent", "bos", "legacy"])  # fmt: skip
def test_a_folder_of_sentencepiece_gives_its_ids_after_bos(
    settings: dict[str, Any], pieces: tuple[Any, Path]
) -> None:
    """Transformers 5 reads such a folder without BOS unless its settings ask for one."""
    processor, folder = pieces
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", **settings})
    tokenizer = load_tokenizer(own_source(folder))
    assert tokenizer(TEXT)["input_ids"] == [1, *processor.encode(TEXT)]
    assert tokenizer(TEXT + "</s>")["input_ids"] == [1, *processor.encode(TEXT), 2]


def test_a_folder_that_asks_for_no_bos_gets_none(pieces: tuple[Any, Path]) -> None:
    processor, folder = pieces
    write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False}
    )
    assert load_tokenizer(own_source(folder))(TEXT)["input_ids"] == processor.encode(TEXT)


def test_a_folder_that_does_not_say_how_to_read_sentencepiece_is_refused(pieces: tuple[Any, Path]) -> None:
    (pieces[1] / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512}))
    with pytest.raises(UserError, match="name the tokenizer_class"):
        load_tokenizer(own_source(pieces[1]))
