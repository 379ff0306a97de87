"""``views.text``: texts drawn anew for every view, as functions of seed, epoch, row and view alone."""

from __future__ import annotations

import re
from itertools import permutations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.experiment import train
from vectoruniverse.planning import dry_run
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.image_text.prepared import build_task
from vectoruniverse.tasks.image_text.setup import evaluate_base, prepare, share
from vectoruniverse.terminal import Display

TEMPLATES = ["{title}", "{labels}: {title}", "a picture of {title}"]
TEXT = {"templates": TEMPLATES, "word_dropout": 0.25, "shuffle_labels": True}


def quiet():
    return Display(quiet=True)


def loaded(config, text, *overrides, **sections):
    return load_experiment(config(views={"text": text}, **sections), list(overrides))


def begun(config, text, *overrides, **sections):
    experiment = loaded(config, text, *overrides, **sections)
    shared = share(experiment, quiet())
    return prepare(experiment, shared), [shared.data.rows[i] for i in shared.data.split.train]


def filled(row):
    """Every text that the templates make of a row."""
    return {
        template.format(title=row.title, labels=", ".join(labels))
        for template in TEMPLATES
        for labels in permutations(row.labels)
    }


def test_a_view_depends_on_seed_epoch_row_and_view_alone(config):
    texts = begun(config, TEXT)[0].task.texts
    rows = np.arange(len(texts.rows))
    one = texts.draw(rows, epoch=3, view=0)
    turned = texts.draw(rows[::-1].copy(), epoch=3, view=0)
    assert turned[::-1] == one == [texts.draw(np.array([row]), 3, 0)[0] for row in rows]
    others = [
        texts.draw(rows, epoch=4, view=0),
        texts.draw(rows, epoch=3, view=1),
        begun(config, TEXT, "seed=1")[0].task.texts.draw(rows, epoch=3, view=0),
    ]
    assert all(other != one for other in others)


def test_templates_and_orders_of_labels_are_drawn_evenly(config, described):
    data = described(lambda i, row: row | {"Category": "bright, round, seen"})
    prepared, rows = begun(config, TEXT | {"word_dropout": 0.0}, data=data)
    epochs, count = 600, {}
    for epoch in range(epochs):
        (text,) = prepared.task.texts.draw(np.array([0]), epoch, view=0)
        count[text] = count.get(text, 0) + 1
    assert count.keys() == filled(rows[0]) and len(count) == 2 + 6
    for text, seen in count.items():
        share = 1 / 3 if ":" not in text else 1 / 18
        assert abs(seen - share * epochs) < 4 * (share * epochs) ** 0.5, text


def test_words_are_left_out_at_their_probability_in_their_order_and_one_stays(config):
    for probability in (0.25, 0.95):
        prepared, rows = begun(config, {"word_dropout": probability})
        kept = []
        for epoch in range(40):
            for row, text in zip(rows, prepared.task.texts.draw(np.arange(len(rows)), epoch, view=1), strict=True):
                words = iter(row.text.split())
                assert text and all(word in words for word in text.split()), "in order, and of the row's own"
                kept.append(len(text.split()) / len(row.text.split()))
        if probability == 0.25:
            assert np.mean(kept) == pytest.approx(0.75, abs=0.03)
        assert min(kept) > 0


