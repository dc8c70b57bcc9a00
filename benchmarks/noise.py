"""What noise and its telemetry cost in a training step, beside transformers' own hook and no noise at all.

    python benchmarks/noise.py [--model FOLDER] [--rows 4] [--tokens 64] [--rounds 12]

The model is a local folder, or a random LLaMA of SmolLM2-135M's shape. Every round makes one training step
(forward, backward, AdamW) of each arm, in an order that turns, so that what else the machine does hits all
of them alike; the ratio is the median over rounds. The noise is also timed by itself, on the embedding
alone, and set against the step: that figure is steadier, and its goal is under 1 %.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.integrations.neftune import activate_neftune

sys.path.insert(0, str(Path(__file__).parents[1]))

from neft_lab.interventions.noise import EmbeddingNoise
from neft_lab.plan import expand

NOISE = expand(["noise=uniform", "noise.alpha=5"])[0].config.noise
PLAIN, PEER, OURS = "no noise", "transformers", "neft_lab"
Pass = Callable[[], Any]


def load_model(folder: str | None) -> nn.Module:
    """The model to train, in float32 and training mode."""
    if folder is not None:
        model: nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return model.train()
    shape = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(shape).train()


def make_batch(model: nn.Module, rows: int, tokens: int) -> dict[str, Tensor]:
    """Right-padded rows whose lengths go from half of ``tokens`` to all of it."""
    lengths = torch.linspace(tokens / 2, tokens, rows).long()
    mask = (torch.arange(tokens) < lengths[:, None]).long()
    ids = torch.randint(3, len(model.get_input_embeddings().weight), mask.shape)
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


@contextmanager
def peer_noise(model: nn.Module) -> Any:
    """Transformers' own hook, in place for a while."""
    handle = activate_neftune(model, NOISE.alpha)
    try:
        yield
    finally:
        handle.remove()


def time_arm(arm: str, model: nn.Module, batch: dict[str, Tensor], work: Pass, *, epoch: int) -> float:
    """Seconds of one pass of ``work`` under an arm; placing the hook is not counted, arming it is."""
    noise = EmbeddingNoise(model, NOISE, seed=0)
    context: dict[str, AbstractContextManager[Any]] = {
        PLAIN: nullcontext(),
        PEER: peer_noise(model),
        OURS: noise,
    }
    with context[arm]:
        start = time.perf_counter()
        if arm == OURS:
            noise.arm(batch["attention_mask"], list(range(len(batch["input_ids"]))), epoch=epoch)
        work()
        seconds = time.perf_counter() - start
    if arm == OURS:
        noise.check(1)
    return seconds


def time_arms(
    model: nn.Module, batch: dict[str, Tensor], work: Pass, *, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each arm in each round; the first round warms up and is left out."""
    arms = [PLAIN, PEER, OURS]
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    for turn in range(rounds + 1):
        for arm in arms[turn % 3 :] + arms[: turn % 3]:
            seconds[arm].append(time_arm(arm, model, batch, work, epoch=turn))
    return {arm: values[1:] for arm, values in seconds.items()}


def describe(seconds: dict[str, list[float]]) -> None:
    """Print each arm's median step and its ratio to no noise: median and quartiles over rounds."""
    for arm, values in seconds.items():
        ratios = [value / plain for value, plain in zip(values, seconds[PLAIN], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        step = statistics.median(values)
        print(f"{arm:<13} {step:8.3f} s a step   ratio {middle:.4f} [{low:.4f}, {high:.4f}]")


def main() -> None:
    """Time, print, compare with the goal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a local model folder (default: a random LLaMA of SmolLM2's shape)")
    parser.add_argument("--rows", type=int, default=4, help="examples of a micro-batch")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of the longest")
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    model = load_model(options.model)
    batch = make_batch(model, options.rows, options.tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()

    embedding = model.get_input_embeddings()
    steps = time_arms(model, batch, step, rounds=options.rounds)
    describe(steps)
    alone = time_arms(model, batch, lambda: embedding(batch["input_ids"]), rounds=20 * options.rounds)
    for arm in (PEER, OURS):
        extra = statistics.median(alone[arm]) - statistics.median(alone[PLAIN])
        share = extra / statistics.median(steps[PLAIN])
        print(f"{arm:<13} {extra * 1000:8.2f} ms of noise in a step: {share:.3%}")


if __name__ == "__main__":
    main()
