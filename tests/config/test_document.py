"""The generated documentation holds every key, and the committed schema is the generated one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vectoruniverse.config.document import all_keys, json_schema, keys_table
from vectoruniverse.config.sections import Section
from vectoruniverse.tasks.experiments import EXPERIMENTS

CONFIGS = Path(__file__).parents[2] / "configs"


def test_committed_schema_is_the_generated_one() -> None:
    committed = json.loads((CONFIGS / "experiment.schema.json").read_text(encoding="utf-8"))
    assert committed == json_schema(EXPERIMENTS)
    assert committed["$schema"].startswith("https://json-schema.org/")
    assert committed["title"]


def sections_of(*models: type[Section]) -> list[type[Section]]:
    """The experiments and every section within them."""
    found: dict[str, type[Section]] = {}
    waiting = list(models)
    while waiting:
        model = waiting.pop()
        found[model.__name__] = model
        text = [str(field.annotation) for field in model.model_fields.values()]
        for other in below(Section):
            if other.__name__ not in found and any(f".{other.__name__}" in one for one in text):
                waiting.append(other)
    return list(found.values())


def below(model: type[Section]) -> Iterator[type[Section]]:
    for one in model.__subclasses__():
        yield one
        yield from below(one)


def test_schema_refuses_unknown_keys_in_every_section() -> None:
    schema = json_schema(EXPERIMENTS)
    sections = schema["$defs"]
    assert all(section["additionalProperties"] is False for section in sections.values())
    assert set(EXPERIMENTS) <= set(sections)
    assert schema["properties"]["task"]["enum"] == list(EXPERIMENTS)


@pytest.mark.parametrize("section", sections_of(*EXPERIMENTS.values()), ids=lambda section: section.__name__)
def test_table_lists_every_field_of_every_section_with_its_description(section: type[Section]) -> None:
    lines = keys_table(EXPERIMENTS).splitlines()
    for name, field in section.model_fields.items():
        assert field.description
        described = field.description.replace("|", "\\|")
        rows = [line for line in lines if line.endswith(f"| {described} |")]
        assert any(row.split("`")[1].rsplit(".", 1)[-1] == name for row in rows), name


def test_table_has_one_row_for_each_key_and_four_cells_in_each() -> None:
    lines = keys_table(EXPERIMENTS).splitlines()
    assert len(lines) == 2 + len(all_keys(EXPERIMENTS))
    assert len(set(lines)) == len(lines)
    assert all(line.replace("\\|", "").count("|") == 5 for line in lines)


@pytest.mark.parametrize(
    "row",
    [
        "| `train.lr` | number > 0 and ≤ 1e+30 | `5e-05` | Peak learning rate. |",
        (
            "| `data.root` | text | required | Folder of a metadata file and pictures, or packed files: their folder, "
            "one of them, or a pattern such as `shard-{000000..000010}.tar`; "
            "relative to the working directory, else to the experiment file. |"
        ),
        "| `views.count` | whole number ≥ 1 and ≤ 2 | `2` | Views of a picture in one step: 2 gives I and I+. |",
        "| `loss` | section | `alignment_anisotropy` | What is minimised. |",
        (
            "| `adapter.alpha` | number > 0 and ≤ 1e+06 or null | `null` "
            "| The update is scaled by alpha / rank (lora); null: alpha = rank. |"
        ),
        (
            "| `train.schedule.final` (name: cosine) | number ≥ 0 and ≤ 1 | `0.0` "
            "| Learning rate at the end as a share of train.lr. |"
        ),
        (
            "| `eval.recall_at` | list of whole number ≥ 1 and ≤ 1,000,000 (at least 1) | `[1, 5, 10]` "
            "| The k of recall@k. |"
        ),
    ],
)
def test_table_tells_type_range_and_default(row: str) -> None:
    assert row in keys_table(EXPERIMENTS).splitlines()


def test_documentation_is_the_same_in_another_process_and_needs_no_torch() -> None:
    code = (
        "import sys, vectoruniverse.config, vectoruniverse.config.loading\n"
        "from vectoruniverse.config.document import keys_table, json_schema\n"
        "from vectoruniverse.tasks.experiments import EXPERIMENTS\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        "sys.stdout.buffer.write((keys_table(EXPERIMENTS) + repr(json_schema(EXPERIMENTS))).encode())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert other.stdout.decode() == keys_table(EXPERIMENTS) + repr(json_schema(EXPERIMENTS))


def test_the_room_itself_loads_nothing_heavy() -> None:
    code = "import sys, vectoruniverse.config; assert not {'torch', 'pydantic', 'yaml'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
