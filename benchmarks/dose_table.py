"""What alpha 5 becomes: the noise that reaches layer 0 under transformers, TRL and neft_lab, for the same examples.

    pip install trl
    python benchmarks/dose_table.py                         print the table, about a minute
    python benchmarks/dose_table.py --write docs/noise.md   put it between the markers of that page

Each trainer makes one epoch over eight examples, lengths like Alpaca's, with a random tiny LLaMA and learning
rate 0. Example i consists of token i alone, so that a hook before layer 0 can tell the examples apart in any
layout and subtract the clean embedding: what is left is the noise, and sqrt(3) times its norm over an
example's tokens is the alpha that the paper's code would have needed.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["TQDM_DISABLE"] = os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
import trl
from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer, models
from torch import Tensor

from neft_lab.config import NoiseLength
from neft_lab.interventions.noise import EmbeddingNoise
from neft_lab.plan import expand

LENGTHS = [58, 91, 74, 203, 66, 120, 311, 83]
ALPHA, PAD, WIDTH, PACK = 5.0, 0, 512, 512
TOKENS = [[10 + number] * length for number, length in enumerate(LENGTHS)]
NOISE = expand(["noise=uniform", f"noise.alpha={ALPHA}"])[0].config.noise


@dataclass(frozen=True)
class Row:
    """One line of the table: alphas that the paper's code would need for the noise that was measured."""

    trainer: str
    layout: str
    alphas: list[float]
    on_padding: bool

    def markdown(self) -> str:
        """The line as Markdown; examples from the shortest to the longest."""
        by_length = [alpha for _, alpha in sorted(zip(LENGTHS, self.alphas, strict=True))]
        cells = [by_length[0], sum(by_length) / len(by_length), by_length[-1]]
        numbers = " | ".join(f"{cell:.2f}" for cell in cells)
        return f"| {self.trainer} | {self.layout} | {numbers} | {'yes' if self.on_padding else 'no'} |"


class Measurement:
    """Squared noise before layer 0, summed per token id."""

    def __init__(self, model: Any) -> None:
        self._table = model.get_input_embeddings().weight.detach().clone()
        self._squares = torch.zeros(len(self._table), dtype=torch.float64)
        self._ids = torch.empty(0)
        model.get_input_embeddings().register_forward_pre_hook(self._note_ids)
        model.model.layers[0].register_forward_pre_hook(self._measure, with_kwargs=True)

    def _note_ids(self, module: Any, arguments: tuple[Tensor, ...]) -> None:
        self._ids = arguments[0]

    def _measure(self, module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        hidden = (arguments[0] if arguments else named["hidden_states"]).detach()
        squares = (hidden - self._table[self._ids]).double().square().sum(dim=-1)
        self._squares.index_add_(0, self._ids.flatten(), squares.flatten())

    def row(self, trainer: str, layout: str) -> Row:
        """What was measured so far, as a line of the table."""
        alphas = [math.sqrt(3 * self._squares[tokens[0]].item()) for tokens in TOKENS]
        return Row(trainer, layout, alphas, on_padding=bool(self._squares[PAD] > 0))


def make_model() -> Any:
    """A random LLaMA of one layer."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=8,
        pad_token_id=PAD,
    )
    return transformers.LlamaForCausalLM(config).train()


def make_tokenizer() -> Any:
    """A tokenizer that TRL can ask for its padding; nothing is tokenised."""
    words = {f"t{number}": number for number in range(32)}
    backend = Tokenizer(models.WordLevel(words, unk_token="t1"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="t1", eos_token="t2", pad_token=f"t{PAD}"
    )


def pad_rows(rows: list[list[int]]) -> dict[str, Tensor]:
    """Right-padded input_ids, attention_mask and labels (b, t)."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": (ids != PAD).long(),
        "labels": ids.masked_fill(ids == PAD, -100),
    }


def trainer_options(folder: str, micro_batch: int) -> dict[str, Any]:
    """Arguments that transformers' and TRL's trainers share: one epoch that changes no weight."""
    return dict(
        output_dir=folder,
        neftune_noise_alpha=ALPHA,
        per_device_train_batch_size=micro_batch,
        learning_rate=0.0,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )


def measure_transformers(micro_batch: int) -> Row:
    """The Trainer of transformers, padded micro-batches."""
    model = make_model()
    measurement = Measurement(model)
    with tempfile.TemporaryDirectory() as folder:
        transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(
                **trainer_options(folder, micro_batch), remove_unused_columns=False
            ),
            train_dataset=Dataset.from_dict({"input_ids": TOKENS}),
            data_collator=lambda rows: pad_rows([row["input_ids"] for row in rows]),
        ).train()
    return measurement.row(f"transformers {transformers.__version__}", f"padded, micro-batch {micro_batch}")


