"""AlpacaEval's judges as they are shipped: prompt, decoding, parser and order of the two answers.

Configurations and prompt files are read from the installed package without importing it; only the parsers
are imported, when the first answer is parsed. What goes out and what is made of the answer equal
alpaca-eval 0.6.6, except that texts with chat markers or slot names in them cannot change the prompt.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import importlib.util
import math
import random
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from neft_lab.config import UserError, nearest
from neft_lab.judging.pairs import Pair, read_preference
from neft_lab.sources import Source
from neft_lab.store import canonical_json

OPENAI_URL = "https://api.openai.com/v1"
NOT_SENT = (
    "model_name",
    "requires_chatml",
    "price_per_token",
    "client_kwargs",
    "num_procs",
    "is_chatml_prompt",
)
"""Parts of completions_kwargs that steer alpaca-eval itself."""

_SLOT = re.compile(r"\{(instruction|output_1|output_2)\}")
_MESSAGE = re.compile(r"<\|im_start\|>([^\n]*)\n(.*?)(?=<\|im_start\|>|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Evaluator:
    """One judge: what is asked, how, and what the answer means."""

    name: str
    template: str
    """Prompt with the slots instruction, output_1 and output_2: ChatML, or plain text for old completion models."""
    model: str
    request: Mapping[str, Any]
    """Everything of the request besides model and prompt."""
    parser: str
    parser_options: Mapping[str, Any]
    reads_whole_choice: bool
    """The parser reads the whole choice (log-probabilities), not its text alone."""
    orders_at_random: bool
    base_url: str | None = None
    speaks_openai: bool = True
    """alpaca-eval asks it over OpenAI's protocol; if not, a base_url that speaks it must be given."""

    @property
    def chat(self) -> bool:
        """Whether it is asked over chat completions."""
        return self.template.lstrip().startswith("<|im_start|>")

    @property
    def prompt_digest(self) -> str:
        """SHA-256 of the prompt template."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides what is asked and how the answer is read."""
        parts = [
            self.template,
            self.model,
            self.request,
            self.parser,
            self.parser_options,
            self.orders_at_random,
        ]
        return "sha256:" + hashlib.sha256(canonical_json(_plain(parts)).encode()).hexdigest()

    @property
    def decoding(self) -> str:
        """Canonical JSON of everything of the request besides model and prompt."""
        return canonical_json(self.request)

    def switched(self, instruction: str, *, seed: int) -> bool:
        """Whether the model's answer is shown first; depends on instruction and seed alone (alpaca-eval's is 0)."""
        if not self.orders_at_random:
            return False
        return random.Random(f"is_switched_outputs{instruction}{seed}").choices([False, True])[0]

    def body(self, pair: Pair, *, switched: bool, model: str) -> dict[str, Any]:
        """The JSON body of the request about one pair."""
        first, second = (pair.output, pair.reference) if switched else (pair.reference, pair.output)
        texts = {"instruction": pair.instruction, "output_1": first, "output_2": second}
        if not self.chat:
            return {"model": model, "prompt": _fill(self.template.strip(), texts).strip(), **self.request}
        messages = [
            message | {"content": _fill(message["content"], texts).strip()} for message in self._messages
        ]
        return {"model": model, "messages": messages, **self.request}

    def parse(self, completion: Any, *, switched: bool) -> float | None:
        """Preference from 1 (reference) to 2 (model) that a raw completion stands for; None: no verdict in it."""
        shown = _parse(self.parser, self.parser_options, completion)
        if shown is None or not switched:
            return shown
        return 3 - shown

    def completion(self, choice: Mapping[str, Any]) -> Any:
        """What the parser reads and the annotations store: the choice's text, or the whole choice with its text."""
        text = _text(choice)
        return {**choice, "text": text} if self.reads_whole_choice else text

    @cached_property
    def _messages(self) -> list[dict[str, str]]:
        found = _MESSAGE.findall(self.template)
        return [{**_role(head), "content": body.split("<|im_end|>", 1)[0]} for head, body in found]


