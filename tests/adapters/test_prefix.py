from __future__ import annotations

import copy
import math

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from tests.adapters.clip import a_clip, both
from tests.adapters.families import FAMILIES, IDS, TEXT
from vectoruniverse.adapters.apply import inject_lora
from vectoruniverse.adapters.prefix import PrefixAdapter, inject_prefix
from vectoruniverse.errors import ConfigError

# peft 0.21 asks transformers for a property, and gives it the keys and values, under old names
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:`{name}` is deprecated:FutureWarning")
    for name in ("is_gradient_checkpointing", "past_key_values")
]

P = 3
TOWERS = {"bert": "", "roberta": "", "distilbert": "", "xlm-roberta": "", "clip": "text_model"}
MASK = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
CLOSE = {"rtol": 1e-5, "atol": 2e-6}


def a_tower(family: str) -> nn.Module:
    model = FAMILIES[family].model()
    return model.get_submodule(TOWERS[family])


def states(tower: nn.Module, ids: Tensor = IDS["input_ids"], mask: Tensor | None = None, **more: Tensor) -> Tensor:
    return tower(input_ids=ids, attention_mask=mask, **more).last_hidden_state


def weighted(rows: Tensor) -> Tensor:
    return (rows.float() * torch.randn(rows.shape, generator=torch.Generator().manual_seed(4))).sum()


def theirs_like(adapter: PrefixAdapter, model: nn.Module) -> nn.Module:
    """peft's prefix tuning with the same learned values."""
    prefix = adapter.prefix
    projection = None if prefix.hidden is None else prefix.hidden.out_features
    config = peft.PrefixTuningConfig(
        task_type="FEATURE_EXTRACTION",
        num_virtual_tokens=P,
        prefix_projection=projection is not None,
        encoder_hidden_size=projection,
    )
    theirs = peft.get_peft_model(model, config).eval()
    encoder = theirs.prompt_encoder["default"]
    with torch.no_grad():
        encoder.embedding.weight.copy_(prefix.embedding)
        if prefix.hidden is not None and prefix.output is not None:
            encoder.transform[0].load_state_dict(prefix.hidden.state_dict())
            encoder.transform[2].load_state_dict(prefix.output.state_dict())
    return theirs


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
@pytest.mark.parametrize("projection", [None, 5])
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
def test_outputs_and_gradients_are_those_of_peft(family: str, projection: int | None, mask: Tensor | None) -> None:
    model = FAMILIES[family].model()
    adapter = inject_prefix(model, length=P, projection=projection)
    theirs = theirs_like(adapter, FAMILIES[family].model())
    ours = states(model, mask=mask)
    torch.testing.assert_close(ours, states(theirs, mask=mask), **CLOSE)
    weighted(ours).backward()
    weighted(states(theirs, mask=mask)).backward()
    gradients = [parameter.grad for parameter in theirs.parameters() if parameter.requires_grad]
    assert len(gradients) == len(adapter.parameters()) == (1 if projection is None else 5)
    for parameter, gradient in zip(adapter.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, **CLOSE)


def test_positions_given_by_the_caller_move_on_too_as_in_peft() -> None:
    model = a_tower("bert")
    theirs = theirs_like(inject_prefix(model, length=P), a_tower("bert"))
    positions = torch.arange(7).flip(0)[None]
    ours = states(model, position_ids=positions)
    torch.testing.assert_close(ours, states(theirs, position_ids=positions), **CLOSE)
    assert not torch.allclose(ours, states(model))


def slow_attention(layer: nn.Module, keys_and_values: Tensor, rows: Tensor, seen: Tensor) -> Tensor:
    """One head, one row, one token at a time, every prefix and the tokens that it may see."""
    heads, size = keys_and_values.shape[1], keys_and_values.shape[3]
    result = torch.zeros_like(rows)
    query, key, value = layer.query(rows), layer.key(rows), layer.value(rows)
    for row in range(len(rows)):
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            keys = list(keys_and_values[0, head]) + [
                k for k, on in zip(key[row, :, part], seen[row], strict=True) if on
            ]
            values = list(keys_and_values[1, head])
            values += [v for v, on in zip(value[row, :, part], seen[row], strict=True) if on]
            for token in range(rows.shape[1]):
                scores = torch.stack([query[row, token, part] @ one / math.sqrt(size) for one in keys])
                shares = scores.exp() / scores.exp().sum()
                result[row, token, part] = sum(share * one for share, one in zip(shares, values, strict=True))
    return result


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_layer_attends_to_its_own_prefix_and_to_the_tokens_that_are_no_padding(implementation: str) -> None:
    model = a_tower("bert")
    model.set_attn_implementation(implementation)
    adapter = inject_prefix(model, length=P, projection=5)
    layer = model.encoder.layer[1].attention.self
    rows = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(5))
    seen = torch.tensor([[True] * 4, [True, True, False, False]])
    mask = seen[:, None, None] if implementation == "sdpa" else seen[:, None, None].logical_not() * -1e30
    with torch.no_grad():
        slow = slow_attention(_without_hooks(layer), adapter.keys_and_values()[1], rows, seen)
        torch.testing.assert_close(layer(rows, mask)[0], slow, **CLOSE)


