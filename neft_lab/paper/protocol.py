"""What of a run's protocol differs from the paper's, or is not known of the paper's: read off its configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from neft_lab.claims.arms import Arm
from neft_lab.claims.results import shown
from neft_lab.config import GenerationSource, JudgeKind, Method, RunConfig, Scale, plain
from neft_lab.paper.cells import EVALUATORS, decoding_label, judge_label
from neft_lab.paper.numbers import Published
from neft_lab.plan.published import published_name
from neft_lab.store import read_json

FULL: dict[str, Any] = {
    "method": "full", "epochs": 3, "batch": 128, "learning_rate": 5e-5, "weight_decay": 0, "max_length": 512,
    "schedule": "cosine", "clip": 1, "precision": "bf16_pure", "loss_average": "paper",
}  # fmt: skip
"""Full fine-tuning of 7B and 13B; schedule, clip and the loss's average are the released code's."""

LARGE = FULL | {"learning_rate": 2e-5, "weight_decay": 0.1, "batch": 64, "max_length": 2048}
"""The 70B model (appendix A.1)."""

QLORA: dict[str, Any] = {
    "method": "qlora", "epochs": 1, "batch": 16, "learning_rate": 2e-4, "schedule": "constant", "clip": 0.3,
    "lora_rank": 64, "lora_alpha": 16,
}  # fmt: skip
"""Table 3: the defaults of QLoRA's authors."""

NOISE: dict[str, Any] = {"scale": "raw", "length": "sample", "place": "both", "strength": "alpha", "frozen": False,
                         "schedule": "constant", "symmetric": False}  # fmt: skip
"""NEFTune as the released training code does it."""

ASKED = {"gpt4": "gpt-4", "chatgpt": "gpt-3.5-turbo-16k-0613"}
STANDING = {
    "gpt-4": "which snapshot stood behind this name in 2023 is not known",
    "gpt-3.5-turbo-16k-0613": "retired by its maker in September 2024",
}
"""What has become of the models that the paper's judges asked."""


PUBLIC = {
    "alpaca-7b": (
        "the public plain Alpaca is Stanford's, another model than the paper's baseline and decoded differently: "
        "sampled at temperature 0.7 without a repetition penalty"
    ),
    "llama-2-7b-chat-hf": "AlpacaEval's own entry: sampled at temperature 0.7 with LLaMA's chat prompt",
}
"""How public outputs were made that are not the paper's."""


def differences(number: Published, arms: Sequence[Arm], baselines: Sequence[Arm] = ()) -> list[str]:
    """Every difference in words, most telling first; of the baselines only what makes them another baseline."""
    found = [told for arm in (*arms, *baselines) for told in _public(arm)]
    for arm in arms:
        found += [*_scale(arm), *_judge(number, arm), *_recipe(number, arm), *_noise(number, arm), *_decoding(number, arm),
                  *_tasks(number, arm), *_length_control(number, arm), *_origins(arm), *_seeds(arm)]  # fmt: skip
    return list(dict.fromkeys(found))


def _config(arm: Arm) -> RunConfig:
    config: RunConfig = arm.rows[0].config
    return config


def _scale(arm: Arm) -> Iterator[str]:
    config = _config(arm)
    if config.scale is Scale.tiny:
        yield (
            f"scale=tiny: a random model of {config.model.architecture}'s kind, {config.dataset.max_rows} rows of the "
            f"starter set, {config.generation.limit} instructions; no number here is a result"
        )


def _public(arm: Arm) -> list[str]:
    """What the public files behind an arm are, where they are not what the paper calls by this name."""
    config = _config(arm)
    if config.generation.source is not GenerationSource.file:
        return []
    told = PUBLIC.get(published_name(config))
    return [told] if told else []


def _judge(number: Published, arm: Arm) -> Iterator[str]:
    wanted, judge = EVALUATORS.get(number.judge), _config(arm).judge
    if wanted is None or judge.kind is JudgeKind.file:
        return
    if judge_label(judge) != wanted:
        yield f"judge {judge_label(judge)} in place of {wanted}"
        return
    model = judge.served_model or ASKED[number.judge]
    if model != ASKED[number.judge]:
        yield f"judge prompt {wanted} asked of {model} in place of {ASKED[number.judge]}"
    else:
        yield f"judge model {model}: {STANDING[model]}"
    answered = _resolved(arm, "judge").get("verdicts", {}).get("model_versions", {})
    if judge.base_url is not None or answered:
        at = f" at {judge.base_url}" if judge.base_url else ""
        yield f"the judge{at} answered as {', '.join(answered) or 'nobody named'}"


def _resolved(arm: Arm, stage: str) -> dict[str, Any]:
    record = arm.rows[0].records.get(stage, {})
    resolved: dict[str, Any] = record.get("resolved") or {}
    return resolved


