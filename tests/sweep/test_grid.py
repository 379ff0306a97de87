"""Which cells a sweep has, and what it refuses before the first one runs."""

from __future__ import annotations

import pytest

from vectoruniverse.errors import ConfigError
from vectoruniverse.sweep.grid import Over, alpha_policy, make_grid, parse_over, whole_numbers
from vectoruniverse.tasks.image_text.settings import AdapterConfig


def test_a_grid_has_every_combination_for_every_seed_and_resolves_each(config):
    over = [parse_over("adapter.rank=1,4"), parse_over("loss.temperature=0.02,0.1")]
    grid = make_grid(config(loss={"name": "info_nce"}, eval={}), ["train.lr=0.5"], over, (7, 8))
    assert [(c.seed, *c.values.values()) for c in grid.cells] == [
        (7, 1, 0.02), (7, 1, 0.1), (7, 4, 0.02), (7, 4, 0.1), (8, 1, 0.02), (8, 1, 0.1), (8, 4, 0.02), (8, 4, 0.1)
    ]  # fmt: skip
    last = grid.cells[-1].experiment
    assert (last.adapter.rank, last.loss.temperature, last.seed, last.train.lr) == (4, 0.1, 8, 0.5)
    assert last.name == "shapes-rank4-temperature0.1-seed8"
    assert last.eval.report is False


def test_without_seeds_the_experiment_s_own_is_taken(config):
    grid = make_grid(config(seed=5), [], [Over("train.lr", (0.1,))], ())
    assert [cell.seed for cell in grid.cells] == [5]


def test_values_are_read_as_the_file_would_read_them():
    assert parse_over("adapter.text_targets=[],[q_proj, v_proj]").values == ([], ["q_proj", "v_proj"])
    assert parse_over('data.text="{title}","{labels}, {title}"').values == ("{title}", "{labels}, {title}")
    assert parse_over("train.clip_grad_norm=1e-3, null").values == (0.001, None)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("fixed", [16, 16]), ("proportional:3", [3, 12]), ("rank-stabilized", [16, 16]), ("auto", [2, 8])],
)
def test_alpha_follows_the_rank_as_told(policy, expected, config):
    file = config(adapter={"method": "lora", "rank": 8, "alpha": 16.0})
    grid = make_grid(file, [], [Over("adapter.rank", (1, 4))], (), policy)
    assert [cell.experiment.adapter.alpha for cell in grid.cells] == expected
    assert {cell.experiment.adapter.rank_stabilized for cell in grid.cells} == {policy == "rank-stabilized"}


def test_auto_keeps_what_the_file_does():
    assert str(alpha_policy("auto", AdapterConfig())) == "proportional:1"
    assert str(alpha_policy("auto", AdapterConfig(rank=4, rank_stabilized=True))) == "rank-stabilized:4"


def test_the_fingerprint_is_of_what_the_cells_have_in_common(config):
    def of(file, *values, seeds=(), data="d", alpha="auto", overrides=()):
        return make_grid(file, overrides, [Over("adapter.rank", values)], seeds, alpha).fingerprint(data)

    first = of(config(), 1, 2)
    assert of(config(), 4, seeds=(0, 1)) == first, "more values and seeds belong to the same sweep"
    assert of(config(wandb={"mode": "offline"}, forgetting={"rows": 3}, name="other"), 1) == first
    assert of(config(), 1, overrides=["eval.report=false", "adapter.rank=3", "seed=9"]) == first
    others = [
        of(config(), 1, data="e"),
        of(config(), 1, alpha="proportional:2"),
        of(config(), 1, overrides=["train.lr=1.0"]),
        make_grid(config(), [], [Over("adapter.dropout", (0.1,))], ()).fingerprint("d"),
    ]
    assert len({first, *others}) == 5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("adapter.rank", "KEY=VALUE"),
        ("adapter.rank=", "KEY=VALUE"),
        ("adapter.rank=1,1", "given twice"),
        ("data.text={title", "--over"),
        ("adapter.rank=0,1", "at least 1"),
        ("adapter.rnk=1", "rnk"),
        ("adapter.rank=one", "whole number"),
        ("seed=1,2", "option of their own"),
        ("wandb.group=a,b", "changes nothing that is learned"),
        ("eval.monitor=recall@1", "compared"),
    ],
)
def test_a_bad_value_is_told_before_anything_runs(text, says, config):
    with pytest.raises(ConfigError, match=says) as error:
        make_grid(config(), [], [parse_over(text)], ())
    assert "--over" in str(error.value) or error.value.key


def test_other_bad_requests_are_told(config):
    with pytest.raises(ConfigError, match="given twice"):
        make_grid(config(), [], [Over("train.lr", (1.0,)), Over("train.lr", (2.0,))], ())
    with pytest.raises(ConfigError, match="no key"):
        make_grid(config(), [], [], ())
    with pytest.raises(ConfigError, match="would do nothing"):
        make_grid(config(adapter={"method": "full"}), [], [Over("adapter.rank", (1,))], (), "auto")
    for text in ("1,x", "", "1,,2"):
        with pytest.raises(ConfigError, match="--ranks"):
            whole_numbers(text, "--ranks")
    for text in ("proportional:0", "proportional:x", "fixed:3", "half"):
        with pytest.raises(ConfigError, match="--alpha"):
            alpha_policy(text, AdapterConfig())
