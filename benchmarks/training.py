"""Real tokens per second and peak memory of fine-tuning with noise: neft_lab, TRL and transformers in one run.

    pip install trl
    python benchmarks/training.py [--model FOLDER | --shape llama_7b] [--precision float32 bfloat16] [--rounds 2] [--steps 3]
    python benchmarks/training.py --shape llama_7b --length 2048 --precision bfloat16 --device cuda [--trained lora]

The model is a local folder, or a random LLaMA of SmolLM2-135M's shape. All trainers get the same rows, 16 examples per
optimizer step, noise alpha 5, AdamW, and weights of the same precision. Lengths are those of Alpaca: sixteen quantiles
of prompts and of responses of its first 2,000 rows under SmolLM2's tokenizer. A trial is a process of its own, so that
peak memory is its own too; arms take turns, and each round gives one ratio to the best peer. A token counts once per
epoch and only if it is real: padding and packing change nothing in what is counted.

--length gives every example that many tokens, all of them learned, one to a micro-batch: rows packed full, on which no
layout can gain. --trained lora trains adapters of rank 64 on all linear layers, the same in every arm.

On a GPU (--device cuda) the last column is the share of an H100's 989 TFLOP/s that is used, from 6 N FLOP per token (all
weights trained; 4 N where adapters are, N without them) and 12 x layers x width x length for attention; what gradient
checkpointing computes again (--checkpointing; TRL's default) is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["TQDM_DISABLE"] = os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"

from neft_lab.quiet import quiet_libraries

quiet_libraries()

import torch
import transformers

PROMPTS = [36, 38, 39, 39, 40, 41, 43, 44, 48, 56, 59, 62, 66, 70, 79, 120]
RESPONSES = [44, 143, 9, 64, 6, 300, 24, 83, 12, 111, 53, 15, 94, 19, 73, 33]
"""Quantiles of Alpaca; the two lists are nearly uncorrelated there (-0.16), hence the mixed order."""
BATCH = len(PROMPTS)
MICRO_BATCH = 8
MAX_LENGTH = 512
ALPHA = 5.0
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2_135m": dict(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True, max_position_embeddings=8192,
    ),
    "llama_7b": dict(vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
                     num_attention_heads=32, max_position_embeddings=2048, tie_word_embeddings=False),
    "tiny": dict(vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                 max_position_embeddings=2048),
}  # fmt: skip
OURS = "neft_lab"
PEAK = 989e12
"""FLOP per second of an H100 in dense bfloat16."""


class Clock(transformers.TrainerCallback):
    """Seconds of every optimizer step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *arguments: Any, **named: Any) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, *arguments: Any, **named: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._started)


def load_model(folder: str | None, shape: str, precision: str, device: str) -> Any:
    dtype = getattr(torch, precision)
    if folder is not None:
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    torch.manual_seed(0)
    with torch.device(device):
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPES[shape])).to(dtype)


