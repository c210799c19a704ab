"""Ctrl-C and the signals of schedulers stop a run even where Python drops the exception."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from launcher.interrupt import SIGNALS, Interrupts


@pytest.fixture(autouse=True)
def default_handler() -> Iterator[None]:
    """Sets Python's handler for Ctrl-C, because a shell may have told background processes to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class InterruptedFinaliser:
    """An object that sends Ctrl-C while it is finalised."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):  # the handler runs between two byte codes
            pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_a_finaliser_swallows_is_raised_at_the_next_check() -> None:
    with Interrupts() as interrupts:
        interrupts.check()
        finalised = InterruptedFinaliser()
        del finalised  # raises KeyboardInterrupt inside __del__, where Python drops it
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupt_is_raised_at_once_where_nothing_swallows_it(number: signal.Signals) -> None:
    with Interrupts(), pytest.raises(KeyboardInterrupt) as caught:
        os.kill(os.getpid(), number)
        threading.Event().wait(10)
    assert caught.value.exit_code == 128 + number


@pytest.mark.parametrize("number", SIGNALS)
def test_the_previous_handler_is_restored(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupts():
        assert signal.getsignal(number) is not before
    assert signal.getsignal(number) is before
