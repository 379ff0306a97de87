"""Signals end training at a step boundary, and anything else at once; real signals, sent to this process."""

from __future__ import annotations

import signal
import threading

import pytest

from vectoruniverse.training.interruption import NOTED, InterruptedTraining, Interruption, Terminated


def test_a_signal_outside_the_loop_is_raised_at_once() -> None:
    with Interruption() as interruption, pytest.raises(KeyboardInterrupt) as caught:
        signal.raise_signal(signal.SIGINT)
    assert caught.type is KeyboardInterrupt
    assert interruption.exit_code == 130
    with Interruption() as interruption, pytest.raises(Terminated):
        signal.raise_signal(signal.SIGTERM)
    assert interruption.exit_code == 143


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_loop_is_noted_and_told(number: signal.Signals, code: int) -> None:
    told, done = [], threading.Event()

    def tell(text: str) -> None:
        told.append(text)
        done.set()

    def loop(interruption: Interruption) -> None:
        with interruption.deferred():
            assert not interruption
            signal.raise_signal(number)
            if interruption:
                raise InterruptedTraining

    with Interruption(tell) as interruption, pytest.raises(InterruptedTraining):
        loop(interruption)
    assert interruption.exit_code == code
    assert done.wait(5)
    assert told == [NOTED]


def test_a_second_signal_is_raised_as_what_it_is() -> None:
    def loop(interruption: Interruption) -> None:
        with interruption.deferred():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("the second one got lost")

    with Interruption() as interruption, pytest.raises(Terminated):
        loop(interruption)
    assert interruption.exit_code == 143


def test_a_signal_that_comes_too_late_for_the_loop_is_raised_behind_it() -> None:
    with Interruption() as interruption, pytest.raises(Terminated), interruption.deferred():
        signal.raise_signal(signal.SIGTERM)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interruption():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
