"""Real tokens per second and peak memory of fine-tuning with noise: neft_lab, TRL and transformers in one run.

    pip install trl
    python benchmarks/training.py [--model FOLDER | --shape llama_7b] [--precision float32 bfloat16] [--rounds 2] [--steps 3]

The model is a local folder, or a random LLaMA of SmolLM2-135M's shape. All trainers get the same rows, 16 examples per
optimizer step, noise alpha 5, AdamW, and weights of the same precision. Lengths are those of Alpaca: sixteen quantiles
of prompts and of responses of its first 2,000 rows under SmolLM2's tokenizer. A trial is a process of its own, so that
peak memory is its own too; arms take turns, and each round gives one ratio to the best peer. A token counts once per
epoch and only if it is real: padding and packing change nothing in what is counted.

On a GPU (--device cuda) the last column is the share of the device's peak that is used, from 6 N FLOP per token and
12 x layers x width x length for attention.
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
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["TQDM_DISABLE"] = os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"

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
                     num_attention_heads=32, max_position_embeddings=2048),
}  # fmt: skip
OURS = "neft_lab"


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


def make_rows(steps: int) -> list[tuple[list[int], int]]:
    """Ids of every example, and how many of them are its prompt."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(prompt, prompt + response) for prompt, response in zip(PROMPTS, RESPONSES, strict=True)] * steps
    return [
        (torch.randint(3, 49000, (length,), generator=generator).tolist(), prompt) for prompt, length in sizes
    ]


def labels_of(ids: list[int], prompt: int) -> list[int]:
    return [-100] * prompt + ids[prompt:]


def shared_options(folder: str, steps: int, device: str) -> dict[str, Any]:
    """Arguments that all trainers get."""
    return dict(
        output_dir=folder, max_steps=steps, learning_rate=1e-5, report_to="none", save_strategy="no", disable_tqdm=True,
        logging_strategy="steps", logging_steps=1, bf16=False, use_cpu=device == "cpu", seed=0, optim="adamw_torch_fused",
    )  # fmt: skip


def run_ours(model: Any, rows: Any, steps: int, folder: str, device: str) -> list[float]:
    from neft_lab.allocation import keep_freed_memory
    from neft_lab.datasets import Example
    from neft_lab.interventions import Interventions
    from neft_lab.plan import expand
    from neft_lab.progress import Progress
    from neft_lab.training.arguments import training_arguments
    from neft_lab.training.rows import Rows
    from neft_lab.training.trainer import NoisyTrainer

    config = expand([
        f"noise.alpha={ALPHA}", f"finetune.batch={BATCH}", f"finetune.max_steps={steps}", "finetune.checkpoint_every=1000",
        "finetune.precision=fp32",
    ])[0].config  # fmt: skip
    examples = [
        Example(number, ids, labels_of(ids, prompt), False, [0] * len(ids)) for number, (ids, prompt) in enumerate(rows)
    ]  # fmt: skip
    clock = Clock()
    keep_freed_memory()  # as every step of the program does
    trainer = NoisyTrainer(
        model=model,
        args=training_arguments(config.finetune, Path(folder), rows=len(rows), seed=0, device=device),
        train_dataset=Rows(examples),
        config=config.finetune,
        interventions=Interventions(model, config.noise, config.regularizer, seed=0),
        tokenizer=make_tokenizer(),
        progress=Progress(Path(folder)),
    )
    trainer.add_callback(clock)
    trainer.train_or_resume()
    return clock.seconds


def run_transformers(model: Any, rows: Any, steps: int, folder: str, device: str) -> list[float]:
    """Its Trainer with micro-batches of like lengths."""
    from datasets import Dataset

    data = Dataset.from_dict(
        {"input_ids": [ids for ids, _ in rows], "labels": [labels_of(*row) for row in rows],
         "length": [len(ids) for ids, _ in rows]}
    )  # fmt: skip
    clock = Clock()
    transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            **shared_options(folder, steps, device), neftune_noise_alpha=ALPHA, train_sampling_strategy="group_by_length",
            per_device_train_batch_size=MICRO_BATCH, gradient_accumulation_steps=BATCH // MICRO_BATCH,
        ),
        train_dataset=data,
        data_collator=transformers.DataCollatorForSeq2Seq(make_tokenizer()),
        callbacks=[clock],
    ).train()  # fmt: skip
    return clock.seconds


