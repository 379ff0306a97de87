from __future__ import annotations

import torch

from tests.models.models import WORDS, save_clip
from vectoruniverse.models.scratch import train_clip_tokenizer

TEXTS = ["waving hand: medium-dark skin tone", "waving hand: light skin tone", "grinning face"] * 20


def test_frequent_words_become_one_token():
    tokenizer = train_clip_tokenizer(TEXTS, 600, 32)
    assert tokenizer.tokenize("waving tone") == ["waving</w>", "tone</w>"]
    assert len(tokenizer("waving hand: light skin tone")["input_ids"]) == 8


def test_the_vocabulary_has_the_size_asked_for_and_every_byte():
    tokenizer = train_clip_tokenizer(TEXTS, 530, 32)
    assert len(tokenizer) == 530
    for text in ("한국어 제목", "naïve ☃ \x07", "日本"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids[1:-1]
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")


def test_case_and_space_do_not_matter_as_in_clip():
    tokenizer = train_clip_tokenizer(TEXTS, 600, 32)
    assert tokenizer("Waving   HAND")["input_ids"] == tokenizer("waving hand")["input_ids"]


def test_weights_are_a_function_of_the_seed(tmp_path):
    from transformers import CLIPModel

    first, same, other = (
        CLIPModel.from_pretrained(save_clip(tmp_path / name, seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert torch.equal(first.text_projection.weight, same.text_projection.weight)
    assert not torch.equal(first.text_projection.weight, other.text_projection.weight)


def test_tokens_survive_saving(tmp_path):
    from transformers import AutoTokenizer

    save_clip(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.model_max_length == 16
    ids = tokenizer(" ".join(WORDS[:6]))["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
