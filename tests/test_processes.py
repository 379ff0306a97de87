"""One run on several processes, for real over gloo: the loss, the gradient and the curve are those of one process."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.models.models import save_clip
from tests.models.text_models import save_encoder
from tests.processes import start
from tests.tasks.test_masked_lm import DOCUMENTS, make_task
from vectoruniverse import processes
from vectoruniverse.losses.contrastive import alignment_anisotropy, info_nce, siglip
from vectoruniverse.losses.label_kl import label_kl
from vectoruniverse.losses.negatives import Relations
from vectoruniverse.models.wordpiece import train_wordpiece
from vectoruniverse.runs.listing import list_runs
from vectoruniverse.training.shares import whole_step
from vectoruniverse.training.task import StepLoss

_FORKS = multiprocessing.get_context("forkserver")
ROWS, WIDTH = 11, 6
"""Rows that neither 2 nor 3 nor 4 processes share evenly."""


def places(count):
    """The environment of each of several processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def on(count, work, *arguments):
    """What ``work`` gives in each of several processes."""
    queue = _FORKS.SimpleQueue()
    started = [_FORKS.Process(target=_work, args=(place, queue, work, arguments)) for place in places(count)]
    for process in started:
        process.start()
    found = dict(queue.get() for _ in started)
    for process in started:
        process.join(60)
        assert process.exitcode == 0
    return [found[str(rank)] for rank in range(count)]


def _work(place, queue, work, arguments):
    os.environ.update(place)
    torch.set_num_threads(1)
    with processes.joined():
        queue.put((place["RANK"], work(*arguments)))


def relations(use):
    """Rows of which some share a text, and labels."""
    if use is None:
        return Relations.strangers(ROWS)
    generator = torch.Generator().manual_seed(1)
    text = torch.full((ROWS, 1), -1)
    text[[2, 7], 0] = 5
    labels = torch.rand(ROWS, 4, generator=generator) < 0.4
    return Relations(torch.arange(ROWS), text, labels, use)


LOSSES = {
    "linear": lambda views, among: alignment_anisotropy(views, among, form="linear", temperature=0.1),
    "log_sum_exp": lambda views, among: alignment_anisotropy(views, among, form="log_sum_exp", temperature=0.1),
    "symmetric": lambda views, among: alignment_anisotropy(
        views, among, form="log_sum_exp", temperature=0.1, symmetric=True, anisotropy_pairs=("II", "IT", "TT+")
    ),
    "info_nce": lambda views, among: info_nce(views, among, logit_scale=20.0, pairs=("IT", "I+T", "II+")),
    "siglip": lambda views, among: siglip(views, among, logit_scale=20.0, logit_bias=-5.0),
    "label_kl": lambda views, among: label_kl(
        torch.stack([views["I"], views["T"]]),
        torch.eye(WIDTH, dtype=torch.float64)[:4],
        relations("mask").labels,
        weight=0.5,
        kernel="rbf",
        bandwidth=None,
        temperature=0.2,
        direction="forward",
        smoothing=0.1,
    ),
}
USES = (None, "off", "mask", "positive", "soft")


def share_of(name, use):
    """Value, parts, chance and the gradient of own rows, of a loss of random rows."""
    generator = torch.Generator().manual_seed(0)
    mine = processes.own(ROWS)
    views = {}
    for view in ("I", "I+", "T", "T+"):
        rows = torch.nn.functional.normalize(torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64), dim=1)
        views[view] = rows[mine].requires_grad_()
    value = LOSSES[name](views, relations(use))
    value.total.backward()
    gradients = {view: (0 * rows if rows.grad is None else rows.grad).tolist() for view, rows in views.items()}
    return value.total.item(), {part: float(one) for part, one in value.parts.items()}, value.chance, gradients


def every_share():
    return {(name, use): share_of(name, use) for name in LOSSES for use in USES}


