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
from tests.tracking.wandb_file import read_wandb

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


OWN_METRIC = """
_evaluate = TextPairsTask.evaluate


def evaluate(self, split="val"):
    found = _evaluate(self, split)
    return replace(found, metrics={**found.metrics, "own_error/long": 0.25})


TextPairsTask.evaluate = evaluate
"""


@pytest.fixture
def own_metric(package):
    """A metric that the example's task declares in its folder, and reports."""
    room = package / "vectoruniverse" / "tasks"
    declared = 'METRICS = (Metric("own_error/*", "own error of {} rows", "lower", "share"),)'
    code = f"from vectoruniverse.metrics.catalogue import Metric\n\n{declared}\n"
    (room / "simcse" / "metrics.py").write_text(code, encoding="utf-8")
    with (room / "simcse" / "setup.py").open("a", encoding="utf-8") as file:
        file.write(OWN_METRIC)
    table = (room / "__init__.py").read_text(encoding="utf-8")
    table = table.replace(
        "for metrics in (", "from vectoruniverse.tasks.simcse.metrics import METRICS\n\nfor metrics in (METRICS, "
    )
    (room / "__init__.py").write_text(table, encoding="utf-8")
    return "own error of long rows"


def vu(package, *words):
    """What a command of the copied package prints."""
    told = subprocess.run(
        [sys.executable, "-m", "vectoruniverse.cli", *words],
        cwd=package,
        env=os.environ | {"PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_the_example_trains_and_is_evaluated_and_what_it_reports_of_its_own_is_told_everywhere(package, own_metric):
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
        "wandb.mode=offline",
    ]
    words = [word for one in settings for word in ("--set", one)]
    outcome = json.loads(vu(package, "train", "--config", "./simcse.yaml", "--json", "--quiet", *words))
    assert 0.0 <= outcome["adapted"]["recall@5"] <= 1.0
    run = Path(package / outcome["run"])
    assert (run / "adapter" / "adapter_config.json").is_file()
    assert outcome["adapted"]["own_error/long"] == 0.25
    for told in (
        (run / "README.md").read_text(encoding="utf-8"),
        (run / "report.html").read_text(encoding="utf-8"),
        vu(package, "eval", str(run)),
    ):
        assert f"{own_metric} ↓" in told
    summary = json.dumps(read_wandb(run).summary())
    assert "best/own_error/long" in summary and "val/own_error/long" in summary
