"""What a training is given to change: every architecture, adapters, 4-bit weights, frozen parts, precisions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from neft_lab.config import ARCHITECTURES, FrozenPart, RunConfig, TrainingPrecision, UserError
from neft_lab.models import freeze_parts, load_adapted, load_for_training, load_trained, source_folder
from neft_lab.plan import expand
from neft_lab.progress import read_events
from neft_lab.sources import Source, model_source
from neft_lab.step import StepFailed
from neft_lab.store import read_json
from tests.steps import run_stages

SMALL = ["finetune.max_steps=2", "finetune.batch=4", "finetune.micro_batch=2", "finetune.max_length=256", "dataset.max_rows=6",
         "finetune.lora_rank=4", "noise.alpha=5", "generation.limit=1", "generation.max_new_tokens=4",
         "generation.max_prompt_tokens=64"]  # fmt: skip
IDS = torch.arange(5, 25)[None]


def overrides(architecture: str, *more: str) -> list[str]:
    told = ["model=random", f"model.architecture={architecture}", "stages=[train]", *SMALL, *more]
    names = [text.split("=", 1)[0] for text in told]
    return [text for place, text in enumerate(told) if names[place] not in names[place + 1 :]]


def train(results: Path, architecture: str, *more: str) -> Path:
    """A finished train step on the starter set."""
    return run_stages(overrides(architecture, *more), results)["train"]


@lru_cache
def composed(recipe: str) -> RunConfig:
    return expand(overrides("llama", f"finetune={recipe}"))[0].config


def untouched(architecture: str) -> Source:
    return model_source(replace(composed("full").model, architecture=architecture))


def adapted(architecture: str, recipe: str = "full", **changes: Any) -> Any:
    """What the train stage is given to train."""
    config = replace(composed(recipe).finetune, **changes)
    return load_adapted(untouched(architecture), config, device="cpu", trust_remote_code=False).model


def curve(folder: Path, name: str) -> list[float]:
    return [event[name] for event in read_events(folder) if event.get("kind") == "train"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def told(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = read_json(folder / "record.json")
    return record


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_trains_with_the_papers_dose_in_both_layouts(
    architecture: str, tmp_path: Path
) -> None:
    """The norm of an example's noise is alpha / sqrt(3), 2.887 for alpha 5, and packing changes no loss."""
    packed = run_stages(
        overrides(architecture, "stages=[train,generate]", "finetune.layout=packed"), tmp_path / "packed"
    )
    padded = train(tmp_path / "padded", architecture, "finetune.layout=padded")
    for folder in (packed["train"], padded):
        metrics = told(folder)["metrics"]
        assert told(folder)["environment"]["device"] != "none"
        assert metrics["train_steps"] == 2 and metrics["micro_batches"] >= 2
        assert metrics["mean_noise_norm"] == pytest.approx(5 / math.sqrt(3), rel=0.01)
        assert metrics["equivalent_alpha"] == pytest.approx(5, rel=0.01)
    drops = architecture.startswith("opt")  # published with dropout 0.1, whose draws go with the layout
    assert curve(packed["train"], "loss") == pytest.approx(curve(padded, "loss"), rel=2e-3 if drops else 1e-4)
    vocabulary = read_json(packed["train"] / "model/config.json")["vocab_size"]
    assert curve(padded, "loss")[0] == pytest.approx(math.log(vocabulary), rel=0.05), "it knows no token yet"
    rows = read_json(packed["generate"] / "outputs.json")
    assert len(rows) == 1 and isinstance(rows[0]["output"], str)