@pytest.mark.parametrize("count", [2, 4])
def test_shares_of_every_loss_add_up_to_that_of_one_process_and_so_do_gradients(count):
    shares = on(count, every_share)
    for case, (total, parts, chance, gradients) in every_share().items():
        theirs = [share[case] for share in shares]
        assert sum(one[0] for one in theirs) == pytest.approx(total, abs=1e-12), case
        for part, value in parts.items():
            assert sum(one[1][part] for one in theirs) == pytest.approx(value, abs=1e-12), case
        assert all(one[2] == chance for one in theirs), "chance is a number, which all know"
        for view, expected in gradients.items():
            found = torch.tensor([row for one in theirs for row in one[3][view]], dtype=torch.float64)
            torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def traffic():
    """Numbers that the linear form hands over for one pair kind, there and back."""
    import torch.distributed as dist

    sent, reduce = [], dist.all_reduce
    dist.all_reduce = lambda values, *rest: (sent.append(values.numel()), reduce(values, *rest))[1]
    dist.all_gather = None  # nobody needs it
    rows = torch.randn(processes.own(64).stop - processes.own(64).start, WIDTH, requires_grad=True)
    alignment_anisotropy(
        {"I": rows, "T": rows + 1.0},
        Relations.strangers(64),
        form="linear",
        temperature=0.1,
        alignment_pairs=("IT",),
        anisotropy_pairs=("IT",),
    ).total.backward()
    return sum(sent)


def test_the_linear_form_exchanges_sums_of_vectors_and_no_rows():
    assert on(2, traffic) == [2 * WIDTH, 2 * WIDTH]


def exchanges():
    own = torch.arange(processes.own(5).start, processes.own(5).stop, dtype=torch.float32)[:, None]
    with processes.apart():
        alone = (processes.count(), processes.rank(), processes.summed(torch.ones(1)).item())
    return (
        processes.gathered(own, 5).flatten().tolist(),
        processes.collected(torch.full((processes.rank(),), 7.0)).tolist(),
        processes.told_by_first(f"ä from {processes.rank()}" if processes.rank() == 0 else "no"),
        processes.told_by_first(""),
        alone,
    )


def test_rows_texts_and_sums_come_to_all_and_a_process_may_work_for_itself():
    for found in on(3, exchanges):
        assert found == ([0.0, 1.0, 2.0, 3.0, 4.0], [7.0] * 3, "ä from 0", "", (1, 0, 1.0))


def ways_back():
    """Gradients of a row that others read, of one that shares its gradient with it, and of what no loss reads."""
    part, beside, unread = (torch.nn.Parameter(torch.ones(1)) for _ in range(3))
    (processes.gathered(part, 2) + torch.cat([beside, beside])).sum().backward()
    (*_, decided) = processes.of_first(torch.tensor([0, 10 + processes.rank()])).tolist()
    own = beside.grad.item()
    loss, raised = whole_step(
        StepLoss(torch.tensor(2.0), {"part": torch.tensor(0.5)}, chance=torch.tensor(1.0)),
        [part, unread, beside],
        flag=processes.rank() == 1,
    )
    numbers = [loss.total.item(), loss.parts["part"].item(), loss.chance.item(), raised.item()]
    return part.grad.item(), own, beside.grad.item(), unread.grad, decided, numbers


def test_a_step_sums_gradients_once_each_and_leaves_alone_what_no_loss_reads():
    assert on(2, ways_back) == [(4.0, 2.0, 4.0, None, 10, [4.0, 1.0, 2.0, 1.0])] * 2


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def config(shapes, clip, tmp_path):
    def write(**sections):
        base = {
            "name": "shapes",
            "task": "image_text",
            "model": str(clip),
            "data": {"root": str(shapes), "split": {"val_fraction": 0.25, "test_fraction": 0.2}},
            "adapter": {"method": "lora", "rank": 2},
            "train": {"epochs": 2, "batch_size": 9, "lr": 0.01, "precision": "fp32", "device": "cpu", "log_every": 1},
            "eval": {"report": False, "rivals": False},
            "wandb": {"mode": "disabled"},
        }
        file = tmp_path / "shapes.yaml"
        merged = {key: {**base.get(key, {}), **section} for key, section in sections.items()}
        file.write_text(yaml.safe_dump({**base, **merged}), encoding="utf-8")
        return str(file)

    return write


