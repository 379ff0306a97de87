"""Signals end training at a step boundary, and anything else at once; real signals, sent to this process."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from vectoruniverse.training.interruption import (
    InterruptedTraining,
    Interruption,
    Signalled,
    exit_code_of,
    signal_of,
    time_limit,
)

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGUSR1: 138, signal.SIGALRM: 138}


@pytest.mark.parametrize(("number", "code"), CODES.items())
def test_a_signal_outside_the_loop_is_raised_at_once(number: signal.Signals, code: int) -> None:
    with Interruption() as interruption, pytest.raises(KeyboardInterrupt) as caught:
        signal.raise_signal(number)
    assert isinstance(caught.value, Signalled) == (number != signal.SIGINT)
    assert signal_of(caught.value) == number
    assert interruption.exit_code == exit_code_of(number) == code


@pytest.mark.parametrize(("number", "code"), CODES.items())
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
    assert len(told) == 1 and "stopping after this step" in told[0]


def test_a_second_signal_is_raised_as_what_it_is() -> None:
    def loop(interruption: Interruption) -> None:
        with interruption.deferred():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("the second one got lost")

    with Interruption() as interruption, pytest.raises(Signalled):
        loop(interruption)
    assert interruption.exit_code == 143


def test_a_signal_that_comes_too_late_for_the_loop_is_raised_behind_it() -> None:
    with Interruption() as interruption, pytest.raises(Signalled), interruption.deferred():
        signal.raise_signal(signal.SIGTERM)


def test_between_steps_a_signal_is_raised_and_the_second_one_ends_what_saves() -> None:
    def loop(interruption: Interruption) -> None:
        with interruption.deferred():
            with pytest.raises(Signalled), interruption.at_once():
                signal.raise_signal(signal.SIGUSR1)
            assert interruption.exit_code == 138
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the second one got lost")

    with Interruption() as interruption, pytest.raises(KeyboardInterrupt):
        loop(interruption)
    assert interruption.exit_code == 130


def test_what_was_noted_before_is_raised_where_work_may_end() -> None:
    def loop(interruption: Interruption) -> None:
        with interruption.deferred():
            signal.raise_signal(signal.SIGHUP)
            with interruption.at_once():
                pytest.fail("it was noted already")

    with Interruption() as interruption, pytest.raises(Signalled):
        loop(interruption)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in CODES]
    with Interruption(), Interruption():
        assert signal.getsignal(signal.SIGUSR1) != before[3]
    assert [signal.getsignal(number) for number in CODES] == before


def test_under_nohup_a_closed_terminal_ends_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGHUP)
        assert interruption.signal is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_limit_of_time_is_a_signal_that_comes_by_itself_and_is_gone_afterwards() -> None:
    with Interruption() as interruption, pytest.raises(Signalled), time_limit(0.1):
        time.sleep(30)
    assert interruption.exit_code == 138
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_what_ending_takes_is_taken_off_a_limit_once_for_each_context() -> None:
    def left() -> float:
        return signal.getitimer(signal.ITIMER_REAL)[0]

    with Interruption(), time_limit(1000):
        assert left() == pytest.approx(980, abs=1)
        for _ in range(3):  # as the cells of a sweep, one after another
            with Interruption() as cell:
                cell.reserve(100)
                cell.reserve(40)
                assert left() == pytest.approx(880, abs=1)
                cell.reserve(150)
                assert left() == pytest.approx(830, abs=1)
        assert left() == pytest.approx(980, abs=1)
    with Interruption() as free:
        free.reserve(100)
    assert left() == 0, "without a limit there is nothing to take it off"


def test_a_limit_that_ending_needs_all_of_is_told_at_once() -> None:
    with Interruption() as interruption, time_limit(50), pytest.raises(Signalled), interruption.deferred():
        interruption.reserve(60)
    assert interruption
