"""Losses and weights of tokens against their formulas, worked out in float64 from small numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn import functional

from neft_lab.config import RegularizerConfig, UserError
from neft_lab.interventions.regularizers import label_weights, token_losses

PLAIN = RegularizerConfig(
    name="none", label_smoothing=0.0, entropy=0.0, kl=0.0, prompt_loss=0.0, eos_weight=1.0,
    embedding_dropout=0.0, freelb_steps=0, freelb_start=0.0, freelb_step_size=0.0, freelb_max_norm=0.0,
)  # fmt: skip

P = [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]
"""The model's distribution at two tokens, over three words."""
BASE = [[0.25, 0.25, 0.5], [0.1, 0.6, 0.3]]
TARGETS = torch.tensor([0, 1])


def logits_of(rows, *, shift=(3.0, -7.0)):
    """Logits of given probabilities; any constant may be added to a row of them."""
    return torch.tensor(rows, dtype=torch.float64).log() + torch.tensor(shift, dtype=torch.float64)[:, None]


def losses(**parts):
    base = logits_of(BASE, shift=(0.5, 2.0))
    return token_losses(logits_of(P), TARGETS, replace(PLAIN, **parts), base_logits=base).tolist()


def close(expected):
    return pytest.approx(expected, rel=1e-12)


def test_the_plain_loss_is_the_cross_entropy_bit_for_bit() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(7, 50), torch.randint(50, (7,))
    assert torch.equal(
        token_losses(logits, targets, PLAIN), functional.cross_entropy(logits, targets, reduction="none")
    )
    assert losses() == close([math.log(2), math.log(10)])


def test_label_smoothing_moves_a_share_of_the_target_to_every_word() -> None:
    """With e = 0.3 of 3 words: 0.8 on the target and 0.1 on the two others."""
    first = -0.8 * math.log(0.5) - 0.1 * math.log(0.3) - 0.1 * math.log(0.2)
    second = -0.1 * math.log(0.1) - 0.8 * math.log(0.1) - 0.1 * math.log(0.8)
    assert losses(label_smoothing=0.3) == close([first, second])


def test_label_smoothing_is_that_of_transformers() -> None:
    from transformers.trainer_pt_utils import LabelSmoother

    torch.manual_seed(1)
    logits, targets = torch.randn(5, 11), torch.randint(11, (5,))
    theirs = LabelSmoother(epsilon=0.1)({"logits": logits[None]}, targets[None])
    ours = token_losses(logits, targets, replace(PLAIN, label_smoothing=0.1))
    assert float(ours.mean()) == pytest.approx(float(theirs), rel=1e-6)


def test_the_entropy_bonus_takes_the_entropy_off_the_loss() -> None:
    first = math.log(2) - 0.4 * (0.5 * math.log(2) - 0.3 * math.log(0.3) - 0.2 * math.log(0.2))
    second = math.log(10) - 0.4 * (0.2 * math.log(10) - 0.8 * math.log(0.8))
    assert losses(entropy=0.4) == close([first, second])


def test_the_divergence_is_that_of_the_model_from_the_base() -> None:
    """KL(p || p_0): 0.5 ln 2 + 0.3 ln 1.2 + 0.2 ln 0.4 at the first token, and not the other way round."""
    first = 0.5 * math.log(2) + 0.3 * math.log(1.2) + 0.2 * math.log(0.4)
    second = 0.1 * math.log(1) + 0.1 * math.log(1 / 6) + 0.8 * math.log(8 / 3)
    assert losses(kl=2.0) == close([math.log(2) + 2 * first, math.log(10) + 2 * second])


def test_a_model_that_is_the_base_pays_nothing_for_its_divergence() -> None:
    logits = logits_of(P)
    loss = token_losses(logits, TARGETS, replace(PLAIN, kl=5.0), base_logits=logits + 4)
    torch.testing.assert_close(loss, token_losses(logits, TARGETS, PLAIN), rtol=1e-12, atol=1e-12)


def test_the_parts_add_up() -> None:
    plain = losses()
    parts = {"label_smoothing": 0.3, "entropy": 0.4, "kl": 2.0}
    alone = [losses(**{name: value}) for name, value in parts.items()]
    expected = [sum(one[at] for one in alone) - 2 * plain[at] for at in range(2)]
    assert losses(**parts) == close(expected)


ALL = replace(PLAIN, label_smoothing=0.3, entropy=0.4, kl=2.0)


def test_gradients_are_those_of_finite_differences_and_none_reaches_the_base() -> None:
    logits, base = (logits_of(rows).requires_grad_() for rows in (P, BASE))
    assert torch.autograd.gradcheck(
        lambda logits: token_losses(logits, TARGETS, ALL, base_logits=base), (logits,)
    )
    token_losses(logits, TARGETS, ALL, base_logits=base).sum().backward()
    assert base.grad is None


