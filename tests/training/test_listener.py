from __future__ import annotations

import signal
import threading

import pytest

from flip.training.listener import Interrupted, interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_asks_to_stop_and_a_second_one_stops_at_once(number):
    def handler(*_):
        pytest.fail("nobody takes the signal")

    # The tests themselves may run under nohup.
    before = signal.signal(number, handler)
    try:
        with interrupts() as request:
            assert not request
            signal.raise_signal(number)
            assert request
            assert request.interruption().signal == number
            with pytest.raises(Interrupted):
                signal.raise_signal(number)
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


def test_under_nohup_a_hang_up_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts() as request:
            signal.raise_signal(signal.SIGHUP)
            assert not request
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_nothing_is_changed():
    before, seen = signal.getsignal(signal.SIGINT), []

    def run():
        with interrupts() as request:
            seen.append((signal.getsignal(signal.SIGINT), bool(request)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
