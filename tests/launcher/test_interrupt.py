"""Ctrl-C, and what schedulers send before they kill, stop a run even where Python drops the exception."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from launcher.interrupt import SIGNALS, Interrupts


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Who starts these tests in the background may have told them to ignore Ctrl-C, and `Interrupts` respects that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class PressedWhileItGoes:
    """Ctrl-C arrives while this object is finalised."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):  # the handler runs between two byte codes
            pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_a_finaliser_swallows_is_raised_at_the_next_check() -> None:
    with Interrupts() as interrupts:
        interrupts.check()
        doomed = PressedWhileItGoes()
        del doomed  # raises KeyboardInterrupt inside __del__, where Python drops it
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupt_is_raised_at_once_where_nothing_swallows_it(number: signal.Signals) -> None:
    with Interrupts(), pytest.raises(KeyboardInterrupt) as caught:
        os.kill(os.getpid(), number)
        threading.Event().wait(10)
    assert caught.value.exit_code == 128 + number


@pytest.mark.parametrize("number", SIGNALS)
def test_the_handler_of_before_is_back_afterwards(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupts():
        assert signal.getsignal(number) is not before
    assert signal.getsignal(number) is before
