"""How long wandb is waited for, and what becomes of a process of its own that has ended."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any


@contextlib.contextmanager
def service_ended_after(seconds: float) -> Iterator[None]:
    """Within this, wandb's own process is killed once so many seconds are over: it has stopped to answer.

    Whatever waits for it then raises, and Python can end, which would wait for that process for ever.
    """
    from wandb.sdk import wandb_setup

    def process() -> Any:
        connection = wandb_setup.singleton()._connection
        return connection and connection._proc and connection._proc._process

    before = process()  # since a teardown forgets it, and then waits for it

    def end() -> None:
        if (found := before or process()) is not None:
            found.kill()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def forget_ended_service() -> None:
    """Let wandb start its own process anew where the one it knows has ended.

    That is one which an earlier run of this process started, or a parent whose variables were inherited. wandb would
    try to reach it for every later run, and fail.
    """
    path = os.environ.get("WANDB_SERVICE", "").partition("-unix-")[2]
    if not path:
        return
    try:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(1.0)
            asked.connect(path)
    except TimeoutError:
        return  # it is there, and busy
    except OSError:
        import wandb

        with contextlib.suppress(Exception):  # it says that nobody is there
            wandb.teardown()
        os.environ.pop("WANDB_SERVICE", None)


def within(seconds: float, act: Callable[[], object]) -> None:
    """Do something, and wait for it so long at most; if it takes longer, it is left to itself.

    Raises:
        TimeoutError: it is not done yet.
        Exception: whatever it raised.
    """
    done: Future[None] = Future()

    def work() -> None:
        try:
            act()
        except Exception as error:  # handed over to whoever waits
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=work, daemon=True).start()
    try:
        done.result(timeout=seconds)
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"it took longer than {seconds:g} s") from error
