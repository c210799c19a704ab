"""Ctrl-C stops a run even where Python drops the exception."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from launcher.interrupt import Interrupts


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


def test_an_interrupt_is_raised_at_once_where_nothing_swallows_it() -> None:
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(10)


def test_the_handler_of_before_is_back_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
