"""Every way to train a model keeps the one promise: attached, saved, loaded, scaled and removed alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.adapters.clip import a_clip
from vectoruniverse.adapters.base import Adapter, Host
from vectoruniverse.adapters.methods import METHODS, put_on
from vectoruniverse.adapters.targets import TowerTargets
from vectoruniverse.config.sections import AdapterSettings
from vectoruniverse.errors import ConfigError

BESIDE = ("logit_scale", "text_projection.weight")
IDS = torch.arange(1, 9).view(2, 4)


def host_of(model: nn.Module, beside: tuple[str, ...] = BESIDE, frozen: tuple[str, ...] = ()) -> Host:
    def save(folder: Path) -> None:
        folder.mkdir(parents=True)
        save_file({name: one.contiguous().clone() for name, one in model.state_dict().items()}, folder / "whole")

    return Host(
        model,
        model,
        name="base",
        revision=None,
        save=save,
        load=lambda folder: load_file(folder / "whole"),
        targets=lambda: [TowerTargets("text_model", ("q_proj", "v_proj"), "adapter.text_targets")],
        tower="text_model",
        beside=beside,
        frozen=frozen,
    )


def outputs(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        text: Tensor = model.get_text_features(input_ids=IDS).pooler_output  # type: ignore[operator]
        return text * model.get_parameter("logit_scale")


def train(model: nn.Module) -> None:
    """As if a few steps had been made: everything that is open is somewhere else."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def attached(method: str, **settings: object) -> tuple[nn.Module, Adapter]:
    model = a_clip().eval()
    beside = () if method == "full" else BESIDE
    config = AdapterSettings.model_validate({"method": method, **settings})
    return model, put_on(host_of(model, beside), config, seed=3)


each = pytest.mark.parametrize("method", METHODS)


@each
def test_removed_the_model_is_its_base_bit_for_bit_whatever_was_trained(method: str) -> None:
    before = {name: one.clone() for name, one in a_clip().state_dict().items()}
    model, adapter = attached(method)
    train(model)
    adapter.remove()
    adapter.remove()
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], one) for name, one in before.items())
    assert all(one.requires_grad for one in model.parameters())


@each
def test_what_is_saved_is_loaded_again_with_equal_outputs_and_saved_again_alike(method: str, tmp_path: Path) -> None:
    model, adapter = attached(method)
    train(model)
    adapter.save(tmp_path / "first")
    expected = outputs(model)
    other = a_clip().eval()
    host = host_of(other, () if method == "full" else BESIDE)
    again = put_on(host, AdapterSettings.model_validate({"method": method}), seed=0, trained=tmp_path / "first")
    assert torch.equal(outputs(other), expected)
    again.save(tmp_path / "second")
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "second").iterdir())
    for name in files:  # layers may be listed in another order
        first, second = tmp_path / "first" / name, tmp_path / "second" / name
        if name.endswith(".json"):
            assert sorted(first.read_text()) == sorted(second.read_text())
        else:
            was, now = load_file(first), load_file(second)
            assert was.keys() == now.keys() and all(torch.equal(now[key], one) for key, one in was.items()), name
    assert again.words == adapter.words


@pytest.mark.parametrize("method", [name for name, one in METHODS.items() if one.mergeable])
def test_scale_leads_from_the_base_to_the_adapted_model(method: str) -> None:
    base = outputs(a_clip().eval())
    model, adapter = attached(method)
    train(model)
    adapted = outputs(model)
    adapter.set_scale(0.0)
    torch.testing.assert_close(outputs(model), base, rtol=1e-5, atol=1e-6)
    adapter.set_scale(0.5)
    assert not torch.allclose(outputs(model), base) and not torch.allclose(outputs(model), adapted)
    adapter.set_scale(1.0)
    torch.testing.assert_close(outputs(model), adapted, rtol=1e-6, atol=1e-7)


def test_merged_a_plain_model_computes_the_same() -> None:
    model, adapter = attached("lora")
    train(model)
    expected, plain = outputs(model), {name for name, _ in a_clip().named_modules()}
    adapter.merge()
    torch.testing.assert_close(outputs(model), expected, rtol=1e-5, atol=1e-6)
    assert {name for name, _ in model.named_modules()} == plain


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_beside_an_adapter_only_what_is_named_is_open(method: str) -> None:
    model, _ = attached(method)
    own = {name for name, _ in a_clip().named_parameters()}
    opened = {name for name, one in model.named_parameters() if one.requires_grad}
    assert opened & own == set(BESIDE)
    assert opened - own, "and the adapter"


def test_full_fine_tuning_spares_what_is_frozen() -> None:
    model = a_clip()
    put_on(host_of(model, (), ("logit_scale",)), AdapterSettings(method="full"), seed=0)
    assert {name for name, one in model.named_parameters() if not one.requires_grad} == {"logit_scale"}


def test_layers_around_the_model_are_frozen_beside_lora_and_trained_in_full() -> None:
    for method, opened in (("lora", False), ("full", True)):
        model = a_clip()
        around = nn.Sequential(nn.Linear(4, 4), model)
        host = host_of(model, ())
        host = Host(**{**vars(host), "whole": around})
        adapter = put_on(host, AdapterSettings.model_validate({"method": method}), seed=0)
        assert around[0].weight.requires_grad is opened
        adapter.remove()
        assert around[0].weight.requires_grad


@pytest.mark.parametrize(
    "damage",
    [lambda one: one.pop("logit_scale"), lambda one: one.update(logit_scale=torch.zeros(2))],
    ids=["lacks", "shape"],
)
def test_a_whole_model_of_another_base_is_refused_and_changes_nothing(
    damage: Callable[[dict[str, Tensor]], object], tmp_path: Path
) -> None:
    model = a_clip()
    host = host_of(model, ())
    host.save(tmp_path / "whole")
    tensors = load_file(tmp_path / "whole" / "whole")
    damage(tensors)
    save_file(tensors, tmp_path / "whole" / "whole")
    before = {name: one.clone() for name, one in model.state_dict().items()}
    with pytest.raises(ConfigError, match="another base model: logit_scale"):
        put_on(host, AdapterSettings(method="full"), seed=0, trained=tmp_path / "whole")
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
