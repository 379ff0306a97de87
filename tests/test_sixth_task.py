"""The guide's worked example of a sixth task: one module, one line, one experiment file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.models.text_models import WORDS, save_encoder

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "vectoruniverse" / "guide" / "code.md").read_text(encoding="utf-8")


def block(language: str, holding: str) -> str:
    """The guide's code block of a language that holds a text."""
    blocks = re.findall(rf"^( *)```{language}\n(.*?)^\1```", GUIDE, flags=re.DOTALL | re.MULTILINE)
    (found,) = [code for _, code in blocks if holding in code]
    return textwrap.dedent(found)


@pytest.fixture
def package(tmp_path):
    """A copy of the package with the example's folder and its lines in both tables."""
    room = tmp_path / "vectoruniverse"
    shutil.copytree(ROOT / "vectoruniverse", room)
    (room / "tasks" / "simcse").mkdir()
    (room / "tasks" / "simcse" / "__init__.py").touch()
    (room / "tasks" / "simcse" / "setup.py").write_text(block("python", "SimcseTask"), encoding="utf-8")
    settings, task = re.findall(r'`("simcse": \w+,)`', GUIDE)
    (loaded,) = re.findall(r"`(from \S+ import setup as simcse)`", GUIDE)
    add_line(room / "tasks" / "experiments.py", settings)
    add_line(room / "tasks" / "table.py", task, loaded)
    return tmp_path


def add_line(table, line, loaded=""):
    text = table.read_text(encoding="utf-8")
    assert text.count("\n}\n") == 1
    text = text.replace("from __future__ import annotations\n", f"from __future__ import annotations\n\n{loaded}\n", 1)
    table.write_text(text.replace("\n}\n", f"\n    {line}\n}}\n"), encoding="utf-8")


def test_the_example_trains_and_is_evaluated(package):
    bert = save_encoder(package / "bert", "bert")
    rows = [f"{a} {b},{b} {a} {c}" for a, b, c in zip(WORDS, WORDS[1:], WORDS[2:], strict=False)]
    table = package / "pairs.csv"
    table.write_text("\n".join(["name,alias", *rows]), encoding="utf-8")
    (package / "simcse.yaml").write_text(block("yaml", "task: simcse"), encoding="utf-8")
    settings = [
        f"model={bert}",
        f"data.file={table}",
        "train.batch_size=4",
        "train.precision=fp32",
        "wandb.mode=disabled",
    ]
    told = subprocess.run(
        [sys.executable, "-m", "vectoruniverse.cli", "train", "--config", "./simcse.yaml", "--json", "--quiet"]
        + [word for one in settings for word in ("--set", one)],
        cwd=package,
        env=os.environ | {"PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    outcome = json.loads(told.stdout)
    assert 0.0 <= outcome["adapted"]["recall@5"] <= 1.0
    assert (Path(package / outcome["run"]) / "adapter" / "adapter_config.json").is_file()