def run_trl(model: Any, rows: Any, steps: int, folder: str, device: str, **choice: Any) -> list[float]:
    """Its SFTTrainer, responses alone in the loss."""
    import trl
    from datasets import Dataset

    data = Dataset.from_dict(
        {"input_ids": [ids for ids, _ in rows],
         "completion_mask": [[0] * prompt + [1] * (len(ids) - prompt) for ids, prompt in rows]}
    )  # fmt: skip
    clock = Clock()
    trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(**shared_options(folder, steps, device), neftune_noise_alpha=ALPHA,
                           max_length=MAX_LENGTH, **choice),
        train_dataset=data,
        processing_class=make_tokenizer(),
        callbacks=[clock],
    ).train()  # fmt: skip
    return clock.seconds


def run_trl_defaults(*arguments: Any) -> list[float]:
    return run_trl(
        *arguments, per_device_train_batch_size=MICRO_BATCH, gradient_accumulation_steps=BATCH // MICRO_BATCH
    )


def run_trl_packing(*arguments: Any) -> list[float]:
    """As many packed rows per optimizer step as hold the tokens of 16 examples."""
    rows = round((sum(PROMPTS) + sum(RESPONSES)) / MAX_LENGTH)
    return run_trl(*arguments, packing=True, per_device_train_batch_size=1, gradient_accumulation_steps=rows)


ARMS: dict[str, Callable[..., list[float]]] = {
    OURS: run_ours,
    "transformers, grouped by length": run_transformers,
    "TRL, packing": run_trl_packing,
    "TRL, defaults": run_trl_defaults,
}


def run_trial(arm: str, options: argparse.Namespace) -> dict[str, float]:
    """Train in this process: real tokens per second over all steps but the first, and peak memory."""
    model = load_model(options.model, options.shape, options.trial_precision, options.device)
    rows = make_rows(options.steps + 1)
    with tempfile.TemporaryDirectory() as folder:
        seconds = ARMS[arm](model, rows, options.steps + 1, folder, options.device)[1:]
    tokens = sum(PROMPTS) + sum(RESPONSES)
    told = {"rate": tokens * len(seconds) / sum(seconds), "seconds": sum(seconds) / len(seconds)}
    if options.device == "cuda":
        return told | {
            "memory": torch.cuda.max_memory_allocated() / 2**30,
            "share": _share(model, told["rate"]),
        }
    return told | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def _share(model: Any, rate: float, *, peak: float = 989e12) -> float:
    """Share of an H100's dense bfloat16 peak, recomputation not counted."""
    config = model.config
    length = (sum(PROMPTS) + sum(RESPONSES)) / BATCH
    flops = 6 * model.num_parameters() + 12 * config.num_hidden_layers * config.hidden_size * length
    return float(flops * rate / peak)


def spawn_trial(arm: str, precision: str, options: argparse.Namespace) -> dict[str, float]:
    command = [
        sys.executable, __file__, "--trial", arm, "--trial-precision", precision, "--steps", str(options.steps),
        "--device", options.device, "--shape", options.shape, *(["--model", options.model] if options.model else []),
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
    tokens = sum(PROMPTS) + sum(RESPONSES)
    print(f"{BATCH} examples, {tokens} real tokens per optimizer step; torch {torch.__version__}, "
          f"{torch.get_num_threads()} threads, {options.device}")  # fmt: skip
    for precision in options.precision:
        found: dict[str, list[dict[str, float]]] = {arm: [] for arm in options.arms}
        for turn in range(options.rounds):
            order = options.arms[turn % len(options.arms) :] + options.arms[: turn % len(options.arms)]
            for arm in order:
                found[arm].append(spawn_trial(arm, precision, options))
        describe(precision, found)


if __name__ == "__main__":
    main()
