"""Scripts for Slurm and SkyPilot: what they say, and that bash, sbatch and sky read them."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
import yaml

from tests.cli.test_runs import vu


@pytest.fixture
def here(tmp_path, shapes):
    """A folder with an experiment file, whose pictures lie elsewhere."""
    settings = {"name": "shapes", "task": "image_text", "model": "tiny-clip", "data": {"root": str(shapes)}}
    (tmp_path / "shapes.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return tmp_path


def launch(here, *arguments):
    done = vu("launch", "--print", *arguments, cwd=here)
    assert done.returncode == 0, done.stderr
    return done.stdout


SWEEP = ("sweep-rank", "-c", "shapes.yaml", "--lrs", "fixed")


def run_script(text, folder, *, code, **variables):
    """Run a batch script with a ``srun`` that tells its arguments and leaves with a code, and a ``scontrol``."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name, does in (("srun", f'printf "%s\\n" "$@" > "{folder}/srun"; exit {code}'), ("scontrol", "echo $@")):
        (tools / name).write_text(f"#!/bin/bash\n{does}\n")
        (tools / name).chmod(0o755)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", **variables}
    done = subprocess.run(["bash"], input=text, env=environment, capture_output=True, text=True, timeout=60)
    return done, (folder / "srun").read_text().splitlines()


def test_a_job_whose_training_was_interrupted_asks_to_be_queued_again_and_others_do_not(here):
    text = launch(here, "slurm", "--gpu", "V100", "--time", "4h", "train", "-c", "shapes.yaml")
    assert "#SBATCH --time=04:00:00" in text and "#SBATCH --gpus-per-node=V100:1" in text
    assert "#SBATCH --signal=USR1@120" in text and "#SBATCH --requeue" in text
    for code, again in ((138, True), (143, True), (129, True), (75, True), (0, False), (2, False), (4, False)):
        done, _ = run_script(text, here, code=code)
        assert done.returncode == code and done.stdout == ("requeue 7\n" if again else ""), done.stderr


def test_elements_of_an_array_train_their_parts_and_the_same_script_answers(here):
    text = launch(here, "slurm", "--parts", "7", *SWEEP)
    assert "--array=0-6" in text and "--dependency=afterok" in text
    inside = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "5"}
    done, element = run_script(text, here, code=138, **inside)
    assert done.stdout == "requeue 5_3\n"
    _, answer = run_script(text, here, code=0)
    assert element[-2:] == ["--part", "3/7"] and element[:-2] == answer
    assert answer[2:] == list(SWEEP) and answer[1].endswith("/vu")


def test_a_training_has_a_process_on_every_gpu_of_every_machine(here):
    text = launch(here, "slurm", "--gpus", "4", "--nodes", "2", "train", "-c", "shapes.yaml")
    assert "#SBATCH --ntasks-per-node=4" in text and "#SBATCH --nodes=2" in text
    _, arguments = run_script(text, here, code=0, SLURM_JOB_NODELIST="a[1-2]")
    *_, command = arguments
    assert "RANK=$SLURM_PROCID" in command and "WORLD_SIZE=$SLURM_NTASKS" in command and "exec " in command
    task = yaml.safe_load(launch(here, "skypilot", "--gpu", "V100", "--gpus", "8", "train", "-c", "shapes.yaml"))
    assert task["run"].startswith("torchrun ") and "-m vectoruniverse train -c shapes.yaml" in task["run"]


def test_a_skypilot_task_uploads_what_lies_elsewhere_and_recovers_by_exit_code(here, shapes):
    task = yaml.safe_load(
        launch(here, "skypilot", "--gpu", "V100", "train", "-c", "shapes.yaml", "-s", "train.lr=1e-3")
    )
    assert task["run"] == "vu train -c shapes.yaml -s train.lr=1e-3 --runs-dir /vu-runs"
    assert task["file_mounts"][str(shapes)] == str(shapes) and "/vu-runs" in task["file_mounts"]
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75, 129, 138, 143]
    assert task["resources"]["use_spot"] and task["workdir"] == str(here)


def test_names_that_a_shell_would_read_are_quoted(here):
    folder = here / "it's $(touch oops)"
    folder.mkdir()
    (here / "shapes.yaml").rename(folder / "a b.yaml")
    text = launch(folder, "slurm", "train", "-c", "a b.yaml")
    done, arguments = run_script(text, here, code=0)
    assert done.returncode == 0, done.stderr
    assert arguments[2:] == ["train", "-c", "a b.yaml"] and not list(here.rglob("oops"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("slurm", "runs"), "cannot be launched"),
        (("slurm", "train"), "only an experiment file"),
        (("slurm", "--parts", "2", "train", "-c", "shapes.yaml"), "has no parts"),
        (("slurm", "--gpus", "2", *SWEEP), "one GPU at a time"),
        (("slurm", "--time", "soon", *SWEEP), "--time"),
        (("skypilot", "--parts", "2", "--gpu", "V100", *SWEEP), "is of Slurm"),
        (("skypilot", "train", "-c", "shapes.yaml"), "--gpu V100"),
        (("skypilot", "--gpus", "0", "train", "-c", "shapes.yaml", "--runs-dir", "there"), "a bucket"),
        (("slurm", "train", "-c", "shapes.yaml", "--wrong"), "--wrong"),
        (("slurm", "train", "-c", "none.yaml"), "none.yaml"),
    ],
)
def test_what_cannot_be_launched_is_told(arguments, says, here):
    done = vu("launch", "--print", *arguments, cwd=here)
    assert done.returncode == 2 and says in done.stderr and not done.stdout


@pytest.mark.skipif(shutil.which("sbatch") is None, reason="Slurm is not installed")
def test_sbatch_knows_every_option(here):
    """Without a controller it fails only once all options have been read."""
    text = launch(here, "slurm", "--gpu", "V100", "--time", "4h", "--parts", "7", *SWEEP)
    configured = here / "slurm.conf"
    configured.write_text(
        "ClusterName=none\nSlurmctldHost=localhost\nSlurmctldPort=1\nMessageTimeout=1\nGresTypes=gpu\n"
    )
    done = subprocess.run(
        ["sbatch", "--array=0-6"],
        input=text,
        env={"SLURM_CONF": str(configured), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=here,
    )
    assert "unrecognized" not in done.stderr and "nvalid" not in done.stderr, done.stderr
    assert "Batch job submission failed" in done.stderr


def test_sky_reads_the_task(here):
    sky = pytest.importorskip("sky", reason="SkyPilot is not installed")
    task = sky.Task.from_yaml_str(launch(here, "skypilot", "--gpu", "V100", "train", "-c", "shapes.yaml"))
    assert task.num_nodes == 1
