"""Experiments load, overrides apply, and whatever is wrong is told with file, line and key."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vectoruniverse.config.loading import dump_experiment, find_config, fingerprint
from vectoruniverse.config.losses import AlignmentAnisotropyConfig, InfoNceConfig, SiglipConfig
from vectoruniverse.config.sections import ConstantConfig, CosineConfig
from vectoruniverse.config.strict_yaml import MAX_BYTES
from vectoruniverse.errors import ConfigError
from vectoruniverse.models.sizes import ScratchClip
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.image_text.settings import DataConfig

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(CONFIGS.rglob("*.yaml"))
# five lines: what a test adds begins on line 6
LEAST = "name: least\ntask: image_text\nmodel: tiny-clip\ndata:\n  root: data/openmoji\n"

LOSSES = ("alignment_anisotropy", "info_nce", "siglip", "none")

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "exp.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def told(path: Path, *overrides: str) -> list[str]:
    """The lines of the error, without the folder of the file."""
    with pytest.raises(ConfigError) as caught:
        load_experiment(path, overrides)
    return str(caught.value).replace(f"{path.parent}{os.sep}", "").splitlines()


def test_there_are_shipped_experiments() -> None:
    assert {path.name for path in SHIPPED} >= {"clip_lora_r8.yaml", "quickstart.yaml", "tiny_clip_pretrain.yaml"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_experiment_loads_and_begins_with_its_command(path: Path) -> None:
    experiment = load_experiment(path)
    first, second, *_ = path.read_text(encoding="utf-8").splitlines()
    assert re.match(rf"# vu (train|eval) --config {re.escape(str(path.relative_to(CONFIGS)))}( --set data\.|$)", first)
    assert experiment.name == path.stem
    schema = second.removeprefix("# yaml-language-server: $schema=")
    assert schema != second
    assert (path.parent / schema).resolve() == CONFIGS / "experiment.schema.json"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_written_experiment_loads_as_an_equal_one(path: Path, write: Write) -> None:
    experiment = load_experiment(path, ["train.lr=1e-05", "train.clip_grad_norm=null", "wandb.notes='no'"])
    again = load_experiment(write(dump_experiment(experiment)))
    assert again == experiment
    assert again.train.lr == 1e-05
    assert dump_experiment(again) == dump_experiment(experiment)


def test_written_experiment_spells_out_defaults(write: Write) -> None:
    text = dump_experiment(load_experiment(write(LEAST)))
    assert "batch_size: 128\n" in text
    assert "lr: 5.0e-05\n" in text
    assert "alignment_pairs: [II+, IT, I+T+, TT+]\n" in text


def test_overrides_speak_yaml(write: Write) -> None:
    experiment = load_experiment(
        write(LEAST + "train:\n  lr: 1e-4\n"),
        [
            "train.lr=1",
            "train.lr=7e-7",
            "eval.recall_at=[1, 5]",
            "model=path/with=equals",
            "data.include.Category=[Skin Tone]",
            "loss={name: info_nce, pairs: [IT]}",
            "views.count=1",
            "wandb.notes=no, or not",
            "train.clip_grad_norm=",
        ],
    )
    assert experiment.train.lr == 7e-7
    assert experiment.eval.recall_at == [1, 5]
    assert experiment.model == "path/with=equals"
    assert experiment.data.include == {"Category": ["Skin Tone"]}
    assert experiment.loss == InfoNceConfig(name="info_nce", pairs=["IT"])
    assert experiment.wandb.notes == "no, or not"
    assert experiment.train.clip_grad_norm is None


def test_override_reaches_into_a_section_of_the_file(write: Write) -> None:
    path = write(LEAST.replace("tiny-clip", "{scratch: clip, width: 64}") + "adapter: {method: full}\n")
    experiment = load_experiment(path, ["model.heads=4", "data.split.seed=7"])
    assert isinstance(experiment.model, ScratchClip)
    assert (experiment.model.width, experiment.model.heads) == (64, 4)
    assert (experiment.data.root, experiment.data.split.seed) == ("data/openmoji", 7)


def test_override_of_a_variant_that_the_file_leaves_to_its_default_starts_from_that(write: Write) -> None:
    path = write(LEAST)
    experiment = load_experiment(path, ["loss.temperature=0.1", "loss.form=linear", "train.schedule.warmup=0.1"])
    assert isinstance(experiment.loss, AlignmentAnisotropyConfig)
    assert (experiment.loss.temperature, experiment.loss.form) == (0.1, "linear")
    assert experiment.train.schedule == CosineConfig(name="cosine", warmup=0.1)
    other = load_experiment(path, ["loss.temperature=0.1", "loss.name=info_nce", "train.schedule.name=constant"])
    assert other.loss == InfoNceConfig(name="info_nce", temperature=0.1)
    in_file = load_experiment(write(LEAST + "loss: {name: siglip}\n"), ["loss.temperature=0.1"])
    assert in_file.loss == SiglipConfig(name="siglip", temperature=0.1)


LOSS = "loss: {name: alignment_anisotropy, form: linear, temperature: 0.2, alignment_pairs: [IT]}\n"
SCHEDULE = "train: {lr: 1e-3, schedule: {name: cosine_restarts, period: 30, warmup: 3}}\n"


@pytest.mark.parametrize("override", ["loss=info_nce", "loss.name=info_nce", "loss={name: info_nce}"])
def test_another_variant_begins_with_its_own_defaults_whatever_the_file_says_of_the_one_before(
    write: Write, override: str
) -> None:
    experiment = load_experiment(write(LEAST + LOSS + SCHEDULE), [override, "train.schedule.name=constant"])
    assert experiment.loss == InfoNceConfig(name="info_nce")
    assert experiment.train.schedule == ConstantConfig(name="constant")
    assert experiment.train.lr == 1e-3


def test_keys_that_are_set_beside_a_variant_stay_in_either_order(write: Write) -> None:
    path = write(LEAST + LOSS)
    for overrides in (["loss=siglip", "loss.bias=-10"], ["loss.name=siglip", "loss={name: siglip, bias: -10}"]):
        assert load_experiment(path, overrides).loss == SiglipConfig(name="siglip", bias=-10.0)
    kept = load_experiment(path, ["loss.temperature=0.1", "loss.name=info_nce"])
    assert kept.loss == InfoNceConfig(name="info_nce", temperature=0.1)
    same = load_experiment(path, ["loss.name=alignment_anisotropy"]).loss
    assert isinstance(same, AlignmentAnisotropyConfig) and same.form == "linear"


def test_a_variant_that_is_not_known_or_not_written_as_a_section_is_told_with_the_form_that_works(write: Write) -> None:
    known = f"{', '.join(map(repr, LOSSES))}, got 'infonce'; did you mean info_nce?"
    assert told(write(LEAST + LOSS), "loss=infonce") == [f"--set, loss.name: must be one of {known}"]
    said = "loss: must be a section, got 'siglip'; write {name: siglip}"
    assert told(write(LEAST + "loss: siglip\n")) == [f"exp.yaml:6, {said}"]
    foreign = told(write(LEAST + LOSS), "loss=info_nce", "loss.form=linear")
    assert foreign == [
        "--set, loss.form: unknown key in this variant of loss; it belongs to name: alignment_anisotropy"
    ]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epoch=3", "--set, train.epoch: unknown key; did you mean train.epochs?"),
        ("trian.lr=3", "--set, trian: unknown key; did you mean train?"),
        ("lr=3", "--set, lr: unknown key; did you mean train.lr?"),
        ("train.lr=fast", "--set, train.lr: must be a number, got 'fast'"),
        ("train.lr=-1", "--set, train.lr: must be more than 0.0, got -1"),
        ("loss.pairs=[IT]", "--set, loss.pairs: unknown key in this variant of loss; it belongs to name: info_nce"),
        ("model.width=3", "--set, model: has the value 'tiny-clip', so nothing can be set below it"),
        ("data.root.x=3", "--set, data.root: has the value 'data/openmoji', so nothing can be set below it"),
        ("train.lr", "--set: 'train.lr' is not KEY=VALUE"),
        ("=3", "--set: '=3' is not KEY=VALUE"),
        ("a..b=3", "--set: 'a..b=3' is not KEY=VALUE"),
        ("a\x1b[0m=3", "--set: 'a\\x1b[0m=3' is not KEY=VALUE"),
        ("train=[1, 2", "--set, train: while parsing a flow sequence"),
        ("data.text={title}", "--set, data.text: must be text, got a section; text that holds { or"),
        ("data.text={labels}, {title}", "--set, data.text: expected"),
        ("data.root=a #b", "--set, data.root: what follows # would be taken for a comment"),
        ("data.root=#1", "--set, data.root: what follows # would be taken for a comment"),
        ("data.root=!!str x", "--set, data.root: tag"),
    ],
)
def test_wrong_override_is_told_as_such(write: Write, override: str, said: str) -> None:
    assert told(write(LEAST), override)[0].startswith(said)


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("train:\n  epoch: 3\n", "7, train.epoch: unknown key; did you mean train.epochs?"),
        ("lr: 1e-4\n", "6, lr: unknown key; did you mean train.lr?"),
        (
            "loss:\n  name: info_nce\n  temperature: '1e-4'\n",
            "8, loss.temperature: must be a number, got '1e-4'; this is text, write 1e-4 without quotes",
        ),
        (
            "train:\n  schedule:\n    name: cosine\n    warmup: 2\n",
            "9, train.schedule.warmup: must be at most 1.0, got 2",
        ),
        (
            "loss:\n  name: infonce\n",
            (
                "7, loss.name: must be one of 'alignment_anisotropy', 'info_nce', 'siglip', 'none', got 'infonce'; "
                "did you mean info_nce?"
            ),
        ),
        (
            "loss: {temperature: 1}\n",
            f"6, loss.name: required, and missing: {' or '.join(f'`{name}`' for name in LOSSES)}. Which loss.",
        ),
        (
            "loss:\n  name: info_nce\n  form: linear\n",
            "8, loss.form: unknown key in this variant of loss; it belongs to name: alignment_anisotropy",
        ),
        (
            "train:\n  lr: 0,05\n",
            "7, train.lr: must be a number, got '0,05'; this is text, write 0.05 with a decimal point",
        ),
        ("train: {epochs: 1e3}\n", "6, train.epochs: must be a whole number, got 1000.0; write 1000"),
        (
            "train: {batch_size: 1_000}\n",
            "6, train.batch_size: must be a whole number, got '1_000'; this is text, write 1000 without underscores",
        ),
        ("train:\n  lr: .inf\n", "7, train.lr: must be a finite number, got inf"),
        ("train:\n", "6, train: must be a section, got null; indent its keys below it or remove it"),
        (
            "train:\n  precision: fp_16\n",
            "7, train.precision: must be 'auto', 'fp32', 'bf16' or 'fp16', got 'fp_16'; did you mean fp16?",
        ),
        ("views:\n  flip: no\n", "7, views.flip: must be true or false, got 'no'; write false without quotes"),
        ("views:\n  count: true\n", "7, views.count: must be a whole number, got true"),
        ("views:\n  crop_scale: [0.5]\n", "7, views.crop_scale: must have at least 2 items, got [0.5]"),
        ("eval:\n  recall_at:\n    - 1\n    - 0\n", "9, eval.recall_at[1]: must be at least 1, got 0"),
        (
            "eval: {monitor: recall@7}\n",
            "6, eval.monitor: 'recall@7' is not computed; choose one of recall@1, recall@5, recall@10",
        ),
        (
            "views:\n  count: 1\n",
            "7, views.count: 1 gives no I+, which loss pairs with I+ need; choose pairs without it",
        ),
        (
            "adapter:\n  method: full\n  rank: 4\n",
            "7, adapter.method: full trains everything, so rank would do nothing; remove it",
        ),
    ],
)
def test_wrong_setting_is_told_with_line_key_and_remedy(write: Write, added: str, said: str) -> None:
    assert told(write(LEAST + added)) == [f"exp.yaml:{said}"]


def test_union_alternatives_do_not_appear_in_messages(write: Write) -> None:
    begin, end = "name: x\ntask: image_text\nmodel:", "\ndata: {root: d}\n"
    assert told(write(begin + "\n  scratch: clip\n  width: 7.0\n  widths: 1" + end)) == [
        "exp.yaml:5, model.width: must be a whole number, got 7.0; write 7",
        "exp.yaml:6, model.widths: unknown key; did you mean model.width?",
    ]
    assert told(write(begin + "\n  scratch: clip\n  patch_size: 7" + end)) == [
        "exp.yaml:5, model.patch_size: patch_size 7 does not divide image_size 64"
    ]
    assert told(write(begin + " 5" + end)) == ["exp.yaml:3, model: must be text or a section, got 5; put it in quotes"]


def test_missing_keys_are_named_with_their_meaning(write: Write) -> None:
    lines = told(write("name: x\ntask: image_text\nmodel: m\ndata:\n  fit: pad\n"))
    meaning = str(DataConfig.model_fields["root"].description)
    assert meaning.startswith("Folder of a metadata file and pictures")
    assert lines == [f"exp.yaml:4, data.root: required, and missing: text. {meaning}"]


def test_error_carries_file_line_and_key(write: Write) -> None:
    path = write(LEAST + "train:\n  epoch: 3\n")
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    assert (caught.value.file, caught.value.line, caught.value.key) == (str(path), 7, "train.epoch")


def test_many_problems_are_told_in_few_lines_and_soon(write: Write) -> None:
    lines = told(write(LEAST + "".join(f"k{i}: 1\n" for i in range(9))))
    assert len(lines) == 6
    assert lines[-1] == "and 4 more"
    began = time.perf_counter()
    lines = told(write(LEAST + "eval:\n  recall_at: [" + "a," * 30_000 + "]\n"))
    assert (len(lines), lines[-1]) == (6, "and 29995 more")
    assert time.perf_counter() - began < 5.0


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        (b"name: x\nmodel: \xff\n", 2, "not UTF-8"),
        ("name: x\n".encode("utf-16"), 1, "not UTF-8"),
        (b"#" * (MAX_BYTES + 1), None, "longer than 64 KiB"),
        (b"", None, "holds nothing"),
        (b"# only a comment\n", None, "holds nothing"),
        (b"[1, 2]\n", None, "must be a section"),
        (b"name: x\nname: y\n", 2, "second time"),
    ],
)
def test_file_that_cannot_be_an_experiment_is_refused(
    tmp_path: Path, content: bytes, line: int | None, said: str
) -> None:
    path = tmp_path / "exp.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        load_experiment(path)
    assert (str(caught.value.file), caught.value.line) == (str(path), line)


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "exp.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + LEAST.encode())
    assert load_experiment(path).name == "least"


def test_bare_name_is_found_in_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("quickstart.yaml") == CONFIGS / "quickstart.yaml"
    (tmp_path / "configs").mkdir()
    shutil.copy(CONFIGS / "quickstart.yaml", tmp_path / "configs")
    assert find_config("quickstart.yaml") == Path("configs/quickstart.yaml")
    shutil.copy(CONFIGS / "quickstart.yaml", tmp_path)
    assert find_config(Path("quickstart.yaml")) == Path("quickstart.yaml")


def test_missing_file_names_the_closest_and_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"did you mean quickstart\.yaml\?") as caught:
        load_experiment("quickstar.yaml")
    assert caught.value.file == "quickstar.yaml"
    assert all(name in (caught.value.remedy or "") for name in ("clip_lora_r8.yaml", "quickstart.yaml"))
    with pytest.raises(ConfigError, match="no such experiment file, nor its folder"):
        load_experiment("elsewhere/quickstart.yaml")


def test_missing_file_in_a_folder_is_compared_with_that_folder_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such experiment file$"):
        load_experiment(tmp_path / "quickstart.yaml")
    shutil.copy(CONFIGS / "quickstart.yaml", tmp_path / "mine.yaml")
    with pytest.raises(ConfigError, match=r"did you mean mine\.yaml\?") as caught:
        load_experiment(tmp_path / "mime.yaml")
    assert "clip_lora" not in (caught.value.remedy or "")


def test_missing_config_of_a_run_means_an_incomplete_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run folder without it is incomplete") as caught:
        load_experiment(tmp_path / "config.yaml")
    assert "did you mean" not in str(caught.value)


def test_what_is_no_plain_file_is_refused_without_hanging(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError):
        load_experiment(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match="folder"):
        load_experiment(tmp_path)
    with pytest.raises(ConfigError):
        load_experiment("x" * 5000)
    with pytest.raises(ConfigError) as caught:
        load_experiment("a\x1b\x00")
    assert "\x1b" not in str(caught.value)


def test_fingerprint_tells_what_determines_the_result(write: Write) -> None:
    path = write(LEAST)
    base = fingerprint(load_experiment(path))
    assert len(base) == 64
    assert int(base, 16)
    for same in (
        "name=other",
        "wandb.project=p",
        "train.log_every=1",
        "train.device=cpu",
        "data.cache_dir=/tmp",
        "eval.batch_size=8",
        "train.epochs=10",
        "train={lr: 5e-5}",
    ):
        assert fingerprint(load_experiment(path, [same])) == base, same
    changed = ["seed=1", "model=other", "data.root=other", "train.lr=1e-5", "adapter.rank=4", "views.flip=true"]
    assert len({base, *(fingerprint(load_experiment(path, [one])) for one in changed)}) == 1 + len(changed)


def test_fingerprint_survives_writing(write: Write) -> None:
    experiment = load_experiment(CONFIGS / "tiny_clip_pretrain.yaml")
    assert fingerprint(load_experiment(write(dump_experiment(experiment)))) == fingerprint(experiment)