def _without_hooks(layer: nn.Module) -> nn.Module:
    clean = a_tower("bert").encoder.layer[1].attention.self
    clean.load_state_dict(layer.state_dict())
    return clean


@pytest.mark.parametrize("family", TOWERS)
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
def test_sdpa_is_eager(family: str, mask: Tensor | None) -> None:
    def outcome(implementation: str) -> tuple[Tensor, Tensor]:
        tower = a_tower(family)
        tower.set_attn_implementation(implementation)
        adapter = inject_prefix(tower, length=P)
        real = states(tower, mask=mask)[MASK.bool()]  # what stands at padding is nobody's
        weighted(real).backward()
        assert adapter.prefix.embedding.grad is not None
        return real, adapter.prefix.embedding.grad

    eager, sdpa = outcome("eager"), outcome("sdpa")
    torch.testing.assert_close(eager, sdpa, **CLOSE)
    assert not torch.allclose(eager[0], states(a_tower(family), mask=mask)[MASK.bool()])


@pytest.mark.parametrize("family", TOWERS)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_padding_changes_nothing(family: str, implementation: str) -> None:
    tower = a_tower(family)
    tower.set_attn_implementation(implementation)
    inject_prefix(tower, length=P)
    ids = IDS["input_ids"].masked_fill(MASK == 0, 0)
    batch = states(tower, ids, MASK)
    for row, length in enumerate(MASK.sum(1).tolist()):
        torch.testing.assert_close(batch[row, :length], states(tower, ids[row : row + 1, :length])[0], **CLOSE)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
def test_clip_sees_every_prefix_and_no_later_token(implementation: str, mask: Tensor | None) -> None:
    model = a_clip()
    model.text_model.set_attn_implementation(implementation)
    adapter = inject_prefix(model, "text_model", length=P)
    embedded: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        embedded.append(output.requires_grad_())
        return output

    model.text_model.embeddings.register_forward_hook(keep)
    output = states(model.text_model, mask=mask)
    for token in range(7):
        of_prefix, of_tokens = torch.autograd.grad(
            output[0, token].square().sum() + output[0, token].sum(),
            [adapter.prefix.embedding, embedded[0]],
            retain_graph=True,
        )
        assert (of_prefix.unflatten(1, (2, 2, 32))[:, :, 1].abs().sum(-1) > 0).all()  # values of every prefix and layer
        assert (of_tokens[0, : token + 1].abs().sum(-1) > 0).all()
        assert torch.count_nonzero(of_tokens[0, token + 1 :]) == 0
    assert not torch.allclose(output, states(a_clip().text_model, mask=mask))


def test_clip_keeps_all_its_positions_and_its_other_tower() -> None:
    model, pictures = a_clip(), torch.ones(1, 3, 32, 32)
    adapter = inject_prefix(model, "text_model", length=20)
    assert adapter.reserved_positions == 0
    ids = torch.full((1, 16), 5)
    ids[:, -1] = 2
    given = model(input_ids=ids, pixel_values=pictures)
    base = a_clip()(input_ids=ids, pixel_values=pictures)
    assert torch.equal(given.image_embeds, base.image_embeds)
    assert not torch.allclose(given.text_embeds, base.text_embeds)


@pytest.mark.parametrize("family", TOWERS)
@pytest.mark.parametrize("projection", [None, 5])
def test_gradients_reach_the_prefix_alone_and_all_of_it(family: str, projection: int | None) -> None:
    model, tower = FAMILIES[family].model(), TOWERS[family]
    adapter = inject_prefix(model, tower, length=P, projection=projection)
    weighted(states(model.get_submodule(tower), mask=MASK)).backward()
    listed = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert listed.keys() == adapter.trained().keys()
    assert all(parameter is listed[name] for name, parameter in adapter.trained().items())
    assert {name for name, p in model.named_parameters() if p.grad is not None} == listed.keys()
    assert all(torch.count_nonzero(parameter.grad) for parameter in adapter.parameters())
    start = f"{tower}.prefix" if tower else "prefix"
    mlp = [f"{start}.{name}.{part}" for name in ("hidden", "output") for part in ("weight", "bias")]
    assert list(listed) == [f"{start}.embedding", *(mlp if projection else [])]