def test_the_views_of_a_step_are_the_vectors_of_the_drawn_texts(config):
    task = begun(config, TEXT)[0].task
    seen, given = [], task._loss
    task._loss = lambda views, relations: seen.append(views) or given(views, relations)
    rows = np.array([4, 0, 7])
    task.loss(rows, epoch=2)
    for name, view in (("T", 0), ("T+", 1)):
        for found, text in zip(seen[0][name], task.texts.draw(rows, 2, view), strict=True):
            (alone,) = task.encoder.embed_texts(task.encoder.tokenize([text]), batch_size=1)
            torch.testing.assert_close(found.detach(), alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(seen[0]["T"], seen[0]["T+"])


def test_a_loss_without_a_second_text_draws_none(config):
    prepared, _ = begun(config, TEXT, loss={"name": "info_nce", "temperature": 0.1})
    drawn = []
    texts, encoder = prepared.task.texts, prepared.task.encoder
    encoder.tokenize, tokenize = lambda some: drawn.append(list(some)) or tokenize(some), encoder.tokenize
    prepared.task.loss(np.arange(5), epoch=1)
    assert drawn == [texts.draw(np.arange(5), 1, 0)]


def test_a_pair_of_two_texts_pulls_only_with_text_views(config):
    for text, told in ((None, ["TT+ draws nothing together: T+ is T"]), (TEXT, [])):
        prepared, _ = begun(config, text)
        assert [remark.partition(", since")[0] for remark in prepared.remarks()] == told


def test_evaluation_reads_the_text_of_the_data(config):
    found = []
    for text in (None, TEXT):
        experiment = loaded(config, text)
        found.append(evaluate_base(experiment, share(experiment, quiet()), "val").metrics)
    assert found[0] == found[1]


def test_a_cut_run_resumes_to_the_same_bits(config, cut_and_resumed, tmp_path):
    experiment = loaded(config, TEXT)
    whole = train(experiment, runs_dir=tmp_path / "whole", display=quiet())
    resumed = cut_and_resumed(experiment)
    ours, theirs = (load_file(one.run.adapter / "adapter_model.safetensors") for one in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs) and resumed.adapted == whole.adapted


def test_rows_of_which_a_template_makes_one_text_are_no_negatives(config, described):
    data = described(lambda i, row: row | {"Category": f"kind {i % 3}"})
    prepared, rows = begun(config, {"templates": ["{title}", "{labels}"]}, data=data)
    among = prepared.task.negatives.among(np.arange(len(rows)))
    negative, _ = among.weights(torch.zeros((), dtype=torch.float64))
    expected = [[float(a.text != b.text and a.labels != b.labels) for b in rows] for a in rows]
    assert torch.equal(negative, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ({}, "draws nothing; give several templates, word_dropout or shuffle_labels"),
        ({"templates": ["{title}", "{title}"]}, "draws nothing"),
        ({"templates": []}, "templates"),
        ({"word_dropout": 1.0}, "word_dropout"),
        ({"shuffle_labels": True}, "no template holds {labels}; add one that does"),
    ],
)
def test_what_would_draw_nothing_is_refused_before_any_data_is_read(text, says, config):
    with pytest.raises(ConfigError, match=says):
        loaded(config, text)


def test_templates_that_do_not_fit_the_rows_are_told_with_key_and_line(config, described):
    with pytest.raises(ConfigError, match=r"there is no \{titel\} in this file \(did you mean 'Title'") as caught:
        begun(config, {"templates": ["{title}", "{titel}"]})
    assert caught.value.key == "views.text.templates"
    data = described(lambda i, row: row | {"Category": "" if i % 2 else row["Category"]})
    with pytest.raises(DataError, match=r"the template '\{labels\}' makes an empty text of row") as empty:
        begun(config, {"templates": ["{title}", "{labels}"]}, data=data)
    assert empty.value.line % 2 == 1 and empty.value.remedy, "every second row, the header is line 1"


def test_rows_of_one_text_each_are_told(config, described):
    data = described(lambda i, row: row | {"Category": row["Channel"]})
    for text in ({"shuffle_labels": True}, {"word_dropout": 0.5}):
        with pytest.raises(ConfigError, match="every training row has one text only") as caught:
            begun(config, text, data=data | {"text": "{labels}"})
        assert caught.value.key == "views.text"


def test_rows_can_be_evaluated_without_drawing_texts(config):
    experiment = loaded(config, TEXT)
    shared = share(experiment, quiet())
    assert build_task(experiment, shared.encoder, shared.pairs).evaluate().rows > 0


def test_texts_of_a_template_that_are_longer_than_the_model_reads_are_told(config, monkeypatch):
    told = []
    monkeypatch.setattr(Display, "warn", lambda _, message: told.append(message))
    long = "{title} " + "of one of the pictures that somebody drew " * 12
    dry_run(loaded(config, {"templates": ["{title}", long]}), quiet())
    (cut,) = [re.match(r"(\d+) of (\d+) views.text texts are longer than \d+ tokens", message) for message in told]
    assert int(cut[2]) == 2 * int(cut[1]), "those of one template of two"