def _recipe(number: Published, arm: Arm) -> Iterator[str]:
    config = _config(arm)
    if config.generation.source is GenerationSource.file or config.finetune.method is Method.none:
        return
    recipe = QLORA if number.artifact == "table3" else LARGE if config.model.name == "llama2_70b" else FULL
    if number.artifact == "table3" and config.model.name == "llama1_30b":
        recipe = recipe | {"batch": 32, "learning_rate": 1e-4}
    varied = {"epochs": "epochs", "split": "max_length"}.get(number.variant[0] if number.variant else "")
    ours = plain(config.finetune)
    for name, paper in recipe.items():
        if name != varied and ours[name] != paper:
            yield f"finetune.{name} {shown(ours[name])} (paper {shown(paper)})"
    if number.artifact == "table3":
        yield f"the lengths that QLoRA cut to are not stated; {config.finetune.max_length} tokens here"
    if config.finetune.max_steps is not None:
        yield f"stopped after {config.finetune.max_steps} steps"


def _noise(number: Published, arm: Arm) -> Iterator[str]:
    noise, regularizer = _config(arm).noise, _config(arm).regularizer
    if regularizer.freelb_steps:
        yield (f"FreeLB's settings are not stated; {regularizer.freelb_steps} steps of {regularizer.freelb_step_size:g} "
               f"from {regularizer.freelb_start:g} here")  # fmt: skip
    if noise.silent:
        return
    if number.alpha is None:
        yield f"alpha is not printed; {noise.alpha:g} here"
    elif "inferred" in number.note:
        yield f"alpha {number.alpha:g} is inferred, not printed"
    if number.noise == "gaussian":
        yield f"the scale of the Gaussian is not stated; noise.scale={noise.scale.name} here"
    ours = plain(noise)
    for name, paper in NOISE.items():
        if ours[name] != paper and not (name == "scale" and number.noise == "gaussian"):
            yield f"noise.{name} {shown(ours[name])} (paper {shown(paper)})"


def _decoding(number: Published, arm: Arm) -> Iterator[str]:
    config, generation = _config(arm), _config(arm).generation
    if generation.source is GenerationSource.file or "generate" not in arm.rows[0].keys:
        return
    if generation.instructions != "alpaca_eval":
        yield f"instructions of {generation.instructions}, not AlpacaEval's 805"
    if generation.limit is not None:
        yield f"only {generation.limit} instructions"
    if generation.repetition_penalty != 1.2:
        yield f"repetition penalty {generation.repetition_penalty:g} (paper 1.2)"
    varied = number.variant is not None and number.variant[0] == "decode"
    if generation.temperature > 0:
        yield (
            "top_k is not stated; none here" if varied else f"sampled ({decoding_label(config)}), not greedy"
        )
    if generation.meta_prompt:
        yield "where the sentence stood in the prompt is not stated; after the instruction here"
    if generation.max_total_tokens in (1024, 2048):
        yield f"{generation.max_total_tokens} tokens for prompt and answer; whether the paper had 1024 or 2048 is not known"
    else:
        yield f"at most {generation.max_new_tokens} new tokens (paper: 1024 or 2048 with the prompt)"


def _tasks(number: Published, arm: Arm) -> Iterator[str]:
    if number.judge != "lm_eval_harness":
        return
    config = _config(arm).leaderboard
    shots = ", ".join(f"{task.task} {task.shots}" for task in config.tasks)
    yield f"the paper prints no shots; here {shots}"
    if any(task.limit for task in config.tasks):
        yield f"only {max(task.limit or 0 for task in config.tasks)} documents a task"
    packages = arm.rows[0].records.get("leaderboard", {}).get("packages", {})
    if "lm_eval" in packages or "lm-eval" in packages:
        yield f"lm-eval {packages.get('lm_eval') or packages.get('lm-eval')}; the paper's version is not stated"


def _length_control(number: Published, arm: Arm) -> Iterator[str]:
    if number.metric != "win_rate_lc" or "judge" not in arm.rows[0].folders:
        return
    facts = read_json(arm.rows[0].folders["judge"] / "results.json")["length_control"]
    if facts["difficulty"] != "given":
        yield (f"AlpacaEval's own difficulties of the instructions, which its length control uses, are on the hub; "
               f"here: {facts['difficulty']}")  # fmt: skip


def _origins(arm: Arm) -> Iterator[str]:
    config = _config(arm)
    if config.generation.source is GenerationSource.file or config.scale is Scale.tiny:
        return
    found = _resolved(arm, "train").get("revisions", {})
    for name, part in (("model", config.model), ("dataset", config.dataset)):
        revision = found.get(name) or part.revision
        at = f"at {revision[:12]}" if revision else "at its newest revision"
        if part.hub_id and not part.path:
            yield f"{name} {part.hub_id} {at}; the paper names none"
    if config.dataset.max_rows is not None:
        yield f"only the first {config.dataset.max_rows} rows"


def _seeds(arm: Arm) -> Iterator[str]:
    if len(arm.rows) > 1:
        yield f"{len(arm.rows)} training seeds (paper: one)"
