"""The sweep for wandb agent, made and run by wandb's own commands against a server on the loopback."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from tests.cli.test_runs import vu
from tests.tracking.agents import serving_sweeps, settings_of
from tests.tracking.conftest import WELL_FORMED_KEY, lonely_wandb  # noqa: F401  (fixture)
from vectoruniverse.runs.listing import list_runs
from vectoruniverse.tasks.experiments import load_experiment

TRAIN = {"epochs": 1, "batch_size": 8, "lr": 0.01, "precision": "fp32", "device": "cpu"}


def wandb(*arguments: str, cwd: Path, address: str) -> str:
    """One of wandb's commands, with `vu` on the path."""
    (cwd / "bin").mkdir(exist_ok=True)
    script = cwd / "bin" / "vu"
    script.write_text(f"#!{sys.executable}\nfrom vectoruniverse.cli import main\nmain()\n", encoding="utf-8")
    script.chmod(0o755)
    known = {"WANDB_BASE_URL": address, "WANDB_API_KEY": WELL_FORMED_KEY, "PATH": f"{cwd / 'bin'}:{os.environ['PATH']}"}
    root = {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-P", "-m", "wandb", *arguments]
    done = subprocess.run(command, cwd=cwd, env=os.environ | known | root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.usefixtures("lonely_wandb")
def test_wandb_makes_the_sweep_and_its_agent_trains_its_cells(config, tmp_path):
    file = config(train=TRAIN, wandb={"mode": "disabled"}, eval={"report": False})
    options = ("--ranks", "4,2", "--alpha", "proportional:2", "--set", "train.lr=7e-3")
    said = vu("sweep-rank", "-c", file, *options, "--wandb-sweep", "swept.yaml", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert not (tmp_path / "runs").exists(), "nothing is trained"
    with serving_sweeps() as server:
        made = wandb("sweep", "swept.yaml", cwd=tmp_path, address=server.address)
        (sweep,) = re.findall(r"wandb agent (\S+)", made)
        assert server.sweep["metric"] == {"name": "val/recall@5", "goal": "maximize"}
        assert len(server.waiting) == 2
        wandb("agent", "--count", "1", sweep, cwd=tmp_path, address=server.address)  # cells take seconds to start
        assert list(server.runs) == ["given0"], "the run is the one that the sweep waits for"
        told = settings_of(server.runs["given0"])
        assert (told["adapter"]["rank"], told["adapter"]["alpha"], told["train"]["lr"]) == (4, 8.0, 7e-3)
        assert told["adapter.rank"] == 4, "the sweep's own parameter"
        assert server.runs["given0"]["sweep"] == "swept"
        assert any("val/recall@5" in row for row in server.histories["given0"])
    (trained,) = list_runs(tmp_path / "runs")
    assert trained.state == "finished"
    assert load_experiment(trained.run.config_file).adapter.alpha == 8.0


def cells_of(file: Path) -> list[list[str]]:
    """Arguments of `vu` for each cell, from wandb's own code for an agent's command."""
    sweep = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert sweep["method"] == "grid" and sweep["program"] == "vu"
    found: list[list[str]] = []
    combinations: list[dict[str, object]] = [{}]
    for key, choice in sweep["parameters"].items():
        combinations = [one | {key: {"value": value}} for one in combinations for value in choice["values"]]
    for one in combinations:
        macros = create_sweep_command_args({"args": one}) | {"env": ["/usr/bin/env"], "program": [sweep["program"]]}
        command: list[str] = []
        for word in create_sweep_command(sweep["command"]):
            command += macros[word[2:-1]] if word.startswith("${") and word.endswith("}") else [word]
        assert command[:2] == ["/usr/bin/env", "vu"]
        found.append(command[2:])
    return found


def resolved(monkeypatch, arguments, cwd):
    """The experiment that `vu train` starts with these arguments; it is not trained."""
    started = []
    monkeypatch.setattr("vectoruniverse.planning.dry_run", lambda experiment, display: started.append(experiment))
    monkeypatch.setattr("vectoruniverse.cli.train._print_plan", lambda plan, as_json: None)
    done = vu(*arguments, "--dry-run", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return started[0]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("fixed", [(1, 16.0, False), (4, 16.0, False)]),
        ("proportional:0.3", [(1, 0.3, False), (4, 1.2, False)]),
        ("rank-stabilized", [(1, 16.0, True), (4, 16.0, True)]),
        ("auto", [(1, 2.0, False), (4, 8.0, False)]),
    ],
)
def test_an_agent_s_cells_are_those_of_the_sweep_itself(policy, expected, config, tmp_path, monkeypatch):
    from vectoruniverse.sweep.grid import Over, make_grid

    file = config(adapter={"method": "lora", "rank": 8, "alpha": 16.0})
    options = ("--ranks", "1,4", "--seeds", "3,5", "--alpha", policy, "--wandb-sweep", "swept.yaml")
    assert vu("sweep-rank", "-c", file, *options, cwd=tmp_path).returncode == 0
    started = [resolved(monkeypatch, cell, tmp_path) for cell in cells_of(tmp_path / "swept.yaml")]
    settings = [(one.adapter.rank, one.adapter.alpha, one.adapter.rank_stabilized) for one in started if one.seed == 3]
    assert settings == expected
    grid = make_grid(file, [], [Over("adapter.rank", (1, 4))], (3, 5), policy)
    ours = {(cell.seed, cell.values["adapter.rank"]): cell.experiment for cell in grid.cells}
    for one in started:
        same = ours[one.seed, one.adapter.rank]
        assert (one.adapter, one.train, one.loss, one.data) == (same.adapter, same.train, same.loss, same.data)
        assert one.wandb.mode == "online"


def test_values_of_every_kind_reach_the_cell_as_they_are(config, tmp_path, monkeypatch):
    over = (
        "adapter.text_targets=[],[q_proj, v_proj]",
        "train.clip_grad_norm=1e-3,null",
        'data.text="{title}","a, {title}"',
    )
    options = [word for one in over for word in ("--over", one)]
    settings = ("--set", 'data.label_separator=" : "', "--runs-dir", "my runs", "--wandb-sweep", "swept.yaml")
    assert vu("sweep", "-c", config(), *options, *settings, cwd=tmp_path).returncode == 0
    cells = cells_of(tmp_path / "swept.yaml")
    assert len(cells) == 8 and all("my runs" in cell for cell in cells)
    started = [resolved(monkeypatch, cell, tmp_path) for cell in cells]
    assert [(one.adapter.text_targets, one.train.clip_grad_norm, one.data.text) for one in started[:5:4]] == [
        ([], 0.001, "{title}"), (["q_proj", "v_proj"], 0.001, "{title}")
    ]  # fmt: skip
    assert started[3].train.clip_grad_norm is None and started[3].data.text == "a, {title}"
    assert {one.data.label_separator for one in started} == {" : "}


def test_project_and_entity_are_those_of_the_experiment(config, tmp_path, monkeypatch):
    for name in ("WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    for wandb_section, expected in [({"project": "p", "entity": "e"}, ("p", "e")), ({}, ("vectoruniverse", None))]:
        file = config(wandb=wandb_section)
        assert vu("sweep-rank", "-c", file, "--ranks", "1", "--wandb-sweep", "swept.yaml", cwd=tmp_path).returncode == 0
        sweep = yaml.safe_load((tmp_path / "swept.yaml").read_text(encoding="utf-8"))
        assert (sweep["project"], sweep.get("entity")) == expected


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--set", "data.text=${envvar:HOME} {title}"), "would replace what follows ${"),
        (("--out", "elsewhere"), "--out"),
        (("--wandb-sweep", "shapes.yaml"), "no sweep"),
        (("--wandb-sweep", "absent/swept.yaml"), "cannot be written"),
    ],
)
def test_what_cannot_be_is_told_and_nothing_is_written(options, says, config, tmp_path):
    file = config()
    before = Path(file).read_bytes()
    done = vu("sweep-rank", "-c", file, "--wandb-sweep", "swept.yaml", *options, cwd=tmp_path)
    assert done.returncode == 2 and says in done.stderr
    assert not (tmp_path / "swept.yaml").exists() and Path(file).read_bytes() == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--set-json", "[1]"), "not a JSON object"),
        (("--set-json", "[" * 100_000), "not a JSON object"),
        (("--set-json", '{"adapter.rnk": 1}'), "rnk"),
        (("--alpha-per-rank", "0"), "above 0"),
        (("--alpha-per-rank", "nan"), "above 0"),
        (("--alpha-per-rank", "2", "--set", "adapter.method=full"), "alpha"),
    ],
)
def test_bad_settings_from_a_program_are_told(options, says, config, tmp_path):
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    done = vu("train", "-c", config(adapter={}), *options, cwd=tmp_path)
    assert done.returncode == 2 and says in done.stderr
    assert not (tmp_path / "runs").exists()
