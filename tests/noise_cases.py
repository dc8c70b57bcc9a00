"""Configurations, batches and models that the tests of noise share."""

from __future__ import annotations

from dataclasses import replace

import torch
import transformers

from neft_lab.config import SILENT, NoiseKind
from neft_lab.interventions.noise import EmbeddingNoise
from neft_lab.noise import example_generators, sample_noise

PAPER = replace(SILENT, name="uniform", kind=NoiseKind.uniform, alpha=5.0)
GAUSSIAN = replace(PAPER, kind=NoiseKind.gaussian)
RADEMACHER = replace(PAPER, kind=NoiseKind.rademacher)

VOCABULARY, WIDTH = 61, 32
SHAPE = dict(
    vocab_size=VOCABULARY,
    hidden_size=WIDTH,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    attention_dropout=0.1,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
LENGTHS = (5, 9, 3)


def generators(ids, *, seed=0, epoch=0, draw=0):
    return example_generators(ids, seed=seed, epoch=epoch, draw=draw, device="cpu")


def right_padded(lengths, *, row_length):
    """Attention mask (examples, row_length)."""
    return (torch.arange(row_length) < torch.tensor(lengths)[:, None]).long()


def full_rows(examples, tokens, width, config, *, seed=0, dtype=torch.float32):
    """Noise of examples without padding, shape (examples, tokens, width)."""
    return sample_noise(
        torch.zeros(examples, tokens, width, dtype=dtype),
        torch.ones(examples, tokens, dtype=torch.long),
        config,
        generators=generators(range(examples), seed=seed),
    )


def llama(**changes):
    """A tiny LLaMA with random weights and dropout, in training mode."""
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE | changes)).train()


def padded_batch(lengths=LENGTHS, *, extra=2):
    """Token ids and mask (examples, longest + extra), right-padded; an example's ids depend on its index."""
    mask = right_padded(lengths, row_length=max(lengths) + extra)
    ids = torch.arange(len(lengths))[:, None] * 7 + torch.arange(mask.shape[1]) * 5
    return (ids % (VOCABULARY - 3) + 3) * mask, mask


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def expected_noise(mask, width, config=PAPER):
    """The noise of examples 0, 1, ... in their first epoch under seed 0, shape (b, t, width)."""
    return sample_noise(
        torch.zeros(*mask.shape, width), mask, config, generators=generators(range(len(mask)))
    )


def noise_of_pass(config, *, epoch=0, draw=0, ids=(0, 1, 2), mask=None, **arguments):
    """What one armed pass adds to the embeddings, and the dose measured on the way."""
    mask = padded_batch()[1] if mask is None else mask
    tokens = torch.full(mask.shape, 4)
    embedding = (model := llama()).get_input_embeddings()
    with EmbeddingNoise(model, config, seed=0) as noise:
        noise.arm(mask, list(ids), epoch=epoch, draw=draw, **arguments)
        added = embedding(tokens) - embedding.weight[tokens]
    return added.detach(), noise.dose()