def test_the_number_of_parameters_is_the_documented_one() -> None:
    def size(projection: int | None) -> int:
        adapter = inject_prefix(a_tower("bert"), length=P, projection=projection)
        assert adapter.keys_and_values().shape == (2, 2, 4, P, 8)
        return sum(parameter.numel() for parameter in adapter.parameters())

    assert size(None) == 2 * P * 32 * 2
    assert size(5) == P * 32 + 33 * 5 + 6 * 2 * 32 * 2


@pytest.mark.parametrize("family", TOWERS)
def test_removing_gives_the_model_back_bit_for_bit(family: str) -> None:
    model, tower = FAMILIES[family].model(), TOWERS[family]
    frozen = next(model.parameters()).requires_grad_(False)
    before = states(model.get_submodule(tower), mask=MASK)
    bits = {name: value.clone() for name, value in model.state_dict().items()}
    adapter = inject_prefix(model, tower, length=P, projection=5, dropout=0.5)
    learned = adapter.keys_and_values()
    states(model.get_submodule(tower), mask=MASK)
    adapter.remove()
    adapter.remove()
    assert torch.equal(states(model.get_submodule(tower), mask=MASK), before)
    assert model.state_dict().keys() == bits.keys()
    assert all(torch.equal(value, bits[name]) for name, value in model.state_dict().items())
    assert [parameter for parameter in model.parameters() if not parameter.requires_grad] == [frozen]
    hooks = [module._forward_hooks or module._forward_pre_hooks for module in model.modules()]
    assert not any(hooks)
    assert torch.equal(adapter.keys_and_values(), learned)
    inject_prefix(model, tower, length=P)  # and another one can be put in