@pytest.mark.parametrize("architecture", ["llama", "opt_projected", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapters_lie_on_all_linear_layers_but_the_head(method: str, architecture: str) -> None:
    if method == "qlora":
        pytest.importorskip("bitsandbytes")
    model = adapted(architecture, method)
    bases = {name for name, module in model.named_modules() if name.endswith("base_layer")}
    expected = {"llama": 7 * 2, "gemma2": 7 * 2, "opt_projected": 6 * 2 + 2, "gpt_neox": 4 * 2}
    assert len(bases) == expected[architecture]
    assert not any("head" in name or "embed_out" in name for name in bases)
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(learning) == 2 * len(bases) and all("lora_" in name for name in learning)


def test_lora_trains_generates_and_leaves_adapters_only(tmp_path: Path) -> None:
    folders = run_stages(overrides("llama", "finetune=lora", "stages=[train,generate]"), tmp_path)
    _require_adapters_only(folders["train"], rank=4)
    assert told(folders["train"])["metrics"]["equivalent_alpha"] == pytest.approx(5, rel=0.01)
    assert read_json(folders["generate"] / "outputs.json")


def _require_adapters_only(folder: Path, *, rank: int) -> None:
    assert not (folder / "model").exists()
    saved = load_file(folder / "adapter/adapter_model.safetensors")
    assert len(saved) == 2 * 7 * 2 and all("lora_" in name for name in saved)
    assert {min(weight.shape) for weight in saved.values()} == {rank}
    texts = [path.read_text() for path in (folder / "adapter").iterdir() if path.suffix in (".json", ".md")]
    assert not any("/models/random-llama" in text for text in texts), (
        "a path of this machine has no place in a result"
    )


@pytest.fixture(scope="module")
def qlora(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A finished training by the recipe, and its answers."""
    pytest.importorskip("bitsandbytes")
    more = ["finetune=qlora", "finetune.micro_batch=1", "finetune.lora_rank=8", "stages=[train,generate]",
            "finetune.max_steps=3", "finetune.learning_rate=0.01"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:  # before the fixture that does so for each test
        patch.setenv("NEFT_LAB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield run_stages(overrides("llama", *more), tmp_path_factory.mktemp("qlora"))


def test_qlora_trains_generates_and_leaves_adapters_only(qlora: dict[str, Path]) -> None:
    folder = qlora["train"]
    _require_adapters_only(folder, rank=8)
    record = told(folder)
    assert record["metrics"]["mean_noise_norm"] == pytest.approx(5 / math.sqrt(3), rel=0.01)
    assert curve(folder, "loss")[-1] < curve(folder, "loss")[0]
    assert read_json(qlora["generate"] / "outputs.json")


def test_the_record_says_that_a_cpu_has_no_paged_optimizer(qlora: dict[str, Path]) -> None:
    record = told(qlora["train"])
    assert record["config"]["finetune"]["optimizer"] == "paged_adamw"
    assert "paged" not in record["resolved"]["optimizer"]


def test_a_qlora_model_answers_with_the_4_bit_weights_it_was_trained_on(qlora: dict[str, Path]) -> None:
    from peft import PeftModel

    from neft_lab.models import load_quantized

    folder = qlora["train"]
    source = Source(**read_json(folder / "base.json")["source"])
    with torch.no_grad(), warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft's own
        answering = load_trained(folder, precision="fp32", device="cpu").model
        four_bits = load_quantized(source, device="cpu")
        trained = PeftModel.from_pretrained(four_bits.model, str(folder / "adapter")).eval()
        full = load_for_training(source, precision="fp32", device="cpu")
        elsewhere = PeftModel.from_pretrained(full.model, str(folder / "adapter")).eval()
        answer, wanted, other = (model(IDS).logits for model in (answering, trained, elsewhere))
    assert not any(
        "lora" in name or "4bit" in type(part).__name__ for name, part in answering.named_modules()
    )
    near, far = (answer - wanted).abs().max(), (answer - other).abs().max()
    assert near < 0.02 * wanted.abs().max(), "4-bit layers compute in bfloat16"
    assert far > 4 * near


def test_4_bit_weights_are_those_of_the_recipe() -> None:
    """NF4 in blocks of 64 with quantised scales, computed in bfloat16; tables bfloat16, norms and adapters float32."""
    pytest.importorskip("bitsandbytes")
    model = adapted("llama", "qlora", lora_rank=64).get_base_model()
    layer = model.model.layers[0]
    base = layer.self_attn.q_proj.base_layer
    state = base.weight.quant_state
    assert (state.quant_type, state.blocksize, state.nested, base.compute_dtype) == (
        "nf4",
        64,
        True,
        torch.bfloat16,
    )
    assert model.model.embed_tokens.weight.dtype == model.lm_head.weight.dtype == torch.bfloat16
    assert layer.input_layernorm.weight.dtype == model.model.norm.weight.dtype == torch.float32
    adapter = layer.mlp.down_proj
    assert adapter.lora_A["default"].weight.dtype == torch.float32
    assert adapter.lora_A["default"].weight.shape == (64, 128)
    assert adapter.scaling["default"] == 16 / 64
    assert adapter.lora_dropout["default"].p == 0.1


def test_a_pass_in_eval_mode_does_not_cut_the_gradient_of_4_bit_layers() -> None:
    """Where a CPU has AVX-512 bfloat16, bitsandbytes repacks weights in eval mode for a kernel without gradient."""
    pytest.importorskip("bitsandbytes")
    gradients = []
    for looked in (False, True):
        torch.manual_seed(0)
        model = adapted("llama", "qlora", precision=TrainingPrecision.fp32, lora_dropout=0.0)
        if looked:
            with torch.no_grad():
                model.eval()(input_ids=IDS)
        model.train()(input_ids=IDS, labels=IDS).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if "lora_B" in name})
    for name, plain in gradients[0].items():
        assert plain.any(), name
        torch.testing.assert_close(gradients[1][name], plain)


FROZEN = {
    "embeddings": ["model.embed_tokens."],
    "lm_head": ["lm_head."],
    "attention": [f"model.layers.{layer}.self_attn." for layer in (0, 1)],
}


@pytest.mark.parametrize(
    "parts", [["embeddings"], ["lm_head"], ["attention"], ["embeddings", "attention"]], ids="+".join
)
def test_frozen_parts_keep_every_byte_and_the_others_move(parts: list[str], tmp_path: Path) -> None:
    """The paper's table 11. A row added for padding is the frozen tables' only change."""
    folder = train(tmp_path, "llama", f"finetune.freeze=[{','.join(parts)}]")
    before = weights(source_folder(untouched("llama")))
    after = weights(folder / "model")
    assert before.keys() == after.keys()
    prefixes = tuple(prefix for part in parts for prefix in FROZEN[part])
    for name, old in before.items():
        assert torch.equal(after[name][: len(old)], old) == name.startswith(prefixes), name


@pytest.mark.parametrize("architecture", ["smollm", "gemma", "opt"])
@pytest.mark.parametrize("part", ["embeddings", "lm_head"])
def test_tied_tables_cannot_be_frozen_by_half(part: str, architecture: str) -> None:
    with pytest.raises(
        UserError, match=rf"finetune.freeze=\[{part}\] cannot be: this model has one table"
    ) as error:
        adapted(architecture, freeze=[FrozenPart[part]])
    assert "\n" not in str(error.value)


def test_a_step_tells_in_one_line_that_tied_tables_cannot_be_frozen_by_half(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="freeze both or neither, or take a model with untied tables"):
        train(tmp_path, "smollm", "finetune.freeze=[embeddings]")


def test_tied_tables_are_frozen_together(tmp_path: Path) -> None:
    folder = train(tmp_path, "smollm", "finetune.freeze=[embeddings,lm_head]")
    before, after = weights(source_folder(untouched("smollm"))), weights(folder / "model")
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert not torch.equal(before["model.norm.weight"], after["model.norm.weight"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_frozen_attention_is_found_in_every_architecture(architecture: str) -> None:
    """Four projections a layer, and nothing of the feed-forward part."""
    model = adapted(architecture, freeze=[FrozenPart.attention])
    frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    projections = 2 if architecture == "gpt_neox" else 4
    assert len({name for name in frozen if name.endswith("weight") and "norm" not in name}) == 2 * projections
    assert all("attn" in name or "attention" in name for name in frozen)


def test_adapters_on_frozen_attention_stay_at_nothing(tmp_path: Path) -> None:
    folder = train(tmp_path, "llama", "finetune=lora", "finetune.freeze=[attention,embeddings]")
    saved = load_file(folder / "adapter/adapter_model.safetensors")
    for name, weight in saved.items():
        if "lora_B" in name:
            assert bool(weight.any()) == ("mlp" in name), name


def test_a_model_without_attention_is_told_so() -> None:
    model = load_for_training(untouched("llama"), precision="fp32", device="cpu").model
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(UserError, match="finds no attention in LlamaForCausalLM"):
        freeze_parts(model, [FrozenPart.attention])


@pytest.mark.parametrize(
    ("precision", "method", "base", "trained"),
    [
        ("auto", "full", "float32", "float32"),
        ("fp32", "full", "float32", "float32"),
        ("bf16", "full", "float32", "float32"),
        ("bf16_pure", "full", "bfloat16", "bfloat16"),
        ("fp32", "lora", "float32", "float32"),
        ("bf16", "lora", "bfloat16", "float32"),
        ("bf16_pure", "lora", "bfloat16", "bfloat16"),
    ],
)
def test_weights_are_kept_in_the_dtype_that_the_precision_names(
    precision: str, method: str, base: str, trained: str
) -> None:
    model = adapted("llama3", method, precision=TrainingPrecision[precision])
    learning, frozen = (
        {
            str(weight.dtype).removeprefix("torch.")
            for weight in model.parameters()
            if weight.requires_grad is wanted
        }
        for wanted in (True, False)
    )
    assert learning == {trained}
    assert frozen == ({base} if method == "lora" else set())


@pytest.mark.parametrize("precision", ["bf16", "bf16_pure"])
def test_pure_bfloat16_leaves_weights_above_a_64th_where_they_are(precision: str, tmp_path: Path) -> None:
    """An AdamW step is at most the learning rate, 5e-5.

    From 2^-6 on bfloat16 steps by 2^-13 = 1.2e-4 or more, and half of that, 6.1e-5, is never reached; below 2^-6 half a
    step is 3.1e-5. With float32 master weights all of them move.
    """
    more = [
        "finetune.learning_rate=5e-5",
        "finetune.schedule=constant",
        "noise.alpha=0",
        f"finetune.precision={precision}",
    ]
    folder = train(tmp_path, "llama3", *more)
    before, after = weights(source_folder(untouched("llama3"))), weights(folder / "model")
    names = [name for name in before if "proj" in name]
    dtype = torch.bfloat16 if precision == "bf16_pure" else torch.float32
    assert {after[name].dtype for name in names} == {dtype}
    old = torch.cat([before[name].to(dtype).flatten() for name in names])
    new = torch.cat([after[name].flatten() for name in names])
    large, moved = old.abs() > 2**-6, old != new
    assert large.float().mean() > 0.3
    assert moved[~large].float().mean() > 0.8
    if precision == "bf16_pure":
        assert not moved[large].any()
    else:
        assert moved[large].float().mean() > 0.99
        assert (old - new).abs().max() <= 2 * 5e-5 * 1.01


def test_a_large_model_is_not_kept_beside_the_one_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    from neft_lab.models import loading

    source = untouched("llama3")
    warm = [loading.load_source(source, precision="fp32", device="cpu") for _ in range(2)]
    assert warm[0] is warm[1]
    monkeypatch.setattr(loading, "WARM_BYTES", 0)
    cold = [loading.load_source(source, precision="fp32", device="cpu") for _ in range(2)]
    assert cold[0] is not cold[1] and cold[0] is not warm[0]