def measure_trl(layout: str, micro_batch: int, **packing: Any) -> Row:
    """TRL's SFTTrainer."""
    model = make_model()
    measurement = Measurement(model)
    with tempfile.TemporaryDirectory() as folder:
        trl.SFTTrainer(
            model=model,
            args=trl.SFTConfig(**trainer_options(folder, micro_batch), max_length=PACK, **packing),
            train_dataset=Dataset.from_dict({"input_ids": TOKENS}),
            processing_class=make_tokenizer(),
        ).train()
    return measurement.row(f"TRL {trl.__version__}", layout)


def padded_batches(micro_batch: int) -> Iterator[tuple[dict[str, Tensor], list[int]]]:
    """Padded micro-batches and the examples in each."""
    for start in range(0, len(TOKENS), micro_batch):
        members = list(range(start, min(start + micro_batch, len(TOKENS))))
        yield pad_rows([TOKENS[member] for member in members]), members


def packed_batch() -> tuple[dict[str, Tensor], list[int]]:
    """All examples in one row, told apart by segment ids."""
    ids = torch.tensor([[token for row in TOKENS for token in row]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "segment_ids": ids}
    return batch, list(range(len(TOKENS)))


def measure_ours(layout: str, batches: list[tuple[dict[str, Tensor], list[int]]], length: NoiseLength) -> Row:
    """This project's hook."""
    model = make_model()
    measurement = Measurement(model)
    with EmbeddingNoise(model, replace(NOISE, length=length), seed=0) as noise:
        for batch, members in batches:
            noise.arm(batch["attention_mask"], members, epoch=0, segment_ids=batch.get("segment_ids"))
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    noise.check(len(batches))
    name = "neft_lab" if length is NoiseLength.sample else f"neft_lab, noise.length={length.name}"
    return measurement.row(name, layout)


@contextmanager
def quiet() -> Iterator[None]:
    """Only the table reaches standard output."""
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    disable_progress_bars()
    kept, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout = kept
        logging.disable(logging.NOTSET)


def make_table() -> str:
    """The table as Markdown."""
    sample, padded, packed_row = NoiseLength.sample, NoiseLength.padded, NoiseLength.packed_row
    all_padded, in_pairs = "padded, micro-batch 8", "padded, micro-batch 2"
    measurements: list[Callable[[], Row]] = [
        lambda: measure_transformers(8),
        lambda: measure_transformers(2),
        lambda: measure_transformers(1),
        lambda: measure_trl(all_padded, 8, packing=False),
        lambda: measure_trl(f"packed to {PACK}, micro-batch 1", 1, packing=True),
        lambda: measure_trl(f"packed to {PACK}, micro-batch 4", 4, packing=True),
        lambda: measure_ours(all_padded, list(padded_batches(8)), sample),
        lambda: measure_ours(in_pairs, list(padded_batches(2)), sample),
        lambda: measure_ours("packed, one row", [packed_batch()], sample),
        lambda: measure_ours(all_padded, list(padded_batches(8)), padded),
        lambda: measure_ours("packed, one row", [packed_batch()], packed_row),
    ]
    shortest, longest = f"shortest ({min(LENGTHS)} tokens)", f"longest ({max(LENGTHS)} tokens)"
    head = [
        f"| trainer | layout | {shortest} | mean | {longest} | noise on padding |",
        "|---|---|---:|---:|---:|---|",
        f"| the paper's code (formula) | any | {ALPHA:.2f} | {ALPHA:.2f} | {ALPHA:.2f} | no |",
    ]
    with quiet():
        return "\n".join(head + [measure().markdown() for measure in measurements])


def main() -> None:
    """Print the table, or write it into a page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path, help="a page with the markers <!-- dose --> and <!-- /dose -->")
    options = parser.parse_args()
    table = make_table()
    if options.write is None:
        print(table)
        return
    page = options.write.read_text(encoding="utf-8")
    replaced, found = re.subn(
        r"(?<=<!-- dose -->\n).*?(?=<!-- /dose -->)", lambda _: table + "\n", page, flags=re.DOTALL
    )
    if found != 1:
        raise SystemExit(
            f"{options.write} must hold <!-- dose --> and <!-- /dose --> once, on lines of their own"
        )
    options.write.write_text(replaced, encoding="utf-8")


if __name__ == "__main__":
    main()