def make_tokenizer() -> Any:
    """A tokenizer whose padding and end can be asked for; nothing is tokenised."""
    from tokenizers import Tokenizer, models

    words = {f"t{number}": number for number in range(32)}
    backend = Tokenizer(models.WordLevel(words, unk_token="t1"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="t1", eos_token="t2", pad_token="t0"
    )


@dataclass(frozen=True)
class Work:
    """What every arm is given to do."""

    rows: list[tuple[list[int], int]]
    """Ids of every example, and how many of them are its prompt."""
    steps: int
    micro_batch: int
    max_length: int
    checkpointing: bool | None
    """Gradient checkpointing; None is each library's default."""
    folder: str
    device: str


def sizes_of(length: int | None) -> list[tuple[int, int]]:
    """Tokens of the prompt, and tokens, of every example of an optimizer step."""
    if length is not None:
        return [(0, length)] * BATCH
    return [(prompt, prompt + response) for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]


def make_work(options: argparse.Namespace, vocabulary: int, folder: str) -> Work:
    generator, steps = torch.Generator().manual_seed(0), options.steps + 1
    rows = [
        (torch.randint(3, vocabulary, (length,), generator=generator).tolist(), prompt)
        for prompt, length in sizes_of(options.length) * steps
    ]
    single = options.length is not None
    checkpointing = options.checkpointing if single else options.checkpointing or None
    return Work(
        rows, steps, micro_batch=1 if single else MICRO_BATCH, max_length=options.length or MAX_LENGTH,
        checkpointing=checkpointing, folder=folder, device=options.device,
    )  # fmt: skip


def add_adapters(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(
        r=64, lora_alpha=16, target_modules="all-linear", bias="none", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, adapters)


def labels_of(ids: list[int], prompt: int) -> list[int]:
    return [-100] * prompt + ids[prompt:]


def shared_options(work: Work) -> dict[str, Any]:
    """Arguments that all peers get."""
    return dict(
        output_dir=work.folder, max_steps=work.steps, learning_rate=1e-5, report_to="none", save_strategy="no",
        disable_tqdm=True, logging_strategy="steps", logging_steps=1, bf16=False, use_cpu=work.device == "cpu", seed=0,
        optim="adamw_torch_fused", neftune_noise_alpha=ALPHA,
    )  # fmt: skip


def checkpointing_of(work: Work) -> dict[str, Any]:
    return {} if work.checkpointing is None else dict(gradient_checkpointing=work.checkpointing)


def in_micro_batches(work: Work) -> dict[str, Any]:
    return dict(
        per_device_train_batch_size=work.micro_batch, gradient_accumulation_steps=BATCH // work.micro_batch
    )


def run_ours(model: Any, work: Work) -> list[float]:
    from neft_lab.datasets import Example
    from neft_lab.interventions import Interventions
    from neft_lab.plan import expand
    from neft_lab.progress import Progress
    from neft_lab.training.arguments import training_arguments
    from neft_lab.training.rows import Rows
    from neft_lab.training.trainer import NoisyTrainer

    config = expand([
        f"noise.alpha={ALPHA}", f"finetune.batch={BATCH}", f"finetune.max_steps={work.steps}",
        "finetune.checkpoint_every=1000", "finetune.precision=fp32",
        *([f"finetune.token_budget={work.max_length}"] if work.micro_batch == 1 else []),
        f"finetune.gradient_checkpointing={str(bool(work.checkpointing)).lower()}",
    ])[0].config  # fmt: skip
    examples = [
        Example(number, ids, labels_of(ids, prompt), False, [0] * len(ids))
        for number, (ids, prompt) in enumerate(work.rows)
    ]
    clock = Clock()
    trainer = NoisyTrainer(
        model=model,
        args=training_arguments(
            config.finetune, Path(work.folder), rows=len(examples), seed=0, device=work.device
        ),
        train_dataset=Rows(examples),
        config=config.finetune,
        interventions=Interventions(model, config.noise, config.regularizer, seed=0),
        tokenizer=make_tokenizer(),
        progress=Progress(Path(work.folder)),
    )
    trainer.add_callback(clock)
    trainer.train_or_resume()
    return clock.seconds


def run_transformers(model: Any, work: Work) -> list[float]:
    """Its Trainer with micro-batches of like lengths."""
    from datasets import Dataset

    data = Dataset.from_dict(
        {"input_ids": [ids for ids, _ in work.rows], "labels": [labels_of(*row) for row in work.rows],
         "length": [len(ids) for ids, _ in work.rows]}
    )  # fmt: skip
    clock = Clock()
    transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            **shared_options(work), **in_micro_batches(work), **checkpointing_of(work),
            train_sampling_strategy="group_by_length",
        ),
        train_dataset=data,
        data_collator=transformers.DataCollatorForSeq2Seq(make_tokenizer()),
        callbacks=[clock],
    ).train()  # fmt: skip
    return clock.seconds


def run_trl(model: Any, work: Work, **choice: Any) -> list[float]:
    """Its SFTTrainer, responses alone in the loss."""
    import trl
    from datasets import Dataset

    data = Dataset.from_dict(
        {"input_ids": [ids for ids, _ in work.rows],
         "completion_mask": [[0] * prompt + [1] * (len(ids) - prompt) for ids, prompt in work.rows]}
    )  # fmt: skip
    clock = Clock()
    trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(**shared_options(work), max_length=work.max_length, **choice),
        train_dataset=data,
        processing_class=make_tokenizer(),
        callbacks=[clock],
    ).train()
    return clock.seconds


def run_trl_defaults(model: Any, work: Work) -> list[float]:
    return run_trl(model, work, **in_micro_batches(work))


def run_trl_packing(model: Any, work: Work) -> list[float]:
    """As many packed rows per optimizer step as hold the tokens of 16 examples."""
    tokens = sum(len(ids) for ids, _ in work.rows) / work.steps
    rows = round(tokens / work.max_length)
    return run_trl(
        model, work, packing=True, per_device_train_batch_size=1, gradient_accumulation_steps=rows,
        **checkpointing_of(work),
    )  # fmt: skip


ARMS: dict[str, Callable[..., list[float]]] = {
    OURS: run_ours,
    "transformers, grouped by length": run_transformers,
    "TRL, packing": run_trl_packing,
    "TRL, defaults": run_trl_defaults,
}


