"""SIGTERM and Ctrl-C: at once where nothing is lost, else after a step."""

import signal

import pytest

from pmal_tf.runtime import signals
from pmal_tf.runtime.signals import Interrupted


@pytest.fixture(autouse=True)
def handlers():
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    signals.leave_on_signals()
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_with_a_sentence(number):
    with pytest.raises(Interrupted) as caught:
        signal.raise_signal(number)
    assert caught.value.exit_status == 128 + number
    assert f"Stopped by {number.name}." in str(caught.value)
    assert "The same command goes on" in str(caught.value)


def test_it_is_no_error_that_somebody_may_expect():
    assert not issubclass(Interrupted, Exception)


def test_while_deferred_it_waits_until_somebody_looks():
    done = []

    def work():
        with signals.deferred():
            assert signals.requested() is None
            signal.raise_signal(signal.SIGTERM)
            done.append("the step")
            raise Interrupted(signals.requested(), "All is kept.")

    with pytest.raises(Interrupted, match=r"All is kept\.") as caught:
        work()
    assert done == ["the step"]
    assert caught.value.number == signal.SIGTERM


def test_nobody_looked_so_it_comes_at_the_end():
    with pytest.raises(Interrupted):
        with signals.deferred():
            signal.raise_signal(signal.SIGINT)
    # The next time starts without it.
    with signals.deferred():
        assert signals.requested() is None


def test_the_second_signal_does_not_wait():
    with signals.deferred():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)
        signals._State.received = None


def test_an_error_while_deferred_is_not_hidden():
    def fails():
        with signals.deferred():
            signal.raise_signal(signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
