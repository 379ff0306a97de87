"""Signals that ask a process to end: training ends at the next step, with a checkpoint, anything else at once.

They are Ctrl-C (SIGINT), SIGTERM, SIGHUP of a terminal that was closed, and SIGUSR1, with which Slurm warns of a limit.
A limit that a person sets (``time_limit``) is a timer of the system, whose SIGALRM is taken as that warning.
"""

from __future__ import annotations

import _thread
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

from vectoruniverse.errors import ConfigError

_WORDS = {
    "SIGINT": "interrupted",
    "SIGTERM": "terminated",
    "SIGHUP": "the terminal was closed",
    "SIGUSR1": "warned of a limit (SIGUSR1)",
    "SIGALRM": "the time is up (--max-time)",
}
"""Signals by name, since a system may lack some, and what they mean."""

_AT_ONCE = 1e-6
"""Seconds; 0 would switch a timer off."""

_MARGIN, _LONGEST_MARGIN = 0.02, 30.0
"""Share of a limit, and seconds at most, that are left for leaving: trackers take their leave, files are closed."""


class InterruptedTraining(Exception):  # noqa: N818  (not an error: somebody asked for it)
    """Training was asked to stop; the last checkpoint holds everything done so far.

    Attributes:
        remedy: how to go on.
        exit_code: 128 and the number of the signal, as ``exit_code_of`` gives it.
    """

    remedy: str | None = None
    exit_code: int = 130


class Signalled(KeyboardInterrupt):
    """A signal came for which Ctrl-C would raise a plain ``KeyboardInterrupt``.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def signal_of(stopped: KeyboardInterrupt) -> int:
    """Number of the signal that raised an interrupt."""
    return stopped.number if isinstance(stopped, Signalled) else signal.SIGINT


def exit_code_of(number: int) -> int:
    """What shells expect of a process that a signal ended; a limit of ours counts as Slurm's warning of its own."""
    return 128 + (signal.SIGUSR1 if signal.Signals(number).name == "SIGALRM" else number)


def words_of(number: int) -> str:
    """What a signal means, in words."""
    return _WORDS[signal.Signals(number).name]


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Be told by SIGALRM, which an ``Interruption`` takes as a signal like others, shortly before so much time is over.

    Raises:
        ConfigError: this system has no timers.
    """
    if seconds is None:
        yield
        return
    if not hasattr(signal, "setitimer"):
        raise ConfigError("this system has no timers", key="--max-time", remedy="end it from outside")
    _set_timer(seconds - min(_MARGIN * seconds, _LONGEST_MARGIN))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _set_timer(seconds: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, max(seconds, _AT_ONCE))


class Interruption:
    """Context in which signals are raised, except in ``deferred``, where the first one is noted.

    SIGHUP stays ignored where it is, as under ``nohup``.

    Args:
        tell: is given what came when a signal is noted, in a thread of its own.

    Attributes:
        signal: number of the last signal that came, or None.
    """

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        self.signal: int | None = None
        self._tell = tell
        self._deferring = self._noted = False
        self._previous: dict[int, Any] = {}
        self._reserved = 0.0

    def __bool__(self) -> bool:
        return self._noted

    @property
    def exit_code(self) -> int:
        """Of the last signal that came."""
        return exit_code_of(self.signal or signal.SIGINT)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Note the first signal for whoever asks ``bool()``; nobody having acted on it, it is raised at the end.

        Raises:
            KeyboardInterrupt: a signal came after it was last asked for, or a second one.
        """
        with self._defer(True):
            yield
        if self._noted:
            self._raise()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within ``deferred``: raise the first signal too, where work may end at any moment."""
        with self._defer(False):
            if self._noted:
                self._raise()
            yield

    @contextlib.contextmanager
    def _defer(self, wanted: bool) -> Iterator[None]:
        before, self._deferring = self._deferring, wanted
        try:
            yield
        finally:
            self._deferring = before

    def reserve(self, seconds: float) -> None:
        """Have a time limit tell so much earlier than it would, until the context is left: ending takes that long."""
        if seconds > self._reserved and hasattr(signal, "setitimer"):
            left, _ = signal.getitimer(signal.ITIMER_REAL)
            if left:
                _set_timer(left - (seconds - self._reserved))
                self._reserved = seconds

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        is_first, self._noted = not self._noted, True
        if not (self._deferring and is_first):
            self._raise()
        if self._tell is not None:
            # a handler may have cut into the very write it would do here, so it must not write itself
            _thread.start_new_thread(self._tell, (f"{words_of(number)}: stopping after this step; once more: at once",))

    def _raise(self) -> None:
        assert self.signal is not None, "one came"
        raise KeyboardInterrupt if self.signal == signal.SIGINT else Signalled(self.signal)

    def __enter__(self) -> Interruption:
        # only the main thread may set handlers; elsewhere (a notebook's worker, say) signals go their usual way
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in _WORDS if hasattr(signal, name)):
                if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._reserved and (left := signal.getitimer(signal.ITIMER_REAL)[0]):
            _set_timer(left + self._reserved)
