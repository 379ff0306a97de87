"""``vu export`` as a person meets it: output, exit code, and what reaches a hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from tests.export.hub import running_hub
from tests.export.runs import train_shapes
from vectoruniverse.cli.exports import export

app = typer.Typer()
app.command("export")(export)
app.callback()(lambda: None)


def vu(*arguments):
    """The command in this process."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["export", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    return train_shapes(tmp_path_factory.mktemp("cli"), shapes)


@pytest.fixture(scope="module")
def built_in(shapes, tmp_path_factory):
    return train_shapes(tmp_path_factory.mktemp("cli"), shapes, "tiny-clip")


def test_an_export_tells_where_it_is_and_how_far_it_agrees(run, tmp_path):
    done = vu(run, "--to", "transformers", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert f"transformers in {tmp_path / 'out'}:" in done.stdout
    assert "checked with transformers" in done.stderr and "1e-05 allowed" in done.stderr
    record = json.loads(vu(run.name, "--runs-dir", run.parent, "--to", "transformers", "--json", "-q").stdout)
    assert record["folder"] == str(run / "export" / "transformers")
    assert record["largest_difference"]["image"] <= 1e-5
    assert "model.safetensors" in record["files"] and record["pushed"] is None


def test_mistakes_are_told_in_a_line_or_two(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (tmp_path / "mine").mkdir()
    cases = [
        (("nothing", "--to", "peft"), "no run"),
        ((run, "--to", "gguf"), "no format 'gguf'"),
        ((run, "--to", "peft", "--out", tmp_path / "mine"), "is there already"),
        ((run, "--to", "peft", "--dry-run"), "--dry-run goes with --push"),
        ((run, "--to", "peft", "--push", "no name"), "is no name of a repository"),
        ((run, "--to", "peft", "--push", "me/../you"), "is no name of a repository"),
        ((run, "--to", "transformers", "--push", "me/my-clip"), "there is no token"),
        ((run, "--to", "peft", "--push", "me/my-clip", "--dry-run"), "a folder of this machine"),
    ]
    for arguments, says in cases:
        done = vu(*arguments)
        assert done.exit_code == 2, arguments
        assert says in done.stderr and len(done.stderr.splitlines()) <= 2
        assert done.stdout == ""


def test_a_dry_run_lists_what_would_be_uploaded(built_in, tmp_path):
    done = vu(built_in, "--to", "peft", "--out", tmp_path / "out", "--push", "me/my-clip", "--dry-run")
    assert done.exit_code == 0, done.stderr
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors", "base/config.json"} <= listed
    assert listed == {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    assert not listed & {"metrics.jsonl", "config.yaml", "environment.json", "state.json"}
    assert 'snapshot_download("me/my-clip")' in (tmp_path / "out" / "README.md").read_text()


def python(code, hub):
    """A process of its own, since the hub's library reads its address when it is imported."""
    to_hub = {
        "HF_ENDPOINT": hub.address,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "hf_not_a_real_one",
    }
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **to_hub}, capture_output=True, text=True, check=False
    )


def test_a_push_sends_the_export_and_nothing_else_and_says_what_went_wrong(built_in, tmp_path):
    out = tmp_path / "out"
    arguments = ["export", str(built_in), "--to", "peft", "--out", str(out), "--push", "me/my-clip"]
    again = (
        "from pathlib import Path; from vectoruniverse.export.push import PushError, push\n"
        f"try: push(Path({str(out)!r}), 'me/my-clip')\n"
        "except PushError as error: print(error)"
    )
    with running_hub() as hub:
        done = python(f"import tests.cli.test_exports as t; t.app({arguments!r})", hub)
        assert done.returncode == 0, done.stderr
        assert f"uploaded to {hub.address}/me/my-clip" in done.stdout
        (asked,) = hub.created
        assert asked["name"] == "my-clip" and asked["organization"] == "me"
        assert asked.get("private") is True or asked.get("visibility") == "private"
        assert hub.tokens == {"Bearer hf_not_a_real_one"}
        sent = {name: content for name, content in hub.files.items() if name != ".gitattributes"}
        assert sent == {
            path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()
        }

        (out / "secret.txt").write_text("laid beside it later")
        hub.files.clear()
        assert python(again, hub).stdout == ""
        assert "README.md" in hub.files and "secret.txt" not in hub.files

        hub.refuses = True
        assert "the hub did not take it" in python(again, hub).stdout
    assert "the hub did not take it" in python(again, hub).stdout, "nobody answers any more"


def test_a_package_that_is_absent_is_told_before_anything_is_loaded():
    code = (
        "import sys\n"
        "sys.modules['onnxscript'] = None\n"
        "from vectoruniverse.cli import app\n"
        "try: app(['export', 'latest', '--to', 'onnx'])\n"
        "except SystemExit as left: print(left.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"
    assert "--to onnx needs onnxscript" in done.stderr and "pip install 'vectoruniverse[onnx]'" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_a_run_of_texts_is_told_that_export_is_not_for_it(tmp_path):
    run = tmp_path / "runs" / "words-20260101-1200-abcd"
    (run / "adapter").mkdir(parents=True)
    (run / "adapter" / "adapter_config.json").write_text("{}")
    (run / "state.json").write_text('{"state": "finished"}')
    texts = "name: words\ntask: text_pairs\nmodel: m\ndata: {file: pairs.csv}\n"
    (run / "config.yaml").write_text(texts)
    done = vu(run, "--to", "peft")
    assert done.exit_code == 2
    assert "vu export serves task image_text; words is of task text_pairs" in done.stderr
