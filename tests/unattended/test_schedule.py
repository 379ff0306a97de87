"""vu schedule: the crontab, the timers, the times, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vectoruniverse.cli import app
from vectoruniverse.errors import ConfigError, UserError
from vectoruniverse.unattended import crontab
from vectoruniverse.unattended.cron_time import CronTime
from vectoruniverse.unattended.schedule import Place, Schedule
from vectoruniverse.unattended.systemd import units

pytestmark = pytest.mark.skipif(os.name != "posix", reason="other systems have neither cron nor systemd")

ODD = "50% of 'my' \"files\" $HOME `id` ü"
FOREIGN = (
    b"# mine\n\n0  3 * * *\tcd /x  &&  run 'a b' \\%d # \xff\nMAILTO=\"\"\n#0 1 * * * off  # vectoruniverse: moons\n"
)
FAKE = """#!/bin/sh
table="$FAKE_CRONTAB"
case "$1" in
-l) [ -z "$FAKE_REFUSES" ] || { echo "You (me) are not allowed to use this program (crontab)" >&2; exit 1; }
    [ -f "$table" ] || { echo "no crontab for me" >&2; exit 1; }; cat "$table";;
-) cat > "$table.new"; ! grep -q '^bad' "$table.new" || { echo '"-":1: bad minute' >&2; exit 1; }
   mv "$table.new" "$table";;
esac
"""


@pytest.fixture
def table(tmp_path, monkeypatch):
    """The file behind a program ``crontab`` that is first on the PATH; schedules go to a folder with an odd name."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "crontab").write_text(FAKE)
    (programs / "crontab").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_CRONTAB", str(tmp_path / "table"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ODD))
    return tmp_path / "table"


@pytest.fixture
def vu(tmp_path, monkeypatch, table):
    """The command ``vu schedule`` in a folder with an experiment file."""
    (tmp_path / "moons.yaml").write_text(
        "name: moons\ntask: image_text\nmodel: tiny-clip\ndata:\n  root: pictures\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, code: int = 0) -> str:
        result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["schedule", *arguments])
        assert result.exit_code == code, (result.output, result.exception)
        return result.output

    return call


ADD = ("add", "--config", "moons.yaml", "--at", "0 3 * * *")


def test_a_schedule_is_added_listed_replaced_and_removed_and_foreign_lines_stay_as_they_are(vu, table, tmp_path):
    table.write_bytes(FOREIGN)
    said = vu(*ADD, "--set", "train.lr=1e-3")
    assert "at 03:00 every day, next 20" in said and "replaces" not in said
    line = table.read_bytes().removeprefix(FOREIGN)
    assert line.startswith(b"0 3 * * * ") and line.count(b"\n") == 1 and line.endswith(b"# vectoruniverse: moons\n")
    record = Place.default().read("moons")
    arguments = ["train", "--config", str(tmp_path / "moons.yaml"), "--set", "train.lr=1e-3"]
    assert record.arguments == [*arguments, "--runs-dir", str(tmp_path / "runs")]
    assert Path(record.program).samefile(Path(sys.executable).parent / "vu") and record.folder == str(tmp_path)

    assert "replaces" in vu("add", "--config", "moons.yaml", "--at", "30 4 * * *")
    assert table.read_bytes() == FOREIGN + line.replace(b"0 3 ", b"30 4 ")
    assert "crontab" in (listed := vu("list")) and "at 04:30 every day" in listed and "moons" in listed
    assert json.loads(vu("list", "--json"))[0]["by"] == "crontab"

    vu("add", "--config", "moons.yaml", "--at", "0 5 * * *", "--command", "sweep-rank")
    assert Place.default().names() == ["moons", "moons-sweep-rank"]
    vu("remove", "moons")
    vu("remove", "moons-sweep-rank")
    assert table.read_bytes() == FOREIGN
    assert "no schedules" in vu("list")
    assert "no schedule is called 'moons'" in vu("remove", "moons", code=2)


def test_an_empty_crontab_is_one_to_add_to(vu, table):
    vu(*ADD)
    assert table.read_bytes().count(b"\n") == 1