def train(count, file, runs, monkeypatch, *, expect=0):
    """Train on so many processes, as torchrun starts them; gives the run, and what was said."""
    children = []
    for place in places(count) if count > 1 else [{}]:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in place.items():
            monkeypatch.setenv(name, value)
        said = runs.parent / f"said-{runs.name}-{place.get('RANK', 0)}"
        children.append(start("train", "-c", file, "--runs-dir", str(runs), folder=said))
    codes = [child.wait(120) for child in children]
    assert codes == [expect] * count, [child.err.read_text()[-2000:] for child in children]
    return children


def curve(runs):
    (summary,) = list_runs(runs)
    lines = [json.loads(line) for line in summary.run.metrics_file.read_text().splitlines()]
    left_out = ("seconds", "train/pairs_per_second")
    return summary.run, [{name: value for name, value in line.items() if name not in left_out} for line in lines]


def assert_same_run(ours, theirs, tolerance=2e-4):
    (run, found), (whole, expected) = ours, theirs
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    for line, other in zip(found, expected, strict=True):
        for name, value in line.items():
            assert value == pytest.approx(other[name], rel=1e-3, abs=1e-4), (name, line["step"])
    for name, values in load_file(next((whole.path / "adapter").glob("*.safetensors"))).items():
        mine = load_file(next((run.path / "adapter").glob("*.safetensors")))[name]
        torch.testing.assert_close(mine, values, rtol=1e-2, atol=tolerance)
    assert run.read_evaluation().adapted == pytest.approx(whole.read_evaluation().adapted, rel=1e-2, abs=1e-3)


VARIANTS = {
    "labels, hard negatives, micro-batches": {
        "loss": {"name": "info_nce", "negatives": {"labels": "positive"}, "label_kl": {"weight": 0.1}},
        "views": {"count": 2},
        "train": {"micro_batch": 2},
    },
    "linear": {"loss": {"name": "alignment_anisotropy", "form": "linear"}, "views": {"count": 2}},
    "a kept trunk, mined batches, early stopping": {
        "adapter": {"method": "lora", "rank": 2, "vision_layers_to_transform": [1], "text_layers_to_transform": [1]},
        "views": {"pool": 2},
        "train": {"hard_negatives": {"share": 0.5}, "early_stopping": 1},
    },
    "old rows, pictures decoded as they are read": {
        "loss": {"name": "siglip", "temperature": 0.1, "bias": -5.0},
        "train": {"preserve": {"weight": 0.5, "rows": 3}},
        "data": {"include": {"Category": ["circle"]}, "store": "off"},
        "forgetting": {"exclude": {"Category": ["circle"]}},
    },
}


@pytest.mark.parametrize("variant", [v if v != "linear" else pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS])
def test_a_training_on_two_processes_is_that_of_one(variant, config, tmp_path, monkeypatch):
    file = config(**VARIANTS[variant])
    train(1, file, tmp_path / "one", monkeypatch)
    first, second = train(2, file, tmp_path / "two", monkeypatch)
    assert "recall@5" in first.out.read_text() and not second.out.read_text() and not second.err.read_text()
    assert_same_run(curve(tmp_path / "two"), curve(tmp_path / "one"))
    again, _ = train(2, file, tmp_path / "two", monkeypatch)
    assert "finished" in again.out.read_text() and len(list_runs(tmp_path / "two")) == 1


