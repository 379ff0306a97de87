"""Ctrl-C and SIGTERM end training at the next step boundary, with a checkpoint; anywhere else they end it at once."""

from __future__ import annotations

import _thread
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

NOTED = "stopping after this step; once more to stop now"
"""What a person is told whose signal was noted."""


class InterruptedTraining(Exception):  # noqa: N818  (not an error: somebody asked for it)
    """Training was asked to stop; the last checkpoint holds everything done so far.

    Attributes:
        remedy: how to go on.
        exit_code: 130 after SIGINT, 143 after SIGTERM.
    """

    remedy: str | None = None
    exit_code: int = 130


class Terminated(KeyboardInterrupt):
    """SIGTERM, where Ctrl-C would raise a ``KeyboardInterrupt``."""


class Interruption:
    """Context in which SIGINT and SIGTERM are raised, except in ``deferred``, where the first one is noted.

    Args:
        tell: is given ``NOTED`` when a signal is noted, in a thread of its own.

    Attributes:
        signal: number of the last signal that came, or None.
    """

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        self.signal: int | None = None
        self._tell = tell
        self._deferring = self._noted = False
        self._previous: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self._noted

    @property
    def exit_code(self) -> int:
        """What shells expect of a process that a signal ended: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + (self.signal or signal.SIGINT)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Note the first signal for whoever asks ``bool()``; nobody having acted on it, it is raised at the end.

        Raises:
            KeyboardInterrupt: a signal came after it was last asked for, or a second one.
        """
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self._noted:
            self._raise()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if not self._deferring or self._noted:
            self._raise()
        self._noted = True
        if self._tell is not None:
            # a handler may have cut into the very write it would do here, so it must not write itself
            _thread.start_new_thread(self._tell, (NOTED,))

    def _raise(self) -> None:
        raise Terminated if self.signal == signal.SIGTERM else KeyboardInterrupt

    def __enter__(self) -> Interruption:
        # only the main thread may set handlers; elsewhere (a notebook's worker, say) signals go their usual way
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
