"""The untouched model that the divergence is measured from."""

from __future__ import annotations

import copy
import warnings

import peft
import pytest
import torch
from torch import nn

from neft_lab.interventions.noise import EmbeddingNoise
from neft_lab.interventions.untouched import UntouchedModel
from tests.noise_cases import PAPER, llama, padded_batch


def adapted() -> nn.Module:
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft's own
        config = peft.LoraConfig(r=2, task_type="CAUSAL_LM", lora_dropout=0.5, target_modules="all-linear")
        return peft.get_peft_model(llama(), config)


def change(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1


@pytest.mark.parametrize("adapters", [True, False])
def test_the_untouched_model_answers_as_before_training_and_leaves_training_alone(adapters: bool) -> None:
    ids, mask = padded_batch()
    before = llama().eval()(ids, attention_mask=mask).logits
    model = adapted() if adapters else llama()
    untouched = UntouchedModel(model, None if adapters else copy.deepcopy(model))
    change(model)
    state = torch.get_rng_state()
    with EmbeddingNoise(model, PAPER, seed=0) as noise:
        noise.arm(mask, [0, 1, 2], epoch=0)
        with untouched.lent() as base:
            logits = base(ids, attention_mask=mask).logits
        assert noise.fired == 0, "noise reached the untouched model"
        assert torch.equal(torch.get_rng_state(), state), "its dropout is off"
        assert model.training and all(layer.training for layer in model.modules())
        changed = model(input_ids=ids, attention_mask=mask).logits
        assert noise.fired == 1
    torch.testing.assert_close(logits, before, rtol=0, atol=1e-6)
    assert not logits.requires_grad and changed.requires_grad
    assert (changed - logits).abs().max() > 1e-2


def test_a_full_model_needs_its_copy() -> None:
    with pytest.raises(ValueError, match="pass a frozen copy"):
        UntouchedModel(llama(), None)