def run_trial(arm: str, options: argparse.Namespace) -> dict[str, float]:
    """Train in this process: real tokens per second over all steps but the first, and peak memory."""
    model = load_model(options.model, options.shape, options.trial_precision, options.device)
    size, vocabulary = model.num_parameters(), model.config.vocab_size
    if options.trained == "lora":
        model = add_adapters(model)
    with tempfile.TemporaryDirectory() as folder:
        seconds = ARMS[arm](model, make_work(options, vocabulary, folder))[1:]
    tokens = sum(length for _, length in sizes_of(options.length))
    told = {"rate": tokens * len(seconds) / sum(seconds), "seconds": sum(seconds) / len(seconds)}
    if options.device == "cuda":
        flops = flops_per_token(
            size, model.config, sizes_of(options.length), frozen=options.trained == "lora"
        )
        memory = torch.cuda.max_memory_allocated() / 2**30
        return told | {"memory": memory, "share": flops * told["rate"] / PEAK}
    return told | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def flops_per_token(parameters: int, config: Any, sizes: list[tuple[int, int]], *, frozen: bool) -> float:
    """What a model must compute for a token: 6 N, or 4 N below adapters, and attention to the mean length."""
    length = sum(tokens for _, tokens in sizes) / len(sizes)
    attention = 12 * config.num_hidden_layers * config.hidden_size * length
    return (4 if frozen else 6) * parameters + attention


def spawn_trial(arm: str, precision: str, options: argparse.Namespace) -> dict[str, float]:
    command = [
        sys.executable, __file__, "--trial", arm, "--trial-precision", precision, "--steps", str(options.steps),
        "--device", options.device, "--shape", options.shape, "--trained", options.trained,
        *(["--model", options.model] if options.model else []),
        *(["--length", str(options.length)] if options.length else []),
        *(["--checkpointing"] if options.checkpointing else []),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{arm} failed:\n{done.stderr[-3000:]}")
    told: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


def describe(precision: str, found: dict[str, list[dict[str, float]]]) -> None:
    """Median tokens per second and memory of every arm, and the ratio to the best peer round by round."""
    print(f"\n{precision}")
    print(f"{'':<33}{'tokens/s':>10}{'s a step':>10}{'GiB':>7}   ours / it, by round")
    for arm, trials in found.items():
        ratios = [ours["rate"] / theirs["rate"] for ours, theirs in zip(found[OURS], trials, strict=True)]
        middle = {name: statistics.median(trial[name] for trial in trials) for name in trials[0]}
        shown = "" if arm == OURS else "  ".join(f"{ratio:.2f}" for ratio in ratios)
        share = f"   {middle['share']:.1%} of peak" if "share" in middle else ""
        print(
            f"{arm:<33}{middle['rate']:10.1f}{middle['seconds']:10.2f}{middle['memory']:7.2f}   {shown}{share}"
        )
    peers = [trials for arm, trials in found.items() if arm != OURS]
    if not peers:
        return
    best = [max(trials[turn]["rate"] for trials in peers) for turn in range(len(found[OURS]))]
    ratios = [ours["rate"] / peer for ours, peer in zip(found[OURS], best, strict=True)]
    print(
        f"ours / best peer: {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]   goal 1.2"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a local model folder (default: a random LLaMA of SmolLM2's shape)")
    parser.add_argument(
        "--precision", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"]
    )
    parser.add_argument("--shape", default="smollm2_135m", choices=list(SHAPES), help="of the random model")
    parser.add_argument("--length", type=int, help="tokens of every example (default: Alpaca's lengths)")
    parser.add_argument("--trained", default="full", choices=["full", "lora"])
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing in every arm")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--steps", type=int, default=3, help="optimizer steps that are timed; one more warms up"
    )
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--trial", help=argparse.SUPPRESS)
    parser.add_argument("--trial-precision", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trial:
        print(json.dumps(run_trial(options.trial, options)))
        return
    tokens = sum(length for _, length in sizes_of(options.length))
    print(f"{BATCH} examples, {tokens} real tokens per optimizer step, {options.trained}; torch {torch.__version__}, "
          f"{torch.get_num_threads()} threads, {options.device}", flush=True)  # fmt: skip
    for precision in options.precision:
        found: dict[str, list[dict[str, float]]] = {arm: [] for arm in options.arms}
        for turn in range(options.rounds):
            order = options.arms[turn % len(options.arms) :] + options.arms[: turn % len(options.arms)]
            for arm in order:
                found[arm].append(spawn_trial(arm, precision, options))
                told = "  ".join(f"{name} {value:.4g}" for name, value in found[arm][-1].items())
                print(f"{precision}, round {turn + 1}, {arm}: {told}", flush=True)
        describe(precision, found)


if __name__ == "__main__":
    main()
