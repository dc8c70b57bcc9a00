"""Packed and padded micro-batches: the same loss, gradient and noise, to the rounding of float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neft_lab.datasets import IGNORED, Example
from neft_lab.interventions.noise import EmbeddingNoise
from neft_lab.interventions.regularizers import label_weights
from neft_lab.training.attention import SEGMENTS, settle_packing, tell_segments
from neft_lab.training.packing import MicroBatch, pack, pad, plan_packed, plan_padded
from tests.noise_cases import PAPER
from tests.test_regularizers import PLAIN

VOCABULARY = 61
END = 2


def example(number: int, length: int, prompt: int) -> Example:
    """A row of random ids whose first ``prompt`` tokens carry no loss, ended by END."""
    ids = torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(number)).tolist()
    ids[-1] = END
    return Example(
        id=number,
        input_ids=ids,
        labels=[IGNORED] * prompt + ids[prompt:],
        truncated=False,
        prompt_text_mask=[1] * prompt + [0] * (length - prompt),
    )


EXAMPLES = [example(0, 11, 4), example(1, 5, 3), example(2, 17, 9), example(3, 8, 1)]
weigh = partial(label_weights, config=PLAIN, eos_id=END)


def llama(**options: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, num_key_value_heads=2, max_position_embeddings=64, **sizes | options
        )
    )


def mistral() -> Any:
    """Its window of 6 is shorter than most examples."""
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(
        MistralConfig(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                      num_attention_heads=4, num_key_value_heads=2, sliding_window=6)
    )  # fmt: skip


def qwen() -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(
        Qwen2Config(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                    num_attention_heads=4, num_key_value_heads=2)
    )  # fmt: skip


def gemma2() -> Any:
    """Caps its attention scores, which the attention of this package leaves to the model's own."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return Gemma2ForCausalLM(
        Gemma2Config(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=8,
                     num_attention_heads=4, num_key_value_heads=2, sliding_window=6, query_pre_attn_scalar=8)
    )  # fmt: skip


def opt() -> Any:
    """Learned positions, and an embedding narrower than the layers."""
    from transformers import OPTConfig, OPTForCausalLM

    return OPTForCausalLM(
        OPTConfig(vocab_size=VOCABULARY, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
                  word_embed_proj_dim=16, max_position_embeddings=64, dropout=0.0, activation_function="gelu")
    )  # fmt: skip


def gpt_neox() -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return GPTNeoXForCausalLM(
        GPTNeoXConfig(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                      num_attention_heads=4, max_position_embeddings=64)
    )  # fmt: skip


EXACT: list[Callable[[], Any]] = [llama, mistral, qwen, opt, gpt_neox]