def test_half_precision_logits_give_float32_losses() -> None:
    logits = torch.randn(4, 9).bfloat16()
    told = token_losses(logits, torch.zeros(4, dtype=torch.long), ALL, base_logits=logits)
    assert told.dtype is torch.float32
    wanted = token_losses(logits.float(), torch.zeros(4, dtype=torch.long), ALL, base_logits=logits.float())
    assert torch.equal(told, wanted)


def test_a_divergence_without_the_base_is_told() -> None:
    with pytest.raises(ValueError, match="pass base_logits"):
        token_losses(logits_of(P), TARGETS, replace(PLAIN, kl=0.1))


@dataclass(frozen=True)
class Row:
    input_ids: list[int]
    labels: list[int]
    prompt_text_mask: list[int]


END = 2
ROW = Row(
    # template, text, text, template, answer, answer, end
    input_ids=[11, 12, 13, 14, 15, 16, END],
    labels=[-100, -100, -100, -100, 15, 16, END],
    prompt_text_mask=[0, 1, 1, 0, 0, 0, 0],
)


def weights(row=ROW, **parts):
    return label_weights(row, replace(PLAIN, **parts), eos_id=END)


def test_only_the_response_and_its_end_are_learned() -> None:
    assert weights() == [0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("weight", [0, 0.1, 10])
def test_the_end_token_has_a_weight_of_its_own(weight: float) -> None:
    assert weights(eos_weight=weight) == [0, 0, 0, 0, 1, 1, weight]


def test_every_response_of_a_conversation_has_its_end() -> None:
    row = Row([5, 6, END, 7, 8, END], [-100, 6, END, -100, 8, END], [1, 0, 0, 1, 0, 0])
    assert weights(row, eos_weight=0) == [0, 1, 0, 0, 1, 0]


def test_an_end_token_inside_a_prompt_is_not_learned() -> None:
    row = Row([5, END, 6, END], [-100, -100, 6, END], [1, 0, 0, 0])
    assert weights(row, eos_weight=3) == [0, 0, 1, 3]


def test_the_prompts_own_tokens_are_learned_and_its_template_is_not() -> None:
    assert weights(prompt_loss=0.5) == [0, 0.5, 0.5, 0, 1, 1, 1]
    assert weights(prompt_loss=1, eos_weight=0) == [0, 1, 1, 0, 1, 1, 0]


def test_the_first_token_of_an_example_is_nobodys_target() -> None:
    row = Row([5, 6, END], [-100, 6, END], [1, 0, 0])
    assert weights(row, prompt_loss=1)[0] == 0


def test_an_example_that_was_cut_has_no_end_to_weigh() -> None:
    row = Row(ROW.input_ids[:-1], ROW.labels[:-1], ROW.prompt_text_mask[:-1])
    assert weights(row, eos_weight=0) == weights(row, eos_weight=9) == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"label_smoothing": 1.0}, "regularizer.label_smoothing"),
        ({"embedding_dropout": 1.0}, "regularizer.embedding_dropout"),
        ({"kl": -0.1}, "regularizer.kl"),
        ({"prompt_loss": 1.5}, "regularizer.prompt_loss"),
        ({"freelb_step_size": 0.1}, "needs regularizer.freelb_steps of at least 2"),
        ({"freelb_start": 5.0}, "needs regularizer.freelb_steps of at least 1"),
    ],
)
def test_a_value_that_means_nothing_is_told(parts: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(PLAIN, **parts)


def test_every_option_changes_what_its_name_says() -> None:
    from neft_lab.config import plain
    from neft_lab.plan import expand
    from neft_lab.plan.keys import options

    changed = {}
    for option in options("regularizer"):
        (cell,) = expand([f"regularizer={option}", "judge=none", "leaderboard=none"])
        told = plain(cell.config.regularizer)
        assert told.pop("name") == option
        changed[option] = {name: value for name, value in told.items() if value != getattr(PLAIN, name)}
    assert changed.pop("none") == {}
    assert changed == {
        "label_smoothing": {"label_smoothing": 0.1},
        "entropy": {"entropy": 0.1},
        "kl": {"kl": 0.1},
        "prompt_loss": {"prompt_loss": 1.0},
        "eos_masked": {"eos_weight": 0.0},
        "eos_light": {"eos_weight": 0.1},
        "eos_heavy": {"eos_weight": 10.0},
        "embedding_dropout": {"embedding_dropout": 0.1},
        "freelb": {"freelb_steps": 3, "freelb_start": 5.0, "freelb_step_size": 0.5},
    }