def test_what_cannot_be_read_is_never_written_over(vu, table, monkeypatch):
    table.write_bytes(FOREIGN)
    monkeypatch.setenv("FAKE_REFUSES", "1")
    assert "not allowed" in vu(*ADD, code=2)
    assert table.read_bytes() == FOREIGN and Place.default().names() == []


def test_a_table_that_crontab_refuses_is_told_in_its_own_words(table):
    with pytest.raises(UserError, match='refused: "-":1: bad minute'):
        crontab.write_crontab(b"bad\n")
    assert not table.exists()


def test_without_a_program_crontab_the_other_way_is_told(vu, monkeypatch):
    monkeypatch.setattr(crontab.shutil, "which", lambda name: None)
    assert "--systemd" in vu(*ADD, code=2)
    assert "systemctl --user enable" in vu(*ADD, "--systemd")


def test_print_shows_everything_and_writes_nothing(vu, table, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert "# vectoruniverse: moons" in vu(*ADD, "--print")
    assert "OnCalendar=*-*-* 03:00:00" in vu(*ADD, "--print", "--systemd")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_file_for_keys_is_for_its_user_alone_and_is_kept(vu):
    vu(*ADD)
    keys = Place.default().environment
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600 and stat.S_IMODE(keys.parent.stat().st_mode) == 0o700
    keys.write_text("WANDB_API_KEY=mine\n")
    vu(*ADD)
    vu("remove", "moons")
    assert keys.read_text() == "WANDB_API_KEY=mine\n"


def test_variables_of_the_shell_that_a_run_would_lack_are_named_and_their_values_not(vu, monkeypatch):
    monkeypatch.setenv("VU_CACHE", "/a/cache")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    said = vu(*ADD)
    assert "VU_CACHE, WANDB_API_KEY" in said.replace("\n", " ") and "secret" not in said and "/a/cache" not in said
    Place.default().environment.write_text("VU_CACHE=/a/cache\nWANDB_API_KEY=secret\n")
    assert "VU_CACHE" not in vu(*ADD)


def test_a_schedule_is_started_by_one_of_the_two(vu, table):
    vu(*ADD)
    vu(*ADD, "--systemd")
    assert table.read_bytes() == b"" and json.loads(vu("list", "--json"))[0]["by"] == "systemd"
    assert "timer is deleted" in vu(*ADD)
    assert json.loads(vu("list", "--json"))[0]["by"] == "crontab"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--at", "0 3 * *"), "has 4 fields, not five"),
        (("--at", "0 3 * * *\n* * * * * rm -r x"), "not five"),
        (("--at", "61 3 * * *"), "bad minute"),
        (("--at", "0 3 31 2 *"), "bad day-of-month"),
        (("--at", "0 3 L * *"), "does not know L"),
        (("--at", "0 3 * * 1#2"), "character"),
        (("--at", "@daily"), "has 1 fields"),
        (("--name", "a b"), "--name"),
        (("--ping", "hc-ping.com/x"), "--ping"),
        (("--set", "train.epoch=3"), "did you mean train.epochs?"),
        (("--config", "nothing.yaml"), "nothing.yaml"),
    ],
)
def test_what_a_night_should_not_have_to_find_out_is_told_at_once(options, says, vu, table):
    said = vu("add", "--config", "moons.yaml", "--at", "0 3 * * *", *options, code=2)
    assert says in said.replace("\n    ", " ") and not table.exists()


