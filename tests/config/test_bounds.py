"""No number in an experiment is beyond all use, and nothing is named as Weights & Biases allows no name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vectoruniverse.config.document import json_schema
from vectoruniverse.errors import ConfigError
from vectoruniverse.tasks.experiments import EXPERIMENTS, load_experiment
from vectoruniverse.training.build import check_tracking

CONFIGS = Path(__file__).parents[2] / "configs"
NUMBERS = ("integer", "number")


def numbers(schema: object, path: str = "") -> Iterator[tuple[str, dict[str, object]]]:
    """Every place of the schema where a number may stand."""
    if isinstance(schema, dict):
        if schema.get("type") in NUMBERS:
            yield path, schema
        for name, inner in schema.items():
            yield from numbers(inner, f"{path}/{name}")
    elif isinstance(schema, list):
        for place, inner in enumerate(schema):
            yield from numbers(inner, f"{path}/{place}")


def test_every_number_has_an_upper_bound_which_the_schema_shows() -> None:
    found = list(numbers(json_schema(EXPERIMENTS)))
    assert len(found) > 50
    unbounded = [path for path, one in found if not {"maximum", "exclusiveMaximum"} & one.keys()]
    assert unbounded == []


@pytest.mark.parametrize(
    ("config", "override"),
    [
        ("quickstart.yaml", "train.batch_size=3000000000"),
        ("quickstart.yaml", "adapter.rank=1000000"),
        ("quickstart.yaml", "adapter.rank_pattern={q_proj: 4611686018427387904}"),
        ("quickstart.yaml", "eval.recall_at=[1, 5, 1000000000000]"),
        ("quickstart.yaml", "train.lr=1e300"),
        ("quickstart.yaml", "loss={name: siglip, bias: 1e30}"),
        ("quickstart.yaml", "data.max_pixels=4611686018427387904"),
        ("tiny_clip_pretrain.yaml", "model.text_layers=1000000"),
        ("masked_lm.yaml", "model.vocab_size=10000000000"),
        ("masked_lm.yaml", "model.intermediate=4611686018427387904"),
        ("sequence_classification_prefix.yaml", "adapter.prefix_length=1000000000"),
    ],
)
def test_a_number_beyond_all_use_is_refused_with_its_bound(config: str, override: str) -> None:
    with pytest.raises(ConfigError, match=r"must be at most [0-9.e+]+, got ") as caught:
        load_experiment(CONFIGS / config, [override])
    assert str(caught.value).startswith(f"--set, {override.split('=')[0].split('_pattern')[0]}")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("wandb.tags=[short, {long}]", "wandb.tags[1]: must have at most 64 characters"),
        ("wandb.tags=['  ']", "wandb.tags[0]: must not be blank"),
        ("wandb.group={long}{long}", "wandb.group: must have at most 128 characters"),
        ("wandb.entity=''", "wandb.entity: must not be blank"),
        ("wandb.project='50 % of it'", "wandb.project: must not have %, which Weights & Biases takes in no"),
    ],
)
def test_what_wandb_would_refuse_is_refused_before_training(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(CONFIGS / "quickstart.yaml", [override.replace("{long}", "언어" * 33)])
    assert str(caught.value).startswith(f"--set, {said}")


def test_what_wandb_takes_is_taken() -> None:
    settings = {"tags": ["x" * 64], "group": "g" * 128, "project": "모델 one"}
    wandb = load_experiment(CONFIGS / "quickstart.yaml", [f"wandb={settings}"]).wandb
    assert wandb.model_dump(include=set(settings)) == settings


@pytest.mark.parametrize(
    ("variable", "value"), [("WANDB_TAGS", f"fine,{'x' * 65}"), ("WANDB_TAGS", ""), ("WANDB_PROJECT", "a/b")]
)
def test_a_variable_that_wandb_would_refuse_the_run_for_is_named(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv(variable, value)
    experiment = load_experiment(CONFIGS / "quickstart.yaml", [])
    with pytest.raises(ConfigError, match=f"^{variable}: "):
        check_tracking(experiment)
    check_tracking(load_experiment(CONFIGS / "quickstart.yaml", ["wandb.mode=disabled"]))
    monkeypatch.setenv(variable, "fine")
    check_tracking(experiment)
