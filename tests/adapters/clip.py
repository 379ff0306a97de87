from __future__ import annotations

import json
from pathlib import Path

import peft
import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from vectoruniverse.adapters.apply import TowerTargets, inject_lora
from vectoruniverse.adapters.lora import LoraAdapter
from vectoruniverse.adapters.peft_format import load_lora, save_lora

WIDTH = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {**WIDTH, "image_size": 32, "patch_size": 16}
TEXT = {**WIDTH, "vocab_size": 100, "max_position_embeddings": 16}
MARKS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def a_clip(dtype: torch.dtype = torch.float32) -> CLIPModel:
    torch.manual_seed(0)
    config = CLIPConfig(text_config=TEXT | MARKS, vision_config=VISION, projection_dim=16)
    return CLIPModel(config).to(dtype).eval()


def both(*layers: str) -> list[TowerTargets]:
    return [
        TowerTargets("vision_model", layers, "adapter.vision_targets"),
        TowerTargets("text_model", layers, "adapter.text_targets"),
    ]


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    texts = torch.randint(3, 100, (4, 8), generator=generator)
    texts[:, -1] = MARKS["eos_token_id"]
    return {"pixel_values": torch.randn(4, 3, 32, 32, generator=generator), "input_ids": texts}


def embeddings(model: nn.Module) -> Tensor:
    output = model(**batch())
    return torch.cat([output.image_embeds, output.text_embeds])


def loss(model: nn.Module) -> Tensor:
    rows = embeddings(model).float()
    return (rows * torch.randn(rows.shape, generator=torch.Generator().manual_seed(2))).sum()


def trained(adapter: LoraAdapter) -> LoraAdapter:
    """As if trained: both factors random, large enough to move the embeddings."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return adapter


def a_saved_adapter(folder: Path, **settings: object) -> Tensor:
    """Write an adapter and say what the adapted model gives."""
    model = a_clip()
    settings = {"rank": 4, "alpha": 6.0, **settings}
    adapter = trained(inject_lora(model, both("q_proj", "v_proj"), **settings))
    save_lora(adapter, folder, base_model="tiny", revision="main")
    return embeddings(model).detach()


def edit(folder: Path, **entries: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def check_all_ways(model: nn.Module, adapter: LoraAdapter, folder: Path) -> None:
    """Merging, saving, peft, loading and removing all keep the function or give the base back."""
    adapted, clean = embeddings(model), a_clip()
    adapter.merge()
    torch.testing.assert_close(embeddings(model), adapted, rtol=1e-5, atol=1e-5)
    save_lora(adapter, folder, base_model="tiny")
    adapter.unmerge()
    assert torch.equal(embeddings(model), adapted)
    torch.testing.assert_close(
        embeddings(peft.PeftModel.from_pretrained(a_clip(), folder)), adapted, rtol=1e-5, atol=1e-5
    )
    again = a_clip()
    load_lora(again, folder)
    torch.testing.assert_close(embeddings(again), adapted, rtol=1e-5, atol=1e-5)
    adapter.set_scale(0.0)
    torch.testing.assert_close(embeddings(model), embeddings(clean))
    adapter.remove()
    assert all(torch.equal(value, clean.state_dict()[name]) for name, value in model.state_dict().items())
    assert torch.equal(embeddings(model), embeddings(clean))
