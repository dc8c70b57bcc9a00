"""Where noise enters the model families, under adapters and gradient checkpointing."""

from __future__ import annotations

import math
from dataclasses import replace

import peft
import pytest
import torch
import transformers

from neft_lab.interventions.noise import EmbeddingNoise
from tests.noise_cases import PAPER, SHAPE, VOCABULARY, WIDTH, expected_noise, llama, padded_batch

# transformers and peft announce a new name for gradient checkpointing.
renamed = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*deprecated:FutureWarning")

OPT_SHAPE = dict(
    vocab_size=VOCABULARY,
    word_embed_proj_dim=16,
    hidden_size=WIDTH,
    ffn_dim=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=64,
    do_layer_norm_before=False,
    dropout=0.1,
    layerdrop=0.0,
)


def family(name):
    """A tiny model with random weights, and the list of its layers."""
    torch.manual_seed(0)
    if name == "opt":
        model = transformers.OPTForCausalLM(transformers.OPTConfig(**OPT_SHAPE))
        return model, model.model.decoder.layers
    kinds = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        "gemma": (transformers.GemmaConfig, transformers.GemmaForCausalLM),
        "gemma2": (transformers.Gemma2Config, transformers.Gemma2ForCausalLM),
    }
    config, kind = kinds[name]
    model = kind(config(**SHAPE, **({"head_dim": 16} if name.startswith("gemma") else {})))
    return model, model.model.layers


class Recorder:
    """What enters a module, pass by pass."""

    def __init__(self, module):
        self.seen = []
        module.register_forward_pre_hook(self._record, with_kwargs=True)

    def _record(self, module, args, kwargs):
        self.seen.append((args[0] if args else kwargs["hidden_states"]).detach().clone())


@pytest.mark.parametrize("name", ["llama", "opt", "mistral", "qwen2", "gemma", "gemma2"])
def test_noise_enters_each_family_at_its_embedding(name):
    model, layers = family(name)
    model.train()
    ids, mask = padded_batch()
    layer_0 = Recorder(layers[0])
    torch.manual_seed(1)
    model(ids, attention_mask=mask)
    with EmbeddingNoise(model, PAPER, seed=0) as noise:
        noise.arm(mask, [0, 1, 2], epoch=0)
        torch.manual_seed(1)
        model(ids, attention_mask=mask)
    noise.check(1)
    clean, noisy = layer_0.seen
    if name == "opt":
        expected = model.model.decoder.project_in(expected_noise(mask, 16)).detach()
    else:
        expected = expected_noise(mask, WIDTH)
    torch.testing.assert_close(noisy - clean, expected, rtol=1e-4, atol=2e-6)


def test_gemma_scales_its_embeddings_but_not_the_noise():
    model, layers = family("gemma")
    ids, mask = padded_batch()
    layer_0 = Recorder(layers[0])
    with EmbeddingNoise(model, PAPER, seed=0) as noise:
        noise.arm(mask, [0, 1, 2], epoch=0)
        model(ids, attention_mask=mask)
    rows = model.get_input_embeddings().weight[ids]
    torch.testing.assert_close(
        layer_0.seen[0] - math.sqrt(WIDTH) * rows, expected_noise(mask, WIDTH), rtol=1e-4, atol=2e-6
    )
    assert noise.dose().mean_noise_norm == pytest.approx(5 / math.sqrt(3), rel=0.1)


@renamed
@pytest.mark.parametrize(
    "adapter",
    [
        dict(target_modules=["q_proj", "v_proj"]),
        dict(target_modules=["embed_tokens"]),
        dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
        dict(target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [4, 5]}),
    ],
    ids=["q_and_v", "embedding", "saved_embedding", "token_rows"],
)
def test_noise_enters_once_under_every_adapter(adapter):
    model = peft.get_peft_model(llama(), peft.LoraConfig(r=2, task_type="CAUSAL_LM", **adapter))
    layer_0 = Recorder(model.get_base_model().model.layers[0])
    ids, mask = padded_batch()
    model(input_ids=ids, attention_mask=mask)
    with EmbeddingNoise(model, PAPER, seed=0) as noise:
        noise.arm(mask, [0, 1, 2], epoch=0)
        model(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
    noise.check(1)
    clean, noisy = layer_0.seen
    torch.testing.assert_close(noisy - clean, expected_noise(mask, WIDTH), rtol=1e-4, atol=2e-6)


@renamed
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_sees_the_same_noise_once(reentrant):
    ids, mask = padded_batch()
    gradients = []
    for checkpointing in (False, True):
        model = llama(attention_dropout=0.0)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        with EmbeddingNoise(model, PAPER, seed=0) as noise:
            noise.arm(mask, [0, 1, 2], epoch=0)
            model(ids, attention_mask=mask, labels=ids, use_cache=False).loss.backward()
        noise.check(1)
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.equal(plain, checkpointed)


@renamed
def test_noise_reaches_adapters_over_a_frozen_embedding_under_gradient_checkpointing():
    ids, mask = padded_batch()
    gradients = []
    for config in (PAPER, replace(PAPER, alpha=0.0)):
        model = llama(attention_dropout=0.0)
        model.gradient_checkpointing_enable()
        torch.manual_seed(1)
        model = peft.get_peft_model(model, peft.LoraConfig(r=2, task_type="CAUSAL_LM"))
        with EmbeddingNoise(model, config, seed=0) as noise:
            noise.arm(mask, [0, 1, 2], epoch=0)
            model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss.backward()
        noise.check(1)
        gradients.append([part.grad for name, part in model.named_parameters() if "lora_B" in name])
    for noisy, clean in zip(*gradients, strict=True):
        assert noisy.any() and not torch.equal(noisy, clean)


@renamed
@pytest.mark.filterwarnings("ignore:torch.utils.checkpoint:UserWarning")
def test_noise_enters_a_four_bit_model_under_adapters(tmp_path):
    pytest.importorskip("bitsandbytes")
    llama(hidden_size=64, intermediate_size=64).save_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=transformers.BitsAndBytesConfig(load_in_4bit=True), dtype=torch.float32
    )
    assert "4bit" in type(model.model.layers[0].self_attn.q_proj).__name__
    model = peft.prepare_model_for_kbit_training(model)
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, task_type="CAUSAL_LM")).train()
    layer_0 = Recorder(model.get_base_model().model.layers[0])
    ids, mask = padded_batch()
    with EmbeddingNoise(model, PAPER, seed=0) as noise:
        noise.arm(mask, [0, 1, 2], epoch=0)
        model(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
    noise.check(1)
    rows = model.get_input_embeddings().weight.detach()[ids]
    torch.testing.assert_close(layer_0.seen[0] - rows, expected_noise(mask, 64), rtol=1e-4, atol=2e-6)
