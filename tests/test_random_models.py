"""Tiny random models: real architectures with the habits of their families, made once, told apart by content."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from neft_lab.config import ARCHITECTURES, ModelConfig, ModelSource, UserError
from neft_lab.models import source_folder
from neft_lab.paths import CONF_DIR
from neft_lab.plan import expand
from neft_lab.plan.keys import options
from neft_lab.random_models import KNOWN, describe_random_model, write_random_model
from neft_lab.sources import Source, model_source

CLASSES = {
    "llama": "LlamaForCausalLM",
    "llama3": "LlamaForCausalLM",
    "smollm": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "opt": "OPTForCausalLM",
    "opt_projected": "OPTForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
}
TIED = {"smollm", "qwen2", "qwen3", "gemma", "gemma2", "opt", "opt_projected"}
ADDS_BOS = {"llama", "llama3", "mistral", "gemma", "gemma2", "opt", "opt_projected"}
TEXT = "Café, 漢字 and 🙂:\n\n\ttwo  spaces."


def option(name: str) -> ModelConfig:
    """An option of ``conf/model`` as its files give it."""
    files = [OmegaConf.load(CONF_DIR / "model" / f"{part}.yaml") for part in ("hub", name)]
    values = OmegaConf.merge(*files)
    values.pop("defaults", None)
    known: ModelConfig = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), values))
    return known


def random_source(architecture: str) -> Source:
    return model_source(replace(option("llama2_7b"), source=ModelSource.random, architecture=architecture))


@lru_cache
def load(architecture: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = source_folder(random_source(architecture))
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_the_architectures_of_the_schema_are_those_that_can_be_made() -> None:
    assert tuple(KNOWN) == ARCHITECTURES
    assert set(CLASSES) == set(ARCHITECTURES)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_random_model_is_tiny_and_of_the_real_class(architecture: str) -> None:
    model, tokenizer = load(architecture)
    assert type(model).__name__ == CLASSES[architecture]
    assert model.config.num_hidden_layers == 2
    assert sum(weight.numel() for weight in model.parameters()) < 300_000
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied == (architecture in TIED)
    assert len(tokenizer) <= model.get_input_embeddings().weight.shape[0]
    logits = model(torch.tensor([tokenizer(TEXT)["input_ids"]])).logits
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_its_tokenizer_keeps_every_text_and_has_the_habits_of_the_family(architecture: str) -> None:
    _, tokenizer = load(architecture)
    ids = tokenizer(TEXT)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == TEXT
    assert (ids[0] == tokenizer.bos_token_id) == (architecture in ADDS_BOS)
    ended = tokenizer(TEXT + tokenizer.eos_token)["input_ids"]
    assert ended == [*ids, tokenizer.eos_token_id]


def test_each_has_what_its_family_differs_by() -> None:
    llama, llama3, mistral, gemma2 = (
        load(name)[0].config for name in ("llama", "llama3", "mistral", "gemma2")
    )
    assert llama.num_key_value_heads == llama.num_attention_heads > llama3.num_key_value_heads
    assert mistral.sliding_window == 64
    assert gemma2.layer_types == ["sliding_attention", "full_attention"]
    opt, projected = load("opt")[0].model.decoder, load("opt_projected")[0].model.decoder
    assert opt.project_in is None and projected.project_in.weight.shape == (64, 32)
    assert type(opt.embed_positions).__name__ == "OPTLearnedPositionalEmbedding"
    assert hasattr(load("qwen3")[0].model.layers[0].self_attn, "q_norm")
    assert load("qwen2")[0].model.layers[0].self_attn.q_proj.bias is not None
    assert load("llama3")[0].generation_config.eos_token_id == [1, 2]


def test_equal_seeds_give_equal_bytes_and_leave_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again, other = (
        write_random_model(tmp_path / name, "llama3", seed=seed)
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert torch.equal(torch.rand(3), expected)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (first, again, other)]
    assert weights[0] == weights[1] != weights[2]
    texts = [(folder / "tokenizer.json").read_bytes() for folder in (first, again, other)]
    assert texts[0] == texts[1] == texts[2]


def test_a_random_model_is_made_once() -> None:
    source = random_source("llama3")
    written = (source_folder(source) / "model.safetensors").stat().st_mtime_ns
    assert (source_folder(source) / "model.safetensors").stat().st_mtime_ns == written


def test_every_architecture_has_an_identity_of_its_own() -> None:
    identities = {random_source(name).identity for name in ARCHITECTURES}
    assert len(identities) == len(ARCHITECTURES)
    assert all(identity.startswith("sha256:") for identity in identities)
    assert describe_random_model("llama") != describe_random_model("mistral")


def test_its_identity_is_told_without_torch_and_without_the_network(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom neft_lab.plan import make_plan\n"
        "plan = make_plan(['model=llama2_7b', 'model.source=random', 'stages=[train]'])\n"
        "source = next(iter(plan.steps.values())).sources['model']\n"
        "assert (source.kind, source.location) == ('random', 'llama'), source\n"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", sorted({*options("model")} - {"hub", "local", "random"}))
def test_every_model_option_has_a_tiny_twin(name: str) -> None:
    config = option(name)
    assert config.name == name and config.architecture in ARCHITECTURES and config.revision is None
    source = model_source(replace(config, source=ModelSource.random))
    assert (source.kind, source.location) == ("random", config.architecture)


def test_a_twin_and_its_original_have_different_keys() -> None:
    original, twin = (
        expand(["model=llama2_7b", "stages=[train]", *more])[0] for more in ([], ["model.source=random"])
    )
    assert original.keys != twin.keys


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model=random", "model.architecture=mistrel"],
            "'mistrel' has no tiny model; did you mean 'mistral'",
        ),
        (["model=random"], "model.architecture must be given when model.source is random"),
        (["model=hub", "model.hub_id=a/b", "model.source=random"], "model.architecture must be given"),
        (["model=local"], "model.path must be given when model.source is local"),
        (["model=hub"], "model.hub_id must be given when model.source is hub"),
    ],
)
def test_what_a_source_needs_is_told(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        expand(overrides)
    assert "\n" not in str(told.value)


def test_a_local_folder_and_any_hub_id_are_models(tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "mine", "llama3")
    local = model_source(expand(["model=local", f"model.path={folder}"])[0].config.model)
    assert (local.kind, local.location) == ("folder", str(folder))
    hub = model_source(expand(["model=hub", "model.hub_id=some/model"])[0].config.model)
    assert (hub.kind, hub.location, hub.revision) == ("hub", "some/model", None)