def gradients(
    model: Any, micro: MicroBatch, *, told: bool, alpha: float
) -> tuple[float, dict[str, torch.Tensor]]:
    """Mean loss of the weighted targets and its gradient, with noise on the embeddings."""
    model.zero_grad()
    model.train()
    packed = micro.position_ids is not None
    options: dict[str, Any] = (
        {"position_ids": micro.position_ids} if packed else {"attention_mask": micro.attention_mask}
    )
    if packed and told:
        options |= tell_segments(micro.segment_lengths, micro.input_ids.device)
    with EmbeddingNoise(model, replace(PAPER, alpha=float(alpha)), seed=3) as noise:
        noise.arm(micro.attention_mask, micro.example_ids, epoch=1, segment_ids=micro.segment_ids)
        logits = model(micro.input_ids, logits_to_keep=micro.columns, use_cache=False, **options).logits
        logits = logits.flatten(0, 1)[micro.picked]
        losses = torch.nn.functional.cross_entropy(logits, micro.targets, reduction="none")
        loss = (losses * micro.weights).sum() / micro.weights.sum()
        loss.backward()
    noise.check(1)
    return loss.item(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


def difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.mark.parametrize("make", EXACT, ids=lambda make: make.__name__)
def test_loss_and_gradient_of_a_packed_row_are_those_of_the_padded_batch(make: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    model = make().double()
    padded = gradients(model, pad(EXAMPLES, weigh, pad_id=0), told=False, alpha=5)
    told = settle_packing(model)
    packed = gradients(model, pack(EXAMPLES, weigh), told=told, alpha=5)
    assert packed[0] == pytest.approx(padded[0], abs=1e-9)
    assert difference(packed[1], padded[1]) < 1e-9
    quiet = gradients(model, pack(EXAMPLES, weigh), told=told, alpha=0)
    assert abs(quiet[0] - packed[0]) > 1e-6, "the noise is felt"


def test_capped_attention_is_left_to_the_model_and_to_masks_between_the_segments() -> None:
    """Its softmax runs in float32 whatever the weights, and gives nan on rows of padding: alone is the peer here."""
    torch.manual_seed(0)
    model = gemma2()
    alone = [gradients(model, pad([one], weigh, pad_id=0), told=False, alpha=5)[0] for one in EXAMPLES]
    targets = [sum(weigh(one)) for one in EXAMPLES]
    assert not settle_packing(model)
    packed, _ = gradients(model, pack(EXAMPLES, weigh), told=False, alpha=5)
    expected = sum(loss * count for loss, count in zip(alone, targets, strict=True)) / sum(targets)
    assert packed == pytest.approx(expected, abs=1e-5)


def test_models_with_plain_attention_compute_nothing_between_segments() -> None:
    told = {make.__name__: settle_packing(make()) for make in EXACT}
    assert all(told.values()), told


def test_models_that_are_told_the_segments_do_not_look_for_them_in_the_positions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To look means to wait for the device, in every pass."""
    from transformers import masking_utils

    looked: list[torch.Tensor] = []
    original = masking_utils.find_packed_sequence_indices
    monkeypatch.setattr(
        masking_utils, "find_packed_sequence_indices", lambda ids: looked.append(ids) or original(ids)
    )
    micro = pack(EXAMPLES, weigh)
    for make in EXACT:
        model = make()
        told = settle_packing(model)
        looked.clear()
        gradients(model, micro, told=told, alpha=5)
        assert not looked, make.__name__


def test_a_model_that_mixes_the_examples_of_a_row_is_refused() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(
        MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4)
    )
    with pytest.raises(ValueError, match=r"mixes the examples of a packed row; use finetune\.layout=padded"):
        settle_packing(model)


def test_the_row_of_two_copies_has_the_loss_of_one() -> None:
    torch.manual_seed(0)
    model = llama().double()
    told = settle_packing(model)
    assert model.config._attn_implementation == SEGMENTS
    once = gradients(model, pack(EXAMPLES, weigh), told=told, alpha=0)
    twice = gradients(model, pack(EXAMPLES, weigh, copies=2), told=told, alpha=0)
    assert twice[0] == pytest.approx(once[0], abs=1e-12)
    assert difference(once[1], twice[1]) < 1e-12


def test_a_packed_row_is_laid_out_as_worked_out_by_hand() -> None:
    rows = [
        Example(7, [10, 11, 12, END], [IGNORED, IGNORED, 12, END], False, [1, 1, 0, 0]),
        Example(9, [20, 21, END], [IGNORED, 21, END], False, [1, 0, 0]),
    ]
    micro = pack(rows, weigh)
    assert micro.input_ids.tolist() == [[10, 11, 12, END, 20, 21, END]]
    assert micro.position_ids is not None and micro.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert micro.segment_ids is not None and micro.segment_ids.tolist() == [[1, 1, 1, 1, 2, 2, 2]]
    assert micro.columns.tolist() == [1, 2, 4, 5], "position 3 would predict another example's first token"
    assert micro.targets.tolist() == [12, END, 21, END]
    assert micro.weights.tolist() == [1, 1, 1, 1]
    assert (micro.example_ids, micro.lengths, micro.tokens) == ([7, 9], (4, 3), 7)


def test_a_padded_batch_is_laid_out_as_worked_out_by_hand() -> None:
    rows = [
        Example(7, [10, 11, 12, END], [IGNORED, IGNORED, 12, END], False, [1, 1, 0, 0]),
        Example(9, [20, 21, END], [IGNORED, 21, END], False, [1, 0, 0]),
    ]
    micro = pad(rows, weigh, pad_id=0)
    assert micro.input_ids.tolist() == [[10, 11, 12, END], [20, 21, END, 0]]
    assert micro.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert micro.columns.tolist() == [0, 1, 2], "nothing is predicted in the last column"
    assert micro.picked.tolist() == [1, 2, 3, 4]
    assert micro.targets.tolist() == [12, END, 21, END]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(20, 60), st.integers(1, 4))
def test_every_example_is_in_one_micro_batch_within_the_budget(
    lengths: list[int], budget: int, processes: int
) -> None:
    shares = plan_packed(lengths, token_budget=budget, processes=processes)
    assert len(shares) == processes
    assert len({len(share) for share in shares}) == 1, "every process runs as many passes"
    held = [row for share in shares for rows in share for row in rows]
    assert sorted(held) == list(range(len(lengths)))
    for rows in (rows for share in shares for rows in share):
        assert len(rows) <= 1 or sum(lengths[row] for row in rows) <= budget


@given(st.integers(1, 20), st.integers(1, 5), st.integers(1, 4))
def test_padded_micro_batches_keep_their_order_and_size(count: int, micro_batch: int, processes: int) -> None:
    shares = plan_padded(count, micro_batch=micro_batch, processes=processes)
    assert len({len(share) for share in shares}) == 1
    turns: Sequence[list[int]] = [share[turn] for turn in range(len(shares[0])) for share in shares]
    assert [row for rows in turns for row in rows] == list(range(count))
    assert all(len(rows) == micro_batch for rows in turns[: count // micro_batch])