@pytest.mark.parametrize("name", [ODD, "plain", "two\ttabs", "%", "a'b%%c"])
def test_the_shell_gets_the_path_whatever_it_has_in_it(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    program = folder / "vu"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$(dirname "$0")/given"\n')
    program.chmod(0o755)
    place = Place(folder)
    schedule = Schedule(name="moons", at="0 3 * * *", program=str(program), arguments=[], folder=str(folder))
    line = crontab.crontab_line(schedule, place).decode()
    assert line.replace(r"\%", "").count("%") == 0  # cron ends a command there
    subprocess.run(["/bin/sh", "-c", line.split(" ", 5)[5].replace(r"\%", "%")], check=True)
    assert (folder / "given").read_text().splitlines() == ["schedule", "run", str(place.record("moons"))]


@pytest.mark.parametrize("name", ["back\\slash", "line\nbreak"])
def test_a_path_that_a_crontab_cannot_hold_is_refused(name, tmp_path):
    schedule = Schedule(name="moons", at="0 3 * * *", program="/bin/vu", arguments=[], folder="/")
    with pytest.raises(ConfigError, match="cannot hold"):
        crontab.crontab_line(schedule, Place(tmp_path / name))


@pytest.mark.parametrize(
    ("cron", "calendar"),
    [
        ("0 3 * * *", "*-*-* 03:00:00"),
        ("*/20 1-3 1,15 6 *", "*-06-01,15 01,02,03:00,20,40:00"),
        ("5 4 * * sun", "Sun *-*-* 04:05:00"),
        ("5 4 * * 7", "Sun *-*-* 04:05:00"),
        ("0 0 */10 * MON-TUE", "Mon,Tue *-*-01,11,21,31 00:00:00"),
        ("* * * * 0-7", "*-*-* *:*:00"),
    ],
)
def test_a_timer_is_due_when_cron_is(cron, calendar):
    parsed = CronTime.parse(cron)
    assert parsed.on_calendar == calendar
    if program := shutil.which("systemd-analyze"):
        moment = datetime(2026, 11, 27, 12, tzinfo=datetime.now().astimezone().tzinfo)
        said = subprocess.run(
            [program, "calendar", "--base-time=2026-11-27 12:00:00", calendar],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert f"{parsed.following(moment):%Y-%m-%d %H:%M:%S}" in said


def test_days_of_month_or_week_are_no_timer():
    with pytest.raises(ConfigError, match="no word for"):
        _ = CronTime.parse("0 3 1 * 1").on_calendar


def test_systemd_takes_the_units_whatever_the_paths_have_in_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "units"))
    program = tmp_path / ODD.replace("$HOME", "x") / "vu"
    program.parent.mkdir()
    shutil.copy("/bin/true", program)
    schedule = Schedule(name="moons", at="0 3 * * *", program=str(program), arguments=[], folder="/")
    written = units(schedule, Place(tmp_path / ODD))
    service = next(content for file, content in written.items() if file.suffix == ".service")
    assert "50%% of" in service and '\\"files\\"' in service and "$$HOME" in service
    if program := shutil.which("systemd-analyze"):
        files = [tmp_path / file.name for file in written]
        for file, content in zip(files, written.values(), strict=True):
            file.write_text(content)
        done = subprocess.run([program, "verify", "--user", *files], capture_output=True, text=True, check=False)
        assert not [line for line in done.stderr.splitlines() if "vectoruniverse-moons" in line], done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cron") or os.geteuid() != 0, reason="needs Debian's cron, and root to start it")
def test_a_real_cron_runs_it_and_the_crontab_is_as_it_was(tmp_path):
    """Waits for the next minute; the crontab of whoever runs this is put back."""
    folder = tmp_path / ODD
    folder.mkdir()
    written = "import os, sys, pathlib; pathlib.Path('done').write_text(os.environ['KEY']); sys.exit(3)"
    place = Place(folder)
    schedule = Schedule(
        name="test-of-cron", at="* * * * *", program=sys.executable, arguments=["-c", written], folder=str(folder)
    )
    place.write(schedule)
    place.environment.write_text("KEY='a b'\n")
    vu = folder / "vu"
    vu.symlink_to(Path(sys.executable).parent / "vu")
    line = crontab.crontab_line(schedule.model_copy(update={"program": str(vu)}), place)
    before = crontab.read_crontab()
    daemon = subprocess.Popen(["cron", "-f"])
    try:
        crontab.write_crontab(crontab.with_line(before, schedule.name, line))
        deadline = time.monotonic() + 150
        while "exit code 3" not in (place.log(schedule.name).read_text() if place.log(schedule.name).exists() else ""):
            assert time.monotonic() < deadline, crontab.read_crontab()
            time.sleep(1)
    finally:
        crontab.write_crontab(before)
        daemon.terminate()
        daemon.wait()
    assert (folder / "done").read_text() == "a b"
    assert crontab.read_crontab() == before