@pytest.mark.parametrize("family", ["bert", "distilbert", "clip"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_bf16_weights_under_autocast_keep_the_prefix_and_its_gradient_in_fp32(family: str, implementation: str) -> None:
    exact, tower = a_tower(family), a_tower(family).bfloat16()
    tower.set_attn_implementation(implementation)
    adapter, wanted = (inject_prefix(one, length=P, projection=5) for one in (tower, exact))
    with torch.autocast("cpu", torch.bfloat16):
        output = states(tower, mask=MASK)
        keys_and_values = adapter.keys_and_values()
    assert keys_and_values.dtype == torch.float32
    assert torch.equal(keys_and_values, wanted.keys_and_values())
    weighted(output).backward()
    weighted(states(exact, mask=MASK)).backward()
    for parameter, true in zip(adapter.parameters(), wanted.parameters(), strict=True):
        assert parameter.dtype == parameter.grad.dtype == torch.float32
        assert torch.cosine_similarity(parameter.grad.flatten(), true.grad.flatten(), dim=0) > 0.99
    assert all(p.dtype == torch.bfloat16 for name, p in tower.named_parameters() if name not in adapter.trained())


@pytest.mark.parametrize("projection", [None, 5])
def test_the_start_comes_from_the_seed_alone(projection: int | None) -> None:
    def start(seed: int) -> Tensor:
        torch.manual_seed(torch.seed())  # what torch drew elsewhere does not matter
        other = BertModel(BertConfig(**TEXT))
        state = torch.get_rng_state()
        drawn = inject_prefix(other, length=P, projection=projection, seed=seed).keys_and_values()
        assert torch.equal(torch.get_rng_state(), state)
        return drawn

    assert torch.equal(start(1), start(1))
    assert not torch.allclose(start(1), start(2))


def test_dropout_is_drawn_for_each_row_in_training_only() -> None:
    tower = a_tower("distilbert")  # in eval mode, so that the model's own dropout is off
    plain = inject_prefix(tower, length=P)
    without = states(tower, IDS["input_ids"][:1].expand(2, -1))
    plain.remove()
    adapter = inject_prefix(tower, length=P, dropout=0.5)
    assert torch.equal(states(tower, IDS["input_ids"][:1].expand(2, -1)), without)
    adapter.prefix.train()
    dropped = states(tower, IDS["input_ids"][:1].expand(2, -1))
    assert not torch.allclose(dropped[0], dropped[1])
    keys, values = adapter.prefix.batch(0, 400)
    kept = adapter.prefix.layer(0)
    assert ((keys == 0) | torch.isclose(keys, 2 * kept[:, 0])).all()
    assert abs(float((values == 0).float().mean()) - 0.5) < 0.01
    tower.eval()
    assert torch.equal(states(tower, IDS["input_ids"][:1].expand(2, -1)), without)


def test_gradient_checkpointing_changes_nothing() -> None:
    def gradients(checkpointing: bool) -> list[Tensor]:
        tower = BertModel(BertConfig(**TEXT, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
        tower.load_state_dict(a_tower("bert").state_dict())
        if checkpointing:
            new = "activation_checkpointing_enable"  # transformers 5.18 calls it gradient checkpointing
            getattr(tower, new if hasattr(tower, new) else "gradient_checkpointing_enable")()
        adapter = inject_prefix(tower.train(), length=P, projection=5)
        weighted(states(tower, mask=MASK)).backward()
        return [parameter.grad for parameter in adapter.parameters()]

    torch.testing.assert_close(gradients(True), gradients(False), **CLOSE)


def test_attention_that_is_asked_for_has_a_column_for_every_prefix() -> None:
    tower = a_tower("bert")
    tower.set_attn_implementation("eager")
    tower(**IDS, output_attentions=True)  # transformers hooks in when it is first asked
    inject_prefix(tower, length=P)
    for shares in tower(**IDS, output_attentions=True).attentions:
        assert shares.shape == (2, 4, 7, P + 7)
        torch.testing.assert_close(shares.sum(-1), torch.ones(2, 4, 7))


def test_a_deep_copy_has_a_prefix_of_its_own() -> None:
    tower = a_tower("roberta")
    adapter = inject_prefix(tower, length=P)
    before, twin = states(tower), copy.deepcopy(tower)
    assert torch.equal(states(twin), before)
    with torch.no_grad():
        twin.prefix.embedding.zero_()
    assert torch.equal(states(tower), before)
    assert not torch.allclose(states(twin), before)
    adapter.remove()
    assert not torch.allclose(states(tower), before)


def test_training_the_prefix_alone_fits_labels() -> None:
    tower = a_tower("bert")
    adapter = inject_prefix(tower, length=P, projection=16)
    optimizer, labels = torch.optim.AdamW(adapter.parameters(), lr=0.02), torch.tensor([1, 0])
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(states(tower)[:, 0, :2], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_a_text_is_refused_where_the_prefix_leaves_no_positions_for_it() -> None:
    for family, most in (("bert", 16 - P), ("roberta", 15 - P)):
        tower = a_tower(family)
        adapter = inject_prefix(tower, length=P)
        assert adapter.reserved_positions == P
        assert states(tower, torch.full((1, most), 5)).shape == (1, most, 32)
        with pytest.raises(ConfigError, match=rf"texts of {most + 1} tokens .* prefix of 3 the model has {most}"):
            states(tower, torch.full((1, most + 1), 5))
        adapter.remove()
        with pytest.raises(ConfigError, match="leaves no positions"):
            inject_prefix(tower, length=16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length 0"),
        ({"length": -1}, "length -1"),
        ({"length": P, "projection": 0}, "width 0"),
        ({"length": P, "dropout": 1.0}, "dropout 1.0"),
        ({"length": P, "dropout": float("nan")}, "dropout nan"),
        ({"length": P, "tower": "text_modell"}, "no tower 'text_modell'"),
        ({"length": P, "tower": ""}, "several towers"),
        ({"length": P, "tower": "text_projection"}, "no encoder"),
    ],
)
def test_what_cannot_be_is_refused_and_the_model_is_as_before(settings: dict[str, object], message: str) -> None:
    model = a_clip()
    with pytest.raises(ConfigError, match=message) as refused:
        inject_prefix(model, **{"tower": "text_model", **settings})
    assert refused.value.remedy
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.state_dict().keys() == a_clip().state_dict().keys()


def test_decoders_and_unknown_families_are_refused() -> None:
    with pytest.raises(ConfigError, match="no encoder"):
        inject_prefix(BertModel(BertConfig(**TEXT, is_decoder=True)), length=P)
    with pytest.raises(ConfigError, match="no encoder"):
        inject_prefix(FAMILIES["gpt2"].model(), length=P)


def test_attention_with_another_kind_of_mask_is_refused() -> None:
    tower = a_tower("bert")
    inject_prefix(tower, length=P)
    with pytest.raises(ConfigError, match="mask of rows and columns"):
        tower.encoder.layer[0].attention.self(torch.zeros(2, 7, 32), MASK)  # as FlashAttention takes it


def test_a_second_adapter_is_refused() -> None:
    model = a_clip()
    lora = inject_lora(model, both("q_proj"), rank=2, alpha=2)
    with pytest.raises(RuntimeError, match="LoRA"):
        inject_prefix(model, "text_model", length=P)
    lora.remove()
    inject_prefix(model, "text_model", length=P)
    with pytest.raises(RuntimeError, match="already holds a prefix"):
        inject_prefix(model, "vision_model", length=P)