@pytest.fixture
def texts(tmp_path):
    """Experiment files of the text tasks, on a table of shapes."""
    table = tmp_path / "texts.csv"
    rows = [
        (f"a {colour} {shape} {i}", f"{shape} {colour} {i}", colour)
        for colour in ("red", "blue")
        for shape in ("circle", "square")
        for i in range(8)
    ]
    table.write_text(
        "\n".join(",".join(row) for row in [("first", "second", "colour"), *rows]) + "\n", encoding="utf-8"
    )
    documents = tmp_path / "documents.csv"
    sentences = [f"There is {first}. Here is the {second}. It is {colour}." for first, second, colour in rows]
    documents.write_text("\n".join(["text", *sentences]) + "\n", encoding="utf-8")
    bert = str(save_encoder(tmp_path / "bert", "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    train = {"epochs": 2, "batch_size": 7, "lr": 0.01, "precision": "fp32", "device": "cpu", "log_every": 1}
    shared = {"model": bert, "train": train, "wandb": {"mode": "disabled"}, "eval": {"report": False}}
    tasks = {
        "text_pairs": {"data": {"file": str(table), "first": "first", "second": "second"}},
        "sequence_classification": {
            "data": {"file": str(table), "text": "first", "label": "colour"},
            "adapter": {"method": "lora", "rank": 2},
            "head": {"dropout": 0.0},
            "loss": {"l2": 0.001, "balanced": True},
        },
        "masked_lm": {
            "data": {"source": str(documents), "column": "text"},
            "model": {
                "scratch": "bert",
                "vocab_size": 120,
                "width": 16,
                "layers": 1,
                "heads": 2,
                "intermediate": 32,
                "max_text_tokens": 16,
                "dropout": 0.0,
            },
            "adapter": {"method": "full"},
        },
    }

    def write(task):
        file = tmp_path / f"{task}.yaml"
        file.write_text(yaml.safe_dump({"name": "texts", "task": task, **shared, **tasks[task]}), encoding="utf-8")
        return str(file)

    return write


@pytest.mark.parametrize(
    "task", ["text_pairs", "masked_lm", pytest.param("sequence_classification", marks=pytest.mark.slow)]
)
def test_text_tasks_on_two_processes_are_those_of_one(task, texts, tmp_path, monkeypatch):
    file = texts(task)
    train(1, file, tmp_path / "one", monkeypatch)
    train(2, file, tmp_path / "two", monkeypatch)
    assert_same_run(curve(tmp_path / "two"), curve(tmp_path / "one"), tolerance=2e-3)


def test_a_run_goes_on_with_another_number_of_processes(config, tmp_path, monkeypatch):
    long = {"epochs": 30, "batch_size": 9, "lr": 0.003, "precision": "fp32", "device": "cpu", "log_every": 1}
    file, runs = config(train=long), tmp_path / "two"
    children = []
    for place in places(2):
        for name, value in place.items():
            monkeypatch.setenv(name, value)
        children.append(start("train", "-c", file, "--runs-dir", str(runs), folder=tmp_path / f"cut-{place['RANK']}"))
    for _ in range(2400):
        found = list(runs.glob("*/metrics.jsonl"))
        if found and found[0].read_text().count('"epoch"') >= 3:
            break
        time.sleep(0.025)
    children[1].send_signal(signal.SIGTERM)  # of one process, and all end after the same step
    codes = [child.wait(120) for child in children]
    assert set(codes) <= {130, 143}, [child.err.read_text()[-2000:] for child in children]
    (summary,) = list_runs(runs)
    assert summary.state == "interrupted"
    train(1, file, runs, monkeypatch)
    train(1, file, tmp_path / "one", monkeypatch)
    assert_same_run(curve(runs), curve(tmp_path / "one"), tolerance=2e-3)
    assert len(list_runs(runs)) == 1


def test_a_batch_that_leaves_a_process_without_rows_is_refused_in_one_message(config, tmp_path, monkeypatch):
    small = {"epochs": 1, "batch_size": 2, "device": "cpu", "precision": "fp32"}
    children = train(3, config(train=small), tmp_path / "runs", monkeypatch, expect=2)
    assert "train.batch_size" in children[0].err.read_text() and "Traceback" not in children[0].err.read_text()


def test_what_is_for_one_process_says_so(config, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    file = config()
    for arguments in (("sweep-rank", "-c", file), ("eval", "latest"), ("train", "-c", file, "--dry-run")):
        child = start(*arguments, folder=tmp_path / "said")
        assert child.wait(60) == 2 and "for one process" in child.err.read_text()


def begun(count, file, runs, monkeypatch, **differently):
    """So many processes, of which the last has a surrounding of its own."""
    children = []
    for place in places(count):
        for name, value in (place | (differently if place["RANK"] == str(count - 1) else {})).items():
            monkeypatch.setenv(name, value)
        said = runs.parent / f"begun-{place['RANK']}"
        children.append(start("train", "-c", file, "--runs-dir", str(runs), folder=said))
    return children


def test_a_process_that_is_killed_ends_the_others_and_the_same_command_goes_on(config, tmp_path, monkeypatch):
    long = {"epochs": 30, "lr": 0.003}
    file, runs = config(train=long), tmp_path / "two"
    children = begun(2, file, runs, monkeypatch)
    for _ in range(2400):
        if any(text.read_text().count('"epoch"') >= 3 for text in runs.glob("*/metrics.jsonl")):
            break
        time.sleep(0.025)
    children[1].send_signal(signal.SIGKILL)
    assert [child.wait(60) for child in children] == [5, -signal.SIGKILL]
    said = children[0].err.read_text()
    assert "another process of this run has ended" in said and "same command" in said and "Traceback" not in said
    train(2, file, runs, monkeypatch)
    train(1, file, tmp_path / "one", monkeypatch)
    assert_same_run(curve(runs), curve(tmp_path / "one"), tolerance=2e-3)


def test_a_mistake_that_one_process_alone_meets_is_told_by_the_first(config, tmp_path, monkeypatch):
    children = begun(2, config(), tmp_path / "runs", monkeypatch, VU_CACHE="/proc/none")
    codes = [child.wait(60) for child in children]
    assert codes[1] == 2 and codes[0] == 5
    said = children[0].err.read_text()
    assert "process 1: " in said and "/proc/none" in said and "Traceback" not in said


KILLED_ONCE = """
import os, signal, torch
from vectoruniverse import processes
with processes.joined():
    processes.summed(torch.ones(1))
    if (os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"]) == ("0", "1"):
        os.kill(os.getpid(), signal.SIGKILL)
    print(processes.summed(torch.ones(1)).item(), flush=True)
"""


def scored():
    """Rows that this process passes to score all, and what all of them make."""
    task = make_task(train_wordpiece((s for d in DOCUMENTS for s in d), 300, lowercase=True, max_tokens=32))
    passed, predict = [], task.predict

    def counted(batch):
        passed.append(len(batch.ids))
        return predict(batch)

    task.predict = counted
    found = task.evaluate()
    return sum(passed), found.metrics, {name: values.tolist() for name, values in found.per_query.items()}


@pytest.mark.parametrize("count", [2, 3])
def test_pre_training_is_scored_in_stretches_of_rows_none_twice_and_none_left_out(count):
    rows, metrics, per_row = scored()
    shares = on(count, scored)
    assert sum(share[0] for share in shares) == rows
    assert max(share[0] for share in shares) == -(-rows // count)
    for _, theirs, values in shares:
        assert theirs == pytest.approx(metrics, rel=1e-5)
        assert values.keys() == per_row.keys()
        for name, each in values.items():
            assert each == pytest.approx(per_row[name], rel=1e-4, abs=1e-5, nan_ok=True), name


@pytest.mark.slow  # seconds of waiting for ports, more on a busy machine
def test_processes_that_torchrun_starts_again_meet_again(tmp_path):
    script = tmp_path / "killed_once.py"
    script.write_text(KILLED_ONCE, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    done = subprocess.run([*command, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and done.stdout.split() == ["2.0", "2.0"], done.stderr[-2000:]
