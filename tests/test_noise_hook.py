"""The hook that puts noise into a training model: when it fires, when it must not, and what it draws."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace

import pytest
import torch
import transformers
from torch import nn

from neft_lab.config import NoiseKind
from neft_lab.interventions.noise import EmbeddingNoise
from tests.noise_cases import (
    LENGTHS,
    PAPER,
    RADEMACHER,
    WIDTH,
    expected_noise,
    llama,
    noise_of_pass,
    padded_batch,
    same_weights,
)

SILENT = replace(PAPER, alpha=0.0)


def train(config, *, hook=True, steps=3, start=0, model=None):
    """Train a tiny model with dropout; return it and the global random state afterwards."""
    model = model or llama()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ids, mask = padded_batch()
    torch.manual_seed(2)
    with EmbeddingNoise(model, config, seed=0) as noise:
        for step in range(start, steps):
            if hook:
                noise.arm(mask, [0, 1, 2], epoch=step)
            optimizer.zero_grad()
            model(ids, attention_mask=mask, labels=ids).loss.backward()
            optimizer.step()
    noise.check(steps - start)
    return model, torch.get_rng_state()


def test_alpha_zero_trains_the_very_same_weights_as_no_hook():
    plain, state = train(SILENT, hook=False)
    zero, state_zero = train(SILENT)
    none, state_none = train(replace(PAPER, kind=NoiseKind.none, alpha=0.0))
    assert same_weights(plain, zero) and same_weights(plain, none)
    assert torch.equal(state, state_zero) and torch.equal(state, state_none)


def test_noise_at_any_alpha_leaves_the_random_stream_of_dropout_alone():
    _, state = train(SILENT)
    noisy, state_noisy = train(PAPER)
    assert torch.equal(state, state_noisy)
    assert not same_weights(train(SILENT)[0], noisy)


def test_a_resumed_training_gets_the_same_noise():
    whole, _ = train(PAPER, model=llama(attention_dropout=0.0))
    first, _ = train(PAPER, model=llama(attention_dropout=0.0), steps=2)
    resumed, _ = train(PAPER, model=copy.deepcopy(first), start=2)
    assert same_weights(whole, resumed)


def embedding_outputs(model, ids):
    """What the embedding returns in eval mode, in training mode without gradients, and in training mode."""
    embedding = model.get_input_embeddings()
    model.eval()
    outputs = [embedding(ids).detach()]
    model.train()
    with torch.no_grad():
        outputs.append(embedding(ids))
    return [*outputs, embedding(ids).detach()]


def test_evaluation_and_probes_without_gradients_get_exactly_no_noise_and_do_not_use_it_up():
    model = llama()
    ids, mask = padded_batch()
    clean = model.get_input_embeddings().weight[ids].detach()
    with EmbeddingNoise(model, PAPER, seed=0) as noise:
        noise.arm(mask, [0, 1, 2], epoch=0)
        evaluated, probed, trained = embedding_outputs(model, ids)
        assert torch.equal(evaluated, clean) and torch.equal(probed, clean)
        assert not torch.equal(trained, clean)
    noise.check(1)


def test_generation_in_training_mode_gets_exactly_no_noise():
    model = llama(attention_dropout=0.0)
    ids = padded_batch((6,), extra=0)[0]
    plain = model.generate(
        ids, max_new_tokens=8, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    with EmbeddingNoise(model, replace(PAPER, alpha=500.0), seed=0) as noise:
        noise.arm(torch.ones(1, 6), [0], epoch=0)
        during = model.generate(
            ids, max_new_tokens=8, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    assert noise.fired == 0
    assert all(torch.equal(a, b) for a, b in zip(plain.logits, during.logits, strict=True))


def test_a_pass_that_was_not_armed_is_clean():
    model = llama()
    ids, mask = padded_batch()
    with EmbeddingNoise(model, PAPER, seed=0) as noise:
        noise.arm(mask, [0, 1, 2], epoch=0)
        embedding = model.get_input_embeddings()
        assert not torch.equal(embedding(ids), embedding.weight[ids])
        assert torch.equal(embedding(ids), embedding.weight[ids])
    assert (noise.armed, noise.fired) == (1, 1)


def test_the_hook_is_gone_after_an_error_and_never_reaches_an_export(tmp_path):
    model = llama()
    embedding = model.get_input_embeddings()
    with pytest.raises(ZeroDivisionError), EmbeddingNoise(model, PAPER, seed=0):
        assert len(embedding._forward_hooks) == 1
        model.save_pretrained(tmp_path)
        raise ZeroDivisionError
    assert not embedding._forward_hooks
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    assert not loaded.get_input_embeddings()._forward_hooks
    assert same_weights(model, loaded)


def test_silent_noise_places_no_hook_and_needs_no_arming():
    model = llama()
    with EmbeddingNoise(model, SILENT, seed=0) as noise:
        noise.arm(torch.ones(1, 4), [0], epoch=0)
        assert not model.get_input_embeddings()._forward_hooks
    noise.check(1)
    assert asdict(noise.dose()) == dict(
        examples=0, mean_noise_norm=0.0, noise_to_embedding_rms=0.0, equivalent_alpha=0.0
    )


def test_a_micro_batch_that_nobody_armed_fails_the_check():
    model = llama()
    ids, mask = padded_batch()
    with EmbeddingNoise(model, PAPER, seed=0) as noise:
        noise.arm(mask, [0, 1, 2], epoch=0)
        model(ids, attention_mask=mask)
        model(ids, attention_mask=mask)
    with pytest.raises(
        RuntimeError, match="of 2 training micro-batches 1 were armed and 1 got embedding noise"
    ):
        noise.check(2)


@pytest.mark.parametrize("way_past", ["eval", "inputs_embeds"])
def test_a_micro_batch_that_ran_past_the_hook_fails_the_next_one_and_the_check(way_past):
    model = llama()
    ids, mask = padded_batch()
    with EmbeddingNoise(model, PAPER, seed=0) as noise:
        noise.arm(mask, [0, 1, 2], epoch=0)
        if way_past == "eval":
            model.eval()(ids, attention_mask=mask)
        else:
            model(inputs_embeds=model.get_input_embeddings().weight[ids], attention_mask=mask)
        with pytest.raises(RuntimeError, match="armed for micro-batch 1, which ran without it"):
            noise.arm(mask, [0, 1, 2], epoch=0)
    with pytest.raises(
        RuntimeError, match="of 1 training micro-batches 1 were armed and 0 got embedding noise"
    ):
        noise.check(1)


def test_arming_outside_the_block_is_told():
    with pytest.raises(RuntimeError, match="outside its `with` block"):
        EmbeddingNoise(llama(), PAPER, seed=0).arm(torch.ones(1, 4), [0], epoch=0)


def test_a_batch_of_another_shape_than_was_armed_is_told():
    model = llama()
    with EmbeddingNoise(model, PAPER, seed=0) as noise:
        noise.arm(torch.ones(2, 4), [0, 1], epoch=0)
        with pytest.raises(ValueError, match="attention_mask"):
            model(padded_batch()[0])


def test_a_model_without_an_input_embedding_is_told():
    with pytest.raises(TypeError, match="Linear has no input embedding"):
        EmbeddingNoise(nn.Linear(2, 2), PAPER, seed=0)


def test_noise_is_fresh_in_every_epoch_unless_it_is_frozen():
    first, later = (noise_of_pass(PAPER, epoch=epoch)[0] for epoch in (0, 3))
    assert not torch.equal(first, later)
    frozen = replace(PAPER, frozen=True)
    assert torch.equal(noise_of_pass(frozen, epoch=0)[0], noise_of_pass(frozen, epoch=3)[0])


def test_an_example_seen_twice_in_an_epoch_changes_its_noise_only_if_asked():
    again = noise_of_pass(PAPER)[0]
    assert torch.equal(noise_of_pass(PAPER)[0], again)
    assert not torch.equal(noise_of_pass(PAPER, draw=1)[0], again)


def test_packed_rows_get_the_noise_of_the_padded_ones():
    padded, dose = noise_of_pass(PAPER)
    segments = torch.tensor([[1] * 9 + [2] * 5 + [0] * 2, [1] * 3 + [0] * 13])
    packed, packed_dose = noise_of_pass(
        PAPER, ids=(1, 0, 2), mask=(segments != 0).long(), segment_ids=segments
    )
    parts = {1: packed[0, :9], 0: packed[0, 9:14], 2: packed[1, :3]}
    for example, part in parts.items():
        torch.testing.assert_close(part, padded[example, : LENGTHS[example]], rtol=0, atol=1e-7)
    assert packed_dose.examples == dose.examples == 3
    assert packed_dose.mean_noise_norm == pytest.approx(dose.mean_noise_norm, rel=1e-6)


def test_symmetric_noise_is_added_to_the_first_half_and_taken_from_the_second():
    signs = replace(RADEMACHER, symmetric=True)
    mask = padded_batch()[1]
    added, dose = noise_of_pass(signs, ids=(0, 1, 2, 0, 1, 2), mask=torch.cat([mask, mask]))
    torch.testing.assert_close(added[:3], expected_noise(mask, WIDTH, signs), rtol=0, atol=1e-7)
    torch.testing.assert_close(added[3:], -added[:3], rtol=0, atol=1e-7)
    # Every coordinate is alpha / sqrt(n d), so that the norm of an example is alpha.
    assert dose.examples == 6
    assert dose.mean_noise_norm == pytest.approx(5.0, rel=1e-5)


def test_symmetric_noise_refuses_a_batch_that_was_not_doubled():
    signs = replace(RADEMACHER, symmetric=True)
    with pytest.raises(ValueError, match="second half of the batch must repeat the first"):
        noise_of_pass(signs)
