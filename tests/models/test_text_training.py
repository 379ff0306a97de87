from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from tests.models.text_models import TEXTS, embed, load, save_encoder
from vectoruniverse.adapters.apply import TowerTargets, attention_targets, inject_lora
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.scratch import build_bert, random_like
from vectoruniverse.models.sizes import ScratchBert

CORPUS = ["the red circle is on the left", "the green square is on the right", "파란 원은 왼쪽에 있다"] * 3


def build(seed=0, pooling="pooler", dtype=torch.float32, **settings):
    sizes = {"vocab_size": 80, "width": 32, "layers": 2, "heads": 2, "intermediate": 64, "max_text_tokens": 12}
    compute = Compute(torch.device("cpu"), dtype, "sdpa")
    return build_bert(CORPUS, ScratchBert(scratch="bert", **sizes | settings), compute, seed=seed, pooling=pooling)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_on_query_and_value_trains_and_nothing_else_moves(dtype, tmp_path):
    encoder = load(save_encoder(tmp_path, "bert"), "mean", dtype=dtype)
    before = embed(encoder)
    adapter = inject_lora(encoder.module, [TowerTargets("", ("query", "value"), "adapter.targets")], rank=2, alpha=4.0)
    assert sorted(adapter.layers) == [
        f"model.encoder.layer.{block}.attention.self.{part}" for block in (0, 1) for part in ("query", "value")
    ]
    assert torch.equal(embed(encoder), before)
    trained = [parameter for parameter in encoder.module.parameters() if parameter.requires_grad]
    assert {id(p) for p in trained} == {id(p) for p in adapter.parameters()}
    assert {p.dtype for p in trained} == {torch.float32}
    tokens = encoder.tokenize(TEXTS)
    optimizer = torch.optim.SGD(trained, lr=0.5)
    for _ in range(2):  # lora_A has a gradient as soon as lora_B is no longer zero
        optimizer.zero_grad()
        encoder.encode_texts(encoder.pad(tokens, [0, 1, 2, 3]))[:, 0].sum().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained)
    assert not torch.allclose(embed(encoder), before, atol=1e-3)
    adapter.remove()
    assert torch.equal(embed(encoder), before)


def test_attention_layers_are_found_by_family_within_the_module(tmp_path):
    for family in ("bert", "distilbert", "mpnet", "roberta"):
        encoder = load(save_encoder(tmp_path / family, family))
        targets = [TowerTargets(tower, names, "k") for tower, names in attention_targets(encoder.module).items()]
        assert len(inject_lora(encoder.module, targets, rank=1, alpha=1.0).layers) == 8


def test_a_bert_from_nothing_is_a_function_of_its_seed():
    first, again, other = build(), build(), build(seed=1)
    assert first.tokenizer.get_vocab() == again.tokenizer.get_vocab()
    assert torch.equal(embed(first), embed(again))
    assert not torch.allclose(embed(first), embed(other), atol=1e-3)
    assert (first.width, first.max_tokens, first.pooling, first.name) == (32, 12, "pooler", "scratch")
    assert {p.dtype for p in first.module.parameters()} == {torch.float32}
    assert first.tokenize(["red " * 20]).truncated == [0]


def test_a_bert_from_nothing_takes_the_global_random_numbers_from_nobody():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    random_like(build(), 0)
    assert torch.equal(torch.rand(1), expected)


def test_a_bert_from_nothing_has_bert_s_parameters():
    encoder, width = build(), 32
    block = 4 * (width * width + width) + 2 * width * 64 + 64 + width + 4 * width
    embeddings = width * (len(encoder.tokenizer) + 12 + 2) + 2 * width
    count = sum(p.numel() for p in encoder.module.parameters())
    assert count == embeddings + 2 * block + width * width + width


def test_heads_that_do_not_fit_the_width_are_refused():
    with pytest.raises(ValidationError, match="heads 3 does not divide width 32"):
        build(heads=3)


def test_what_was_built_from_nothing_is_saved_and_loaded(tmp_path):
    encoder = build(pooling="mean")
    encoder.save(tmp_path)
    assert torch.equal(embed(load(tmp_path, attention="sdpa")), embed(encoder))


def test_random_weights_come_without_an_adapter_and_in_the_same_formats(tmp_path):
    encoder = load(save_encoder(tmp_path, "bert"), dtype=torch.bfloat16)
    plain = random_like(encoder, 0)
    inject_lora(encoder.module, [TowerTargets("", ("query",), "k")], rank=2, alpha=4.0)
    fresh = random_like(encoder, 0)
    assert torch.equal(embed(fresh), embed(plain))
    assert {p.dtype for p in fresh.module.parameters()} == {torch.bfloat16}
    assert fresh.model.config._attn_implementation == "eager"
    assert fresh.name.endswith("with random weights")
