"""``train.hard_negatives``: near rows share a batch, but for those that may say the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from vectoruniverse.data.pair_items import PairItems
from vectoruniverse.errors import ConfigError
from vectoruniverse.evaluation.retrieval import Embeddings
from vectoruniverse.experiment import train
from vectoruniverse.losses.negatives import Negatives
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.image_text.hard_negatives import nearest, pairs
from vectoruniverse.tasks.image_text.setup import prepare, share
from vectoruniverse.tasks.image_text.task import ImageTextTask
from vectoruniverse.terminal import Display
from vectoruniverse.training.batches import batches

TRAIN = {"epochs": 2, "batch_size": 8, "lr": 0.01, "precision": "fp32", "device": "cpu", "log_every": 1}


def quiet():
    return Display(quiet=True)


@pytest.mark.parametrize("ceiling", [0.95, 0.05])
def test_the_nearest_are_those_of_a_double_loop(ceiling, monkeypatch):
    monkeypatch.setattr("vectoruniverse.tasks.image_text.hard_negatives.BLOCK", 7)
    random = torch.Generator().manual_seed(3)
    image = normalize(torch.randn(30, 4, generator=random, dtype=torch.float64), dim=1)
    text = normalize(image + 0.3 * torch.randn(30, 4, generator=random, dtype=torch.float64), dim=1)
    titles = np.arange(30) // 2  # every two rows have one text
    found = nearest(image, text, Negatives(PairItems(np.arange(30), titles)).among(np.arange(30)), ceiling)
    for i in range(30):
        scores = {}
        for j in range(30):
            score = max(float(image[i] @ text[j]), float(image[j] @ text[i]))
            own = min(float(image[i] @ text[i]), float(image[j] @ text[j]))
            if titles[i] != titles[j] and score < ceiling * own:
                scores[j] = score
        expected = sorted(scores, key=lambda j: -scores[j])[: found.shape[1]]
        assert found[i][found[i] >= 0].tolist() == expected
    assert (found >= 0).any() and (ceiling > 0.5 or (found < 0).any())


def test_each_row_takes_the_nearest_free_one_until_the_share_is_reached():
    near = np.array([[1, 2], [0, 2], [0, 3], [2, -1], [-1, -1], [0, 1]])
    assert pairs(near, np.array([2, 0, 1, 3, 4, 5]), 1.0).tolist() == [2, 5, 2, 3, 4, 5]
    assert pairs(near, np.array([2, 0, 1, 3, 4, 5]), 0.5).tolist() == [2, 1, 2, 3, 4, 5]
    assert pairs(near, np.arange(6), 0.1).tolist() == list(range(6))


@pytest.fixture
def known(monkeypatch):
    """Texts lie near their pictures from the start, as in a model that has learned something."""
    embed = ImageTextTask.embed

    def nearer(self, some):
        found = embed(self, some)
        return Embeddings(found.image, normalize(found.image + 0.01 * found.text, dim=1))

    monkeypatch.setattr(ImageTextTask, "embed", nearer)


@pytest.mark.usefixtures("known")
def test_pairs_share_a_batch_and_every_row_comes_once(config):
    hard = {"share": 0.8, "ceiling": 1.0}
    experiment = load_experiment(config(train=TRAIN | {"hard_negatives": hard}))
    prepared = prepare(experiment, share(experiment, quiet()))
    strata, rows = prepared.miner(0), prepared.task.train_rows
    assert np.array_equal(strata.of_row, prepared.miner(0).of_row)
    assert not np.array_equal(strata.of_row, prepared.miner(1).of_row)
    parts = batches(rows, 8, 0, 0, strata)
    assert sorted(np.concatenate(parts)) == list(range(rows))
    paired = [stratum for stratum in range(rows) if (strata.of_row == stratum).sum() == 2]
    assert 0.5 * rows < 2 * len(paired) <= 0.8 * rows
    together = sum(any((strata.of_row[part] == stratum).sum() == 2 for part in parts) for stratum in paired)
    assert together >= len(paired) - (len(parts) - 1), "an edge tears one pair at most"


@pytest.mark.usefixtures("known")
def test_a_cut_run_resumes_in_the_order_of_its_epoch_to_the_same_bits(config, cut_and_resumed, tmp_path):
    experiment = load_experiment(config(train=TRAIN | {"batch_size": 4, "hard_negatives": {"ceiling": 1.0}}))
    whole = train(experiment, runs_dir=tmp_path / "whole", display=quiet())
    resumed = cut_and_resumed(experiment)
    ours, theirs = (load_file(one.run.adapter / "adapter_model.safetensors") for one in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_hard_negatives_and_another_sampler_are_refused_together(config):
    with pytest.raises(ConfigError, match=r"train\.hard_negatives says which rows share a batch"):
        load_experiment(config(train=TRAIN | {"hard_negatives": {}, "sampler": "labels"}))