@cache
def load_evaluator(name: str) -> Evaluator:
    """A judge that alpaca-eval ships, by the name of its configuration.

    Raises:
        UserError: unknown name, or a configuration that asks several judges or several pairs at a time.
    """
    folder = configs_folder()
    if name not in evaluator_names():
        raise UserError(f"judge.evaluator '{name}' is not known; {nearest(name, evaluator_names())}")
    judges = yaml.safe_load((folder / name / "configs.yaml").read_text(encoding="utf-8"))
    (options,) = judges.values() if len(judges) == 1 else (None,)
    if options is None or options.get("batch_size", 1) != 1:
        raise UserError(
            f"judge.evaluator '{name}' asks several judges, or about several pairs at once; choose another"
        )
    asked = options["completions_kwargs"]
    return Evaluator(
        name=name,
        template=(folder / options["prompt_template"]).read_text(encoding="utf-8"),
        model=asked["model_name"],
        request=_request(asked),
        parser=options.get("fn_completion_parser", "regex_parser"),
        parser_options=options.get("completion_parser_kwargs", {}),
        reads_whole_choice=options.get("completion_key") == "completions_all",
        orders_at_random=options.get("is_randomize_output_order", True),
        base_url=asked.get("client_kwargs", {}).get("base_url"),
        speaks_openai=options["fn_completions"] == "openai_completions",
    )


def evaluator_source(name: str) -> Source:
    """What of an evaluator enters a key: the digest of its prompt, decoding and parser; nothing is imported for it."""
    version = importlib.metadata.version("alpaca_eval")
    return Source("package", f"alpaca_eval/{name}", version, load_evaluator(name).digest)


@cache
def configs_folder() -> Path:
    """Where the installed alpaca-eval keeps its judges; found, not imported."""
    spec = importlib.util.find_spec("alpaca_eval")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("judge.evaluator needs the package alpaca-eval; run `make setup`")
    return Path(spec.submodule_search_locations[0]) / "evaluators_configs"


@cache
def evaluator_names() -> tuple[str, ...]:
    """Names of all judges that the installed alpaca-eval ships."""
    return tuple(sorted(path.parent.name for path in configs_folder().glob("*/configs.yaml")))


def _request(asked: Mapping[str, Any]) -> dict[str, Any]:
    """alpaca-eval's own defaults where a configuration is silent, under the names of OpenAI's protocol."""
    request = {"max_tokens": 2048, "temperature": 0.7, "top_p": 1.0}
    request |= {name: value for name, value in asked.items() if name not in NOT_SENT}
    for other in ("max_new_tokens", "max_tokens_to_sample"):
        if other in request:
            request["max_tokens"] = request.pop(other)
    return {name: value for name, value in request.items() if name not in ("model_kwargs", "batch_size")}


def _plain(value: Any) -> Any:
    """YAML's mappings may have numbers as keys."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _role(head: str) -> dict[str, str]:
    """ChatML's `system name=x` as a message's fields."""
    role, *more = head.strip().split(" ")
    return {"role": role, **dict(item.split("=", 1) for item in more if item)}


def _fill(template: str, texts: Mapping[str, str]) -> str:
    return _SLOT.sub(lambda slot: texts[slot.group(1)], template)


def _text(choice: Mapping[str, Any]) -> str | None:
    """The answer's text as alpaca-eval takes it: a tool call's arguments before the content."""
    if "message" not in choice:
        return choice.get("text")
    message = choice["message"]
    if message.get("tool_calls"):
        return str(message["tool_calls"][0]["function"]["arguments"])
    if message.get("function_call"):
        return str(message["function_call"]["arguments"])
    content = message.get("content")
    return " " if content == "" else content


def _parse(parser: str, options: Mapping[str, Any], completion: Any) -> float | None:
    """alpaca-eval's parser on one completion; None for what it refuses or cannot read."""
    from neft_lab.judging.alpaca import parsers

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parsers evaluate the judge's text as a Python literal
            own = copy.deepcopy(dict(options))  # one of the parsers compiles its patterns in place
            found = list(getattr(parsers(), parser)(completion, **own))
    except Exception:  # any text may come from a judge, and any error means that there is no verdict in it
        return None
    if len(found) != 1 or found[0] is None:
        return None
    try:
        value = float(found[0])
    except (TypeError, ValueError):
        return None
    return None if math.isnan(value) else read_preference(value)
