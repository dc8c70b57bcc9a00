"""Which of a sweep's arms a published number speaks of, or why none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from neft_lab.claims.arms import Arm
from neft_lab.config import JudgeConfig, JudgeKind, Method, RunConfig
from neft_lab.paper.numbers import MEAN, NO_RUN, Published

EVALUATORS = {"gpt4": "alpaca_eval_gpt4", "chatgpt": "chatgpt_fn"}
"""The paper's judges by the names of their AlpacaEval configurations."""

PROMPTS = {
    "long": "Generate a long response",
    "comprehensive": "Generate a comprehensive response",
    "long_and_comprehensive": "Generate a long and comprehensive response.",
}
"""Table 5's sentences."""


def find_arms(number: Published, numbers: Sequence[Published], arms: Sequence[Arm]) -> tuple[list[Arm], str]:
    """The arm of a number (for a mean over data sets: one arm each), or none and the reason in words."""
    if number.method in NO_RUN:
        return [], NO_RUN[number.method]
    if number.dataset != MEAN:
        arm, reason = _find_arm(number, arms)
        return ([arm] if arm else []), reason
    found = []
    for part in _parts(number, numbers):
        arm, reason = _find_arm(part, arms)
        if arm is None:
            return [], f"{part.dataset}: {reason}"
        found.append(arm)
    return found, ""


def _parts(number: Published, numbers: Sequence[Published]) -> list[Published]:
    """The numbers of single data sets that a mean is made of."""
    same = ("artifact", "model", "method", "variant", "noise", "metric", "judge")
    return [
        one for one in numbers
        if one.dataset != MEAN and all(getattr(one, name) == getattr(number, name) for name in same)
    ]  # fmt: skip


def _find_arm(number: Published, arms: Sequence[Arm]) -> tuple[Arm | None, str]:
    judges = {judge_label(arm.rows[0].config.judge) for arm in arms}
    nearest: list[str] | None = None
    for arm in arms:
        missing = list(_mismatches(number, arm, judges))
        if not missing:
            return arm, ""
        if nearest is None or len(missing) < len(nearest):
            nearest = missing
    return None, f"no run with {', '.join(nearest)}" if nearest else "no run"


def judge_label(judge: JudgeConfig) -> str:
    """Who judges: an AlpacaEval configuration, or our judge's own name."""
    return judge.evaluator or judge.name


def _mismatches(number: Published, arm: Arm, judges: set[str]) -> Iterator[str]:
    """What keeps an arm from being the one of a number, in words."""
    config: RunConfig = arm.rows[0].config
    if number.model != config.model.name:
        yield f"model {number.model}"
    if number.dataset and number.dataset != config.dataset.name:
        yield f"data set {number.dataset}"
    if not METHODS[number.method](config, number):
        yield f"{number.method} ({number.noise or 'any noise'})"
    elif number.alpha is not None and number.alpha != _alpha(config):
        yield f"alpha {number.alpha:g}"
    yield from _varied(number, arm, config)
    wanted = EVALUATORS.get(number.judge)
    # another judge for all cells is a difference of the protocol, told in its place; stored verdicts are whose they are
    sole = len(judges) == 1 and config.judge.kind is not JudgeKind.file
    if wanted and judge_label(config.judge) != wanted and not sole:
        yield f"judge {wanted}"


METHODS: dict[str, Callable[[RunConfig, Published], bool]] = {
    "base": lambda config, number: config.finetune.method is Method.none,
    "sft": lambda config, number: (
        _trained(config) and config.noise.silent and not config.regularizer.freelb_steps
    ),
    "neftune": lambda config, number: (
        _trained(config) and not config.noise.silent and config.noise.kind.name == number.noise
    ),
    "freelb": lambda config, number: (
        _trained(config) and config.noise.silent and config.regularizer.freelb_steps > 0
    ),
}
"""Whether a run is of the method that a number names."""


def _trained(config: RunConfig) -> bool:
    return config.finetune.method is not Method.none


def _alpha(config: RunConfig) -> float:
    return 0.0 if config.noise.silent else config.noise.alpha


def decoding_label(config: RunConfig) -> str:
    """As table 10 names decodings."""
    generation = config.generation
    if generation.temperature == 0:
        return "greedy"
    return f"top_p{generation.top_p:g}_T{generation.temperature:g}"


def _varied(number: Published, arm: Arm, config: RunConfig) -> Iterator[str]:
    """What the number's artifact varies, and what its other rows do to decoding and training."""
    variant = dict([number.variant]) if number.variant else {}
    generation = config.generation
    meta = PROMPTS.get(variant.get("prompt", ""), "")
    frozen = [variant["frozen"]] if "frozen" in variant else []
    if generation.meta_prompt != meta:
        yield f"meta-prompt '{meta}'" if meta else "no meta-prompt"
    if generation.min_new_tokens != int(variant.get("min_new_tokens", 0)):
        yield f"min_new_tokens {variant.get('min_new_tokens', 0)}"
    if generation.best_of != 1:
        yield "one answer per instruction"
    if [part.name for part in config.finetune.freeze] != frozen:
        yield f"frozen {frozen[0]}" if frozen else "nothing frozen"
    if "decode" in variant and decoding_label(config) != variant["decode"]:
        yield f"decoding {variant['decode']}"
    # axes first: a scaled run keeps the artifact's own value there
    asked = {"epochs": arm.axes.get("finetune.epochs", config.finetune.epochs),
             "split": arm.axes.get("finetune.max_length", config.finetune.max_length)}  # fmt: skip
    for name, value in asked.items():
        if name in variant and float(variant[name]) != float(value):
            yield f"{name} {variant[name]}"
