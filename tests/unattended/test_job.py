"""What cron starts: exit codes, keys, logs, pings, signals."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from filelock import FileLock

from vectoruniverse.errors import ConfigError, LockedError
from vectoruniverse.unattended import job
from vectoruniverse.unattended.schedule import Place, Schedule

pytestmark = pytest.mark.skipif(os.name != "posix", reason="other systems have neither cron nor systemd")


@pytest.fixture(autouse=True)
def _own_signals():
    kept = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    for number, handler in kept:
        signal.signal(number, handler)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "schedule")


@pytest.fixture
def write(place, tmp_path):
    """Writes a schedule of a few lines of Python, and returns its record."""

    def make(code, **more):
        settings = {"name": "moons", "at": "0 3 * * *", "program": sys.executable, "folder": str(tmp_path)}
        place.write(Schedule(**{**settings, "arguments": ["-c", code], **more}))
        return place.record("moons")

    return make


@pytest.fixture
def pinged():
    """A server of pings: its address, and the paths that were asked for."""
    paths = []

    class Checks(BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            self.send_response(404 if "refused" in self.path else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Checks) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()
        thread.join()


def test_a_run_has_its_folder_its_keys_and_its_log(write, place, tmp_path):
    record = write(
        "import os, sys; print(os.getcwd(), os.environ['KEY'], os.environ['B']); print('x', file=sys.stderr)"
    )
    place.environment.write_text("# mine\n\nKEY=a=b\nexport B = 'c d'\nhunter2\n".replace("B =", "B="))
    assert job.run_job(record) == 0
    log = place.log("moons").read_text()
    assert f"{tmp_path} a=b c d\n" in log and "\nx\n" in log and "exit code 0" in log
    assert "environment:5 is no NAME=VALUE" in log and "hunter2" not in log and "chmod" not in log


def test_keys_that_others_can_read_are_told(write, place):
    record = write("")
    place.environment.chmod(0o644)
    job.run_job(record)
    assert "chmod 600" in place.log("moons").read_text()


@pytest.mark.parametrize(
    ("code", "path"), [("", ""), ("import sys; sys.exit(75)", "/75"), ("import os; os.kill(os.getpid(), 9)", "/137")]
)
def test_pings_tell_the_start_and_the_end(code, path, write, pinged):
    address, paths = pinged
    assert job.run_job(write(code, ping=f"{address}/uuid")) == int(path[1:] or 0)
    assert paths == ["/uuid/start", f"/uuid{path}"]


def test_pings_that_fail_change_nothing_but_the_log(write, place, pinged, monkeypatch):
    assert job.run_job(write("", ping=f"{pinged[0]}/refused")) == 0
    assert place.log("moons").read_text().count("ping: answered with 404") == 2
    monkeypatch.setattr(job, "PING_SECONDS", 0.2)
    assert job.run_job(write("", ping="http://127.0.0.1:1")) == 0
    assert place.log("moons").read_text().count("ping: no answer") == 2


def test_a_program_that_is_gone_is_told_and_pinged(write, place, pinged, tmp_path):
    address, paths = pinged
    for gone in ({"program": str(tmp_path / "vu")}, {"folder": str(tmp_path / "away")}):
        with pytest.raises(ConfigError, match="cannot be started"):
            job.run_job(write("", ping=address, **gone))
    assert paths == ["/start", "/2"] * 2 and "cannot be started" in place.log("moons").read_text()


def test_a_run_that_is_still_going_on_is_not_joined_by_another(write, place, pinged):
    address, paths = pinged
    record = write("", ping=address)
    with FileLock(place.folder / "moons.lock"), pytest.raises(LockedError, match="still going on"):
        job.run_job(record)
    assert paths == ["/75"] and "left out" in place.log("moons").read_text()


def test_the_log_is_bounded(write, place, monkeypatch):
    monkeypatch.setattr(job, "LOG_BYTES", 2_000)
    monkeypatch.setattr(job, "LOG_FILES", 3)
    job.run_job(write("for i in range(2_000): print('line', i)"))
    logs = sorted(place.folder.glob("moons.log*"))
    assert len(logs) == 3 and sum(log.stat().st_size for log in logs) <= 6_000
    assert "line 1999\n" in place.log("moons").read_text()
    assert stat.S_IMODE(place.folder.stat().st_mode) == 0o700


def test_what_outlives_the_command_is_not_waited_for(write, monkeypatch):
    monkeypatch.setattr(job, "_AFTERWARDS", 0.1)
    begun = time.monotonic()
    job.run_job(write("import subprocess; subprocess.Popen(['sleep', '20'])"))
    assert time.monotonic() - begun < 15


def test_sigterm_reaches_the_command_once_and_its_exit_code_is_the_jobs(write, place):
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('to' + 'ld', flush=True), sys.exit(143)))\n"
        "print('re' + 'ady', flush=True)\ntime.sleep(60)"
    )
    command = [sys.executable, "-m", "vectoruniverse.cli", "schedule", "run", str(write(code))]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while "ready" not in (place.log("moons").read_text() if place.log("moons").exists() else ""):
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=60)[1]
    assert child.returncode == 143 and "left with 143" in said
    assert place.log("moons").read_text().count("told") == 1
