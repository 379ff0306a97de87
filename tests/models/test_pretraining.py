from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertModel, GPT2Config

from vectoruniverse.errors import ConfigError
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.pretraining import (
    load_bert_for_pretraining,
    parameter_counts,
    tokenize_sentences,
)
from vectoruniverse.models.scratch import build_bert_for_pretraining
from vectoruniverse.models.sizes import ScratchBert
from vectoruniverse.models.wordpiece import train_wordpiece

CPU = Compute(torch.device("cpu"), torch.float32)
SIZES = ScratchBert(scratch="bert", width=16, layers=1, heads=2, intermediate=32, max_text_tokens=24, dropout=0.1)


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece(["a small cat sat", "a small dog ran"] * 3, 80, lowercase=True, max_tokens=24)


def build(tokenizer, seed=0):
    return build_bert_for_pretraining(tokenizer, SIZES, CPU, seed=seed)


def load(folder, seed=0):
    return load_bert_for_pretraining(str(folder), CPU, seed=seed)


def test_weights_are_a_function_of_the_seed_and_the_global_generator_is_left_alone(tokenizer):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = build(tokenizer)
    assert torch.equal(torch.rand(3), expected)
    same, other = build(tokenizer), build(tokenizer, seed=1)
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, same.model.state_dict()[name])
    assert not torch.equal(first.model.cls.seq_relationship.weight, other.model.cls.seq_relationship.weight)


def test_base_size_has_the_110_million_parameters_of_the_paper():
    with torch.device("meta"):
        model = BertForPreTraining(BertConfig())
    counts = parameter_counts(model)
    assert counts["embeddings"] == (30522 + 512 + 2) * 768 + 2 * 768
    per_layer = 4 * (768 * 768 + 768) + 768 * 3072 + 3072 + 3072 * 768 + 768 + 2 * 2 * 768
    assert counts["encoder"] == 12 * per_layer
    assert counts["pooler"] == 590_592  # as the note works out
    assert counts["embeddings"] + counts["encoder"] + counts["pooler"] == 109_482_240
    assert counts["mlm_head"] == 768 * 768 + 768 + 2 * 768 + 30522, "the decoder is the word embedding"
    assert counts["nsp_head"] == 2 * 768 + 2
    assert counts["total"] == model.num_parameters() == 110_106_428


def test_a_saved_model_loads_as_it_was(tokenizer, tmp_path):
    bert = build(tokenizer)
    bert.save(tmp_path)
    loaded = load(tmp_path)
    assert loaded.drawn == ()
    assert loaded.max_tokens == 24
    ids = torch.tensor([tokenizer("a small cat")["input_ids"]])
    with torch.no_grad():
        ours, theirs = bert.model(ids), loaded.model(ids)
    assert torch.equal(ours.prediction_logits, theirs.prediction_logits)
    assert loaded.tokenizer("a small cat")["input_ids"] == ids[0].tolist()


def test_missing_heads_are_drawn_from_the_seed_and_named(tokenizer, tmp_path):
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=24)  # fmt: skip
    BertModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    first, same, other = load(tmp_path), load(tmp_path), load(tmp_path, seed=1)
    assert "cls.seq_relationship.weight" in first.drawn
    assert not any(name.startswith("bert.") for name in first.drawn)
    assert torch.equal(first.model.cls.seq_relationship.weight, same.model.cls.seq_relationship.weight)
    assert not torch.equal(first.model.cls.seq_relationship.weight, other.model.cls.seq_relationship.weight)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    assert {name.split(".")[1] for name in load(tmp_path).drawn} == {"pooler", "seq_relationship"}


def test_what_is_no_bert_is_refused(tokenizer, tmp_path):
    with pytest.raises(ConfigError, match="no config"):
        load(tmp_path / "absent")
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="gpt2"):
        load(tmp_path)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tokenizer, tmp_path):
    build(tokenizer).save(tmp_path)
    train_wordpiece(["many other words in here"] * 3, 90, lowercase=True, max_tokens=24).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"gives token \d+, and the model knows \d+"):
        load(tmp_path)


def test_sentences_are_tokenized_within_their_documents(tokenizer):
    documents = [["a small cat", ""], [], ["[MASK] sat", "a dog ran", "x"]]
    found = list(tokenize_sentences(tokenizer, documents))
    assert [len(document) for document in found] == [2, 0, 3]
    assert found[0][0].tolist() == tokenizer("a small cat")["input_ids"][1:-1]
    assert len(found[0][1]) == 0
    assert tokenizer.mask_token_id not in found[2][0], "special tokens written out are plain characters"
    assert found[2][1].dtype == np.int32
